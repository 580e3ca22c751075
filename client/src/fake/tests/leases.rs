//! Clients with write leases against one without: the same calls give the same answers, whoever makes them, and the
//! same tree in the end.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use weft_core::ids::Ino;

use super::files::name;
use super::model::run;
use crate::fake::{Fake, Trouble};
use crate::{Client, Cred, Error, Found, Kind, RenameMode, Result, SetAttr, Volume};

const PATHS: [&str; 9] = ["d", "e", "d/a", "d/b", "e/a", "d/s", "d/s/a", "d/s/b", "d/s/t"];

#[derive(Clone, Debug)]
enum Call {
    Mkdir(usize),
    Write { path: usize, len: usize, append: bool },
    Read(usize),
    Rename(usize, usize),
    Link(usize, usize),
    Unlink(usize),
    Rmdir(usize),
    Chmod(usize, u16),
    Truncate(usize, u64),
    CopyRange(usize, usize),
    List(usize),
    Stat(usize),
    Fsync(usize),
    Idle,
}

fn call() -> impl Strategy<Value = Call> {
    let path = || 0..PATHS.len();
    let len = prop_oneof![6 => 1usize..6_000, 1 => 100_000usize..400_000];
    prop_oneof![
        6 => path().prop_map(Call::Mkdir),
        9 => (path(), len, any::<bool>()).prop_map(|(path, len, append)| Call::Write { path, len, append }),
        3 => path().prop_map(Call::Read),
        3 => (path(), path()).prop_map(|(from, to)| Call::Rename(from, to)),
        1 => (path(), path()).prop_map(|(from, to)| Call::Link(from, to)),
        2 => path().prop_map(Call::Unlink),
        1 => path().prop_map(Call::Rmdir),
        2 => (path(), 0u16..8).prop_map(|(path, mode)| Call::Chmod(path, 0o640 + mode)),
        1 => (path(), 0u64..5_000).prop_map(|(path, size)| Call::Truncate(path, size)),
        1 => (path(), path()).prop_map(|(from, to)| Call::CopyRange(from, to)),
        2 => path().prop_map(Call::List),
        2 => path().prop_map(Call::Stat),
        1 => path().prop_map(Call::Fsync),
        1 => Just(Call::Idle),
    ]
}

/// What a caller can tell the outcome by.
type Seen = std::result::Result<String, i32>;

/// Of a path the inode above it, and its last name.
async fn above(volume: &Volume, path: &str) -> Result<(Ino, crate::Name)> {
    let mut dir = Ino::ROOT;
    let mut parts = path.split('/').peekable();
    loop {
        let part = name(parts.next().expect("a path"));
        if parts.peek().is_none() {
            return Ok((dir, part));
        }
        dir = found(volume, dir, part).await?;
    }
}

async fn found(volume: &Volume, dir: Ino, part: crate::Name) -> Result<Ino> {
    match volume.lookup(&Cred::root(), dir, part).await? {
        Found::Inode(attr) => Ok(attr.ino),
        Found::Junction(_) => panic!("there are none"),
    }
}

async fn at(volume: &Volume, path: &str) -> Result<Ino> {
    let (dir, part) = above(volume, path).await?;
    found(volume, dir, part).await
}

async fn make(volume: &Volume, call: &Call, nth: u8) -> Seen {
    tried(volume, call, nth).await.map_err(|error| error.errno())
}

async fn tried(volume: &Volume, call: &Call, nth: u8) -> Result<String> {
    let cred = Cred::root();
    let done = Ok(String::new());
    match *call {
        Call::Mkdir(path) => {
            let (dir, part) = above(volume, PATHS[path]).await?;
            volume.mkdir(&cred, dir, part, 0o755).await?;
            done
        }
        Call::Write { path, len, append } => {
            let (dir, part) = above(volume, PATHS[path]).await?;
            let (file, ..) = volume.create_file(&cred, dir, part, 0o644, false).await?;
            let data = Bytes::from(vec![nth; len]);
            match append {
                true => drop(file.append(data).await?),
                false => file.write_at(u64::from(nth) * 7, data).await?,
            }
            file.close().await?;
            Ok(volume.getattr(&cred, file.ino()).await?.size.to_string())
        }
        Call::Read(path) => read(volume, at(volume, PATHS[path]).await?).await,
        Call::Rename(from, to) => {
            let ((dir, part), (new_dir, new_part)) =
                (above(volume, PATHS[from]).await?, above(volume, PATHS[to]).await?);
            volume.rename(&cred, dir, part, new_dir, new_part, RenameMode::Replace).await?;
            done
        }
        Call::Link(from, to) => {
            let (ino, (dir, part)) = (at(volume, PATHS[from]).await?, above(volume, PATHS[to]).await?);
            Ok(volume.link(&cred, ino, dir, part).await?.nlink.to_string())
        }
        Call::Unlink(path) => {
            let (dir, part) = above(volume, PATHS[path]).await?;
            Ok(volume.unlink(&cred, dir, part).await?.nlink.to_string())
        }
        Call::Rmdir(path) => {
            let (dir, part) = above(volume, PATHS[path]).await?;
            volume.rmdir(&cred, dir, part).await?;
            done
        }
        Call::Chmod(path, mode) => {
            let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
            Ok(volume.setattr(&cred, at(volume, PATHS[path]).await?, set).await?.mode.to_string())
        }
        Call::Truncate(path, size) => {
            let ino = at(volume, PATHS[path]).await?;
            Ok(volume.truncate(&cred, ino, size, SetAttr::default()).await?.size.to_string())
        }
        Call::CopyRange(from, to) => {
            let (from, to) = (at(volume, PATHS[from]).await?, at(volume, PATHS[to]).await?);
            if from == to {
                return done;
            }
            let (copied, attr) = volume.copy_range(&cred, from, 10, volume, to, 100, 3_000).await?;
            Ok(format!("{copied} {}", attr.size))
        }
        Call::List(path) => {
            let ino = at(volume, PATHS[path]).await?;
            let listing = volume.readdir(&cred, ino, None, 100, true).await?;
            let of = |entry: &crate::ListedEntry| (entry.name.clone(), entry.attr.as_ref().map(|attr| attr.size));
            Ok(format!("{:?}", listing.entries.iter().map(of).collect::<Vec<_>>()))
        }
        Call::Stat(path) => {
            let attr = volume.getattr(&cred, at(volume, PATHS[path]).await?).await?;
            Ok(format!("{:?} {} {} {:o}", attr.kind, attr.size, attr.nlink, attr.mode))
        }
        Call::Fsync(path) => {
            let file = volume.open(&cred, at(volume, PATHS[path]).await?, true, true).await?;
            file.flush().await?;
            done
        }
        Call::Idle => {
            tokio::time::sleep(Duration::from_millis(700)).await;
            done
        }
    }
}

async fn read(volume: &Volume, ino: Ino) -> Result<String> {
    let file = volume.open(&Cred::root(), ino, true, false).await?;
    let bytes = file.read_at(0, 1 << 20).await?;
    let sum = bytes.iter().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    Ok(format!("{} {sum}", bytes.len()))
}

/// Everything there is, by path.
async fn tree(volume: &Volume) -> BTreeMap<String, String> {
    let mut seen = BTreeMap::new();
    let mut dirs = vec![(String::new(), Ino::ROOT)];
    while let Some((path, dir)) = dirs.pop() {
        let listing = volume.readdir(&Cred::root(), dir, None, 100, true).await.expect("listed");
        for entry in listing.entries {
            let path = format!("{path}/{}", String::from_utf8_lossy(entry.name.as_bytes()));
            let attr = entry.attr.expect("asked for");
            let content = match attr.kind {
                Kind::File => read(volume, attr.ino).await.expect("read"),
                _ => String::new(),
            };
            seen.insert(
                path.clone(),
                format!("{:?} {} {} {:o} {content}", attr.kind, attr.size, attr.nlink, attr.mode),
            );
            if attr.kind == Kind::Directory {
                dirs.push((path, attr.ino));
            }
        }
    }
    seen
}

async fn leasing(fake: &Fake) -> Client {
    fake.client_with(|options| options.write_leases = true).await
}

fn try_all(seed: u64, trouble: Trouble, calls: Vec<(bool, Call)>) {
    run(async {
        let (fake, plain) = (Fake::new(seed), Fake::new(seed));
        let clients = [leasing(&fake).await, leasing(&fake).await];
        let mut volumes = Vec::new();
        for client in &clients {
            volumes.push(client.volume("root").await.expect("there"));
        }
        let expected = plain.client().await.volume("root").await.expect("there");
        fake.trouble(trouble);
        for (nth, (second, call)) in calls.iter().enumerate() {
            let seen = make(&volumes[usize::from(*second)], call, nth as u8).await;
            assert_eq!(seen, make(&expected, call, nth as u8).await, "{nth}: {call:?}");
        }
        fake.trouble(Trouble::default());
        let third = fake.client().await.volume("root").await.expect("there");
        assert_eq!(tree(&third).await, tree(&expected).await, "to somebody else");
        for client in clients {
            client.close().await.expect("closed");
        }
        fake.check();
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn leases_change_no_answer(
        seed in any::<u64>(),
        calls in prop::collection::vec((prop::bool::weighted(0.15), call()), 1..60),
    ) {
        try_all(seed, Trouble::default(), calls);
    }

    #[test]
    fn nor_with_trouble_on_the_way(
        seed in any::<u64>(),
        calls in prop::collection::vec((prop::bool::weighted(0.15), call()), 1..60),
    ) {
        try_all(seed, Trouble::everywhere(), calls);
    }
}

async fn new_dir(volume: &Volume) -> Ino {
    volume.mkdir(&Cred::root(), Ino::ROOT, name("dir"), 0o755).await.expect("made").ino
}

async fn put(volume: &Volume, dir: Ino, called: &str, len: usize) -> Result<Ino> {
    let (file, ..) = volume.create_file(&Cred::root(), dir, name(called), 0o644, true).await?;
    file.write_at(0, Bytes::from(vec![7; len])).await?;
    file.close().await?;
    Ok(file.ino())
}

#[test]
fn many_small_files_go_out_in_few_requests() {
    run(async {
        let fake = Fake::new(50);
        let client = leasing(&fake).await;
        let volume = client.volume("root").await.expect("there");
        let dir = new_dir(&volume).await;
        let before = fake.counts();
        for n in 0..1000 {
            assert!(volume.lookup(&Cred::root(), dir, name(&format!("{n}"))).await.is_err());
            put(&volume, dir, &format!("{n}"), 2_000).await.expect("made");
        }
        volume.sync().await.expect("durable");
        let after = fake.counts();
        assert!(after.queries - before.queries <= 1, "nothing is asked of a directory once it is leased");
        assert!(after.applies - before.applies <= 20, "{} requests", after.applies - before.applies);
        let stats = client.lease_stats();
        assert_eq!((stats.taken, stats.held, stats.recalled, stats.lost), (2, 2000, 0, 0), "{stats:?}");
        assert_eq!(fake.stat(volume.id(), dir).size, 1000);
        client.close().await.expect("closed");
        fake.check();
    });
}

#[test]
fn what_is_held_back_is_there_within_a_second_without_being_asked_for() {
    run(async {
        let fake = Fake::new(51);
        let client = leasing(&fake).await;
        let volume = client.volume("root").await.expect("there");
        let dir = new_dir(&volume).await;
        let ino = put(&volume, dir, "file", 300_000).await.expect("made");
        assert_eq!(fake.stat(volume.id(), dir).size, 0, "it is held back");
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert_eq!(fake.stat(volume.id(), ino).size, 300_000);
    });
}

#[test]
fn a_lost_lease_is_an_error_for_whoever_asks_for_durability_once() {
    run(async {
        let fake = Fake::new(52);
        let client = leasing(&fake).await;
        let volume = client.volume("root").await.expect("there");
        let dir = new_dir(&volume).await;
        put(&volume, dir, "file", 10).await.expect("made");
        fake.revoke(volume.id(), dir);
        assert_eq!(volume.sync().await.expect_err("it is lost").errno(), 5);
        volume.sync().await.expect("it was told");
        let unknown: Result<Ino> = at(&volume, "dir/file").await;
        assert!(matches!(unknown, Err(Error::Refused(crate::Refusal::NoEntry))), "{unknown:?}");
        put(&volume, dir, "file", 10).await.expect("made at the server");
        fake.check();
    });
}

#[test]
fn whose_file_is_lost_is_told_and_nobody_else() {
    run(async {
        let fake = Fake::new(55);
        let client = leasing(&fake).await;
        let volume = client.volume("root").await.expect("there");
        let dir = new_dir(&volume).await;
        let create = |dir, called: &'static str| {
            let volume = volume.clone();
            async move { volume.create_file(&Cred::root(), dir, name(called), 0o644, true).await.expect("made").0 }
        };
        let (lost, other) = (create(dir, "lost").await, create(Ino::ROOT, "other").await);
        lost.flush().await.expect("made and durable");
        lost.write_at(0, Bytes::from_static(b"lost")).await.expect("written");
        lost.close().await.expect("held back");
        fake.revoke(volume.id(), dir);
        tokio::time::sleep(Duration::from_millis(500)).await;
        other.write_at(0, Bytes::from_static(b"other")).await.expect("written");
        other.flush().await.expect("it has nothing to do with it");
        assert_eq!(lost.flush().await.expect_err("its bytes are lost").errno(), 5);
        let session = client.shared.session(volume.info().space).await.expect("open");
        let again = volume.mkdir(&Cred::root(), Ino::ROOT, name("again"), 0o755).await.expect("made").ino;
        let gone = create(again, "gone").await;
        fake.end_session(session.client, session.space);
        assert!(at(&volume, "other").await.is_ok(), "in a new session");
        assert_eq!(gone.flush().await.expect_err("it went with the session").errno(), 5);
    });
}

#[test]
fn what_is_asked_of_a_leased_directory_as_of_a_file_is_refused_at_once() {
    run(async {
        let fake = Fake::new(58);
        let client = leasing(&fake).await;
        let volume = client.volume("root").await.expect("there");
        for (nth, (of_source, of_target)) in [(true, false), (false, true), (true, true)].into_iter().enumerate() {
            let cred = Cred::root();
            let dir = volume.mkdir(&cred, Ino::ROOT, name(&format!("{nth}")), 0o755).await.expect("made").ino;
            let file = put(&volume, dir, "file", 10_000).await.expect("made");
            let of = |is_dir| if is_dir { dir } else { file };
            let copied = volume.copy_range(&cred, of(of_source), 0, &volume, of(of_target), 0, 100).await;
            assert_eq!(copied.expect_err("not a file").errno(), 21);
            let allocated =
                volume.allocate(&cred, of(of_target), weft_core::namespace::op::AllocateMode::Reserve, 0, 9).await;
            assert_eq!(allocated.map_err(|error| error.errno()).map(drop), if of_target { Err(21) } else { Ok(()) });
        }
        client.close().await.expect("closed");
        fake.check();
    });
}

#[test]
fn who_opens_a_file_that_was_closed_waits_for_its_bytes() {
    run(async {
        let fake = Fake::new(56);
        let client = leasing(&fake).await;
        let volume = client.volume("root").await.expect("there");
        let other = fake.client().await.volume("root").await.expect("there");
        let dir = new_dir(&volume).await;
        put(&volume, dir, "large", 7_000_000).await.expect("closed");
        let ino = at(&other, "dir/large").await.expect("found");
        let file = other.open(&Cred::root(), ino, true, false).await.expect("opened");
        assert_eq!(file.attr().await.expect("known").size, 7_000_000);
        assert_eq!(client.lease_stats().recalled, 1);
        client.close().await.expect("closed");
        fake.check();
    });
}

#[test]
fn versions_that_were_lost_are_not_taken_for_those_of_others() {
    run(async {
        let fake = Fake::new(57);
        let client = leasing(&fake).await;
        let volume = client.volume("root").await.expect("there");
        let other = fake.client().await.volume("root").await.expect("there");
        let dir = new_dir(&volume).await;
        let (file, ..) = volume.create_file(&Cred::root(), dir, name("file"), 0o644, true).await.expect("made");
        file.flush().await.expect("durable");
        for _ in 0..3 {
            file.write_at(0, Bytes::from_static(b"lost")).await.expect("written");
            file.close().await.expect("held back");
        }
        fake.revoke(volume.id(), dir);
        let theirs = other.open(&Cred::root(), file.ino(), true, true).await.expect("opened");
        for _ in 0..3 {
            theirs.write_at(0, Bytes::from_static(b"theirs")).await.expect("written");
            theirs.close().await.expect("closed");
        }
        let before = client.losses();
        assert!(file.flush().await.is_err(), "it is lost");
        assert!(client.losses() > before);
        assert_eq!(&file.read_at(0, 10).await.expect("read")[..], b"theirs");
        file.write_at(0, Bytes::from_static(b"mine")).await.expect("written");
        file.flush().await.expect("durable");
        assert_eq!(&file.read_at(0, 10).await.expect("read")[..], b"miners");
        assert!(volume.sync().await.is_err(), "told once of the volume, too");
        client.close().await.expect("closed");
        fake.check();
    });
}

#[test]
fn an_ended_session_loses_what_it_held_back_and_says_so() {
    run(async {
        let fake = Fake::new(53);
        let client = leasing(&fake).await;
        let volume = client.volume("root").await.expect("there");
        let dir = new_dir(&volume).await;
        put(&volume, dir, "file", 10).await.expect("made");
        let session = client.shared.session(volume.info().space).await.expect("open");
        fake.end_session(session.client, session.space);
        assert_eq!(volume.sync().await.expect_err("it is lost").errno(), 5);
        assert!(at(&volume, "dir/file").await.is_err());
        put(&volume, dir, "file", 10).await.expect("made in a new session");
    });
}

#[test]
fn a_directory_given_up_is_left_to_the_server_and_a_new_one_below_is_not() {
    run(async {
        let fake = Fake::new(54);
        let client = leasing(&fake).await;
        let volume = client.volume("root").await.expect("there");
        let other = fake.client().await.volume("root").await.expect("there");
        let dir = new_dir(&volume).await;
        put(&volume, dir, "a", 10).await.expect("made");
        assert!(at(&other, "dir/a").await.is_ok(), "at once for others");
        assert_eq!(client.lease_stats().recalled, 1);
        put(&volume, dir, "b", 10).await.expect("made");
        assert_eq!(fake.stat(volume.id(), dir).size, 2, "at the server");
        let below = volume.mkdir(&Cred::root(), dir, name("below"), 0o755).await.expect("made").ino;
        put(&volume, below, "c", 10).await.expect("made");
        assert_eq!((fake.stat(volume.id(), below).size, client.lease_stats().taken), (0, 2));
    });
}
