//! What single calls cost and do.

use std::time::Duration;

use bytes::Bytes;
use weft_core::ids::ClientId;
use weft_core::namespace::op::{Commit, Op};

use super::model::run;
use crate::fake::{Fake, Trouble};
use crate::{
    Client, ClientParts, Cred, Error, File, Found, Ino, Name, RenameMode, SetAttr, SetTime, SlotRef, Timestamp, Volume,
};

pub(super) fn name(text: &str) -> Name {
    Name::parse(text.to_string()).expect("a name")
}

pub(super) async fn new_file(volume: &Volume, text: &str) -> File {
    volume.create_file(&Cred::root(), Ino::ROOT, name(text), 0o644, true).await.expect("created").0
}

async fn root(fake: &Fake) -> (Client, Volume) {
    let client = fake.client().await;
    let volume = client.volume("root").await.expect("there");
    (client, volume)
}

#[test]
fn a_small_write_and_a_flush_cost_one_commit_and_no_chunk() {
    run(async {
        let fake = Fake::new(1);
        let (_client, volume) = root(&fake).await;
        let file = new_file(&volume, "small").await;
        let before = fake.counts();
        file.write_at(8192, Bytes::from(vec![7; 4096])).await.expect("written");
        file.flush().await.expect("flushed");
        let after = fake.counts();
        assert_eq!((after.applies - before.applies, after.puts - before.puts), (1, 0));
        assert_eq!(after.queries, before.queries);
        file.flush().await.expect("nothing to do");
        assert_eq!(fake.counts(), after);
        assert_eq!(file.read_at(8190, 10).await.expect("read")[..], [0, 0, 7, 7, 7, 7, 7, 7, 7, 7]);
        assert_eq!(fake.counts().queries, before.queries, "the map is known from the commit");
    });
}

#[test]
fn flushes_that_wait_for_each_other_share_commits() {
    run(async {
        let fake = Fake::new(1);
        let (_client, volume) = root(&fake).await;
        let file = new_file(&volume, "shared").await;
        let before = fake.counts();
        for at in 0..8 {
            file.write_at(at * 8192, Bytes::from(vec![7; 4096])).await.expect("written");
        }
        let flushes = futures::future::join_all((0..8).map(|_| file.flush()));
        flushes.await.into_iter().for_each(|flushed| flushed.expect("flushed"));
        assert_eq!(fake.counts().commits - before.commits, 1, "what the first one committed needs no other");
    });
}

#[test]
fn a_long_write_goes_up_in_full_chunks_and_one_commit() {
    run(async {
        let fake = Fake::new(2);
        let (_client, volume) = root(&fake).await;
        let file = new_file(&volume, "long").await;
        let before = fake.counts();
        for at in 0..40u64 {
            file.write_at(at << 20, Bytes::from(vec![at as u8; 1 << 20])).await.expect("written");
        }
        assert!(fake.counts().puts - before.puts >= 7, "chunks go up while writing");
        file.flush().await.expect("flushed");
        let after = fake.counts();
        assert_eq!((after.puts - before.puts, after.commits - before.commits), (10, 1));
        for at in (0..40u64).step_by(2) {
            let bytes = file.read_at(at << 20, 2 << 20).await.expect("read");
            assert_eq!((bytes[0], bytes[2 << 20 >> 1]), (at as u8, at as u8 + 1));
        }
        let read = fake.counts();
        assert_eq!(read.got_bytes - after.got_bytes, 40 << 20, "nothing is fetched twice");
    });
}

#[test]
fn a_random_read_moves_one_block() {
    run(async {
        let fake = Fake::new(3);
        let (_client, volume) = root(&fake).await;
        let file = new_file(&volume, "random").await;
        file.write_at(0, Bytes::from(vec![1; 9 << 20])).await.expect("written");
        file.close().await.expect("closed");
        let file = volume.open(&Cred::root(), file.ino(), true, false).await.expect("opened");
        let before = fake.counts();
        for at in [7u64 << 20, 3 << 20, 6 << 20, 1 << 20] {
            assert_eq!(file.read_at(at + 100, 200).await.expect("read")[..], [1; 200]);
        }
        let after = fake.counts();
        assert_eq!((after.gets - before.gets, after.got_bytes - before.got_bytes), (4, 4 * 4096));
    });
}

#[test]
fn attributes_ride_in_the_commit_and_are_seen_before_it() {
    run(async {
        let fake = Fake::new(4);
        let (_client, volume) = root(&fake).await;
        let file = new_file(&volume, "riding").await;
        file.write_at(0, Bytes::from_static(b"abc")).await.expect("written");
        let before = fake.counts();
        let time = Timestamp { secs: 12345, nanos: 6 };
        let set = SetAttr { mode: Some(0o600), mtime: Some(SetTime::To(time)), ..SetAttr::default() };
        let attr = volume.setattr(&Cred::root(), file.ino(), set).await.expect("set");
        assert_eq!((attr.mode, attr.mtime, attr.size), (0o600, time, 3));
        assert_eq!(fake.counts().applies, before.applies, "nothing was sent yet");
        let attr = volume.getattr(&Cred::root(), file.ino()).await.expect("attributes");
        assert_eq!((attr.mode, attr.mtime, attr.size), (0o600, time, 3));
        file.close().await.expect("closed");
        assert_eq!(fake.counts().applies, before.applies + 1);
        let attr = fake.stat(volume.id(), file.ino());
        assert_eq!((attr.mode, attr.mtime, attr.size), (0o600, time, 3));
        // A later write is later than the time that was set.
        file.write_at(3, Bytes::from_static(b"d")).await.expect("written");
        file.flush().await.expect("flushed");
        assert!(fake.stat(volume.id(), file.ino()).mtime > time);
    });
}

#[test]
fn the_superusers_change_of_owner_rides_too_in_the_order_it_was_asked_for() {
    run(async {
        let fake = Fake::new(15);
        let (_client, volume) = root(&fake).await;
        let root = Cred::root();
        let owner = SetAttr { uid: Some(1000), gid: Some(100), ..SetAttr::default() };
        let privileged = SetAttr { mode: Some(0o4755), ..SetAttr::default() };
        for (at, (sets, mode)) in
            [([&owner, &privileged], 0o4755), ([&privileged, &owner], 0o755)].into_iter().enumerate()
        {
            let file = new_file(&volume, &format!("unpacked{at}")).await;
            file.write_at(0, Bytes::from_static(b"abc")).await.expect("written");
            let before = fake.counts().applies;
            for set in sets {
                volume.setattr(&root, file.ino(), set.clone()).await.expect("set");
            }
            let shown = volume.getattr(&root, file.ino()).await.expect("attributes");
            assert_eq!((shown.uid, shown.gid, shown.mode), (1000, 100, mode));
            assert_eq!(fake.counts().applies, before, "nothing was sent yet");
            file.close().await.expect("closed");
            assert_eq!(fake.counts().applies, before + 1);
            let kept = fake.stat(volume.id(), file.ino());
            assert_eq!((kept.uid, kept.gid, kept.mode), (1000, 100, mode));
        }
    });
}

#[test]
fn what_is_left_alone_is_committed_after_a_second() {
    run(async {
        let fake = Fake::new(5);
        let (_client, volume) = root(&fake).await;
        let file = new_file(&volume, "idle").await;
        file.write_at(0, Bytes::from_static(b"abc")).await.expect("written");
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(fake.stat(volume.id(), file.ino()).size, 0);
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        assert_eq!(fake.stat(volume.id(), file.ino()).size, 3);
    });
}

#[test]
fn a_dropped_handle_is_flushed() {
    run(async {
        let fake = Fake::new(6);
        let (_client, volume) = root(&fake).await;
        let file = new_file(&volume, "dropped").await;
        let ino = file.ino();
        file.write_at(0, Bytes::from_static(b"abc")).await.expect("written");
        drop(file);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(fake.stat(volume.id(), ino).size, 3);
    });
}

#[test]
fn a_name_comes_after_its_data() {
    run(async {
        let fake = Fake::new(7);
        let (_client, volume) = root(&fake).await;
        let cred = Cred::root();
        let file = new_file(&volume, "new").await;
        file.write_at(0, Bytes::from(vec![1; 100_000])).await.expect("written");
        volume.rename(&cred, Ino::ROOT, name("new"), Ino::ROOT, name("old"), RenameMode::Replace).await.expect("moved");
        assert_eq!(fake.stat(volume.id(), file.ino()).size, 100_000);
        file.write_at(100_000, Bytes::from(vec![1; 100_000])).await.expect("written");
        volume.link(&cred, file.ino(), Ino::ROOT, name("second")).await.expect("linked");
        assert_eq!(fake.stat(volume.id(), file.ino()).size, 200_000);
    });
}

#[test]
fn another_clients_change_is_seen_within_a_second_and_at_open() {
    run(async {
        let fake = Fake::new(8);
        let (_client, volume) = root(&fake).await;
        let (_other, theirs) = root(&fake).await;
        let cred = Cred::root();
        let mine = new_file(&volume, "shared").await;
        mine.write_at(0, Bytes::from(vec![1; 10_000])).await.expect("written");
        mine.flush().await.expect("flushed");
        let file = theirs.open(&cred, mine.ino(), true, true).await.expect("opened");
        assert_eq!(file.read_at(0, 3).await.expect("read")[..], [1, 1, 1]);
        mine.write_at(0, Bytes::from(vec![2; 10_000])).await.expect("written");
        mine.flush().await.expect("flushed");
        // The old chunk is gone; the new map is asked for.
        let again = theirs.open(&cred, mine.ino(), true, true).await.expect("opened");
        assert_eq!(again.read_at(0, 3).await.expect("read")[..], [2, 2, 2]);
        mine.write_at(0, Bytes::from(vec![3; 10_000])).await.expect("written");
        mine.flush().await.expect("flushed");
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        assert_eq!(file.read_at(0, 3).await.expect("read")[..], [3, 3, 3]);
    });
}

#[test]
fn another_clients_commit_before_ours_is_seen_after_ours() {
    run(async {
        let fake = Fake::new(15);
        let (_client, volume) = root(&fake).await;
        let (_other, theirs) = root(&fake).await;
        let mine = new_file(&volume, "both").await;
        mine.write_at(0, Bytes::from(vec![1; 1000])).await.expect("written");
        mine.flush().await.expect("flushed");
        assert_eq!(mine.read_at(0, 2).await.expect("read")[..], [1, 1]);
        mine.write_at(500, Bytes::from(vec![3; 100])).await.expect("written");
        let file = theirs.open(&Cred::root(), mine.ino(), true, true).await.expect("opened");
        file.write_at(0, Bytes::from(vec![2; 100])).await.expect("written");
        file.close().await.expect("closed");
        mine.flush().await.expect("flushed");
        assert_eq!(mine.read_at(99, 2).await.expect("read")[..], [2, 1]);
        assert_eq!(mine.read_at(599, 2).await.expect("read")[..], [3, 1]);
    });
}

#[test]
fn an_old_map_whose_chunk_is_gone_is_asked_for_again() {
    run(async {
        let fake = Fake::new(9);
        let (_client, volume) = root(&fake).await;
        let (_other, theirs) = root(&fake).await;
        let mine = new_file(&volume, "gone").await;
        mine.write_at(0, Bytes::from(vec![1; 3 << 20])).await.expect("written");
        mine.flush().await.expect("flushed");
        let file = theirs.open(&Cred::root(), mine.ino(), true, false).await.expect("opened");
        mine.write_at(0, Bytes::from(vec![2; 3 << 20])).await.expect("written");
        mine.flush().await.expect("flushed");
        assert_eq!(file.read_at(2 << 20, 3).await.expect("read")[..], [2, 2, 2]);
    });
}

#[test]
fn a_junction_leads_into_another_volume() {
    run(async {
        let fake = Fake::new(10);
        let (client, volume) = root(&fake).await;
        let cred = Cred::root();
        volume.mkdir(&cred, Ino::ROOT, name("dir"), 0o755).await.expect("made");
        fake.trouble(Trouble { lost_answers: 300, ..Trouble::default() });
        let made = client.create_volume("data", 3, Some(b"/dir/data")).await.expect("made");
        assert_eq!(made.info().replication, 3);
        let file = new_file(&made, "inside").await;
        file.write_at(0, Bytes::from_static(b"in")).await.expect("written");
        file.close().await.expect("closed");
        made.symlink(&cred, Ino::ROOT, name("up"), Bytes::from_static(b"../../dir/data/inside")).await.expect("made");
        let found = client.resolve(&cred, b"/dir/./data/inside").await.expect("found");
        assert_eq!((found.volume.id(), found.found.size), (made.id(), 2));
        let found = client.resolve_follow(&cred, b"dir/data/up").await.expect("found");
        assert_eq!(found.found.ino, file.ino());
        let found = client.resolve(&cred, b"/dir/data/..").await.expect("found");
        assert_eq!(found.volume.id(), volume.id());
        let dir = found.found.ino;
        match volume.lookup(&cred, dir, name("data")).await.expect("found") {
            Found::Junction(slot) => {
                assert_eq!(slot, SlotRef { space: made.info().space, slot: made.info().slot });
                assert_eq!(volume.follow(slot).await.expect("followed").id(), made.id());
            }
            Found::Inode(_) => panic!("a junction"),
        }
        let error = client.resolve(&cred, b"/dir/data/inside/").await.err().expect("no directory");
        assert_eq!(error.errno(), 20);
        assert_eq!(client.resolve(&cred, b"/none").await.err().expect("none").errno(), 2);
        let parent = client.resolve_parent(&cred, b"/dir/data/new/").await.expect("found");
        assert_eq!((parent.volume.id(), parent.parent, parent.name), (made.id(), Ino::ROOT, name("new")));
    });
}

#[test]
fn streams_go_in_and_come_out() {
    run(async {
        let fake = Fake::new(11);
        let (client, _) = root(&fake).await;
        let cred = Cred::root();
        let bytes: Vec<u8> = (0..11_000_000u32).map(|at| (at % 251) as u8).collect();
        for _ in 0..2 {
            let mut last = 0;
            let mut source = &bytes[..];
            let attr = client.copy_in(&cred, &mut source, b"/in", 0o640, &mut |at| last = at).await.expect("in");
            assert_eq!((attr.size, last, attr.mode), (bytes.len() as u64, bytes.len() as u64, 0o640));
            let mut out = Vec::new();
            let len = client.copy_out(&cred, b"/in", &mut out, &mut |_| {}).await.expect("out");
            assert!(len == bytes.len() as u64 && out == bytes);
        }
        client.close().await.expect("closed");
        assert_eq!(client.volume("root").await.err(), Some(Error::Closed));
        fake.check();
    });
}

#[test]
fn a_plain_users_write_clears_set_user_id() {
    run(async {
        let fake = Fake::new(12);
        let (_client, volume) = root(&fake).await;
        let user = Cred { uid: 1000, gid: 1000, ..Cred::default() };
        let (file, ..) = volume.create_file(&user, Ino::ROOT, name("tool"), 0o4755, true).await.expect("made");
        file.write_at(0, Bytes::from_static(b"x")).await.expect("written");
        assert_eq!(file.attr().await.expect("attributes").mode, 0o755);
        file.close().await.expect("closed");
        assert_eq!(fake.stat(volume.id(), file.ino()).mode, 0o755);
        // Made unwritable after it was opened: the open counts.
        let set = SetAttr { mode: Some(0o444), ..SetAttr::default() };
        file.setattr(&user, set).await.expect("set");
        file.write_at(0, Bytes::from_static(b"y")).await.expect("written");
        file.close().await.expect("closed");
        file.truncate(0).await.expect("cut");
        assert_eq!(volume.open(&user, file.ino(), false, true).await.err().expect("denied").errno(), 13);
    });
}

#[test]
fn an_inode_open_here_is_said_to_be_open() {
    run(async {
        let fake = Fake::new(13);
        let (_client, volume) = root(&fake).await;
        let file = new_file(&volume, "open").await;
        let other = new_file(&volume, "other").await.ino();
        fake.ask(vec![(volume.id(), file.ino()), (volume.id(), other)]);
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        assert!(fake.not_open().contains(&(volume.id(), other)));
        assert!(!fake.not_open().contains(&(volume.id(), file.ino())));
        let ino = file.ino();
        drop(file);
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        assert!(fake.not_open().contains(&(volume.id(), ino)));
    });
}

#[test]
fn a_closed_client_says_so() {
    run(async {
        let fake = Fake::new(14);
        let (client, volume) = root(&fake).await;
        let file = new_file(&volume, "last").await;
        file.write_at(0, Bytes::from_static(b"abc")).await.expect("written");
        client.close().await.expect("closed");
        assert_eq!(fake.stat(volume.id(), file.ino()).size, 3);
        assert!(file.write_at(0, Bytes::from_static(b"abc")).await.is_err());
        assert!(volume.mkdir(&Cred::root(), Ino::ROOT, name("late"), 0o755).await.is_err());
        let _ = (ClientParts::real(), ClientId(1));
        let commit = Commit {
            ino: file.ino(),
            extents: Vec::new(),
            size_at_least: 5,
            mtime: None,
            set: SetAttr::default(),
            clear_suid: false,
        };
        fake.as_root(volume.id(), Op::Commit(commit)).expect("the server goes on");
    });
}

#[test]
fn an_answer_from_before_a_commit_does_not_take_back_what_was_committed() {
    run(async {
        let fake = Fake::new(70);
        let client = fake.client().await;
        let volume = client.volume("root").await.expect("there");
        let (file, ..) = volume.create_file(&Cred::root(), Ino::ROOT, name("file"), 0o644, true).await.expect("made");
        file.write_at(0, Bytes::from_static(b"old")).await.expect("written");
        file.flush().await.expect("durable");
        let before = volume.getattr(&Cred::root(), file.ino()).await.expect("known");
        file.write_at(3, Bytes::from_static(b" and new")).await.expect("written");
        let state = client.shared.files.find(volume.id(), file.ino()).expect("open");
        assert_eq!(state.observe(before.clone()).size, 11, "held");
        file.flush().await.expect("durable");
        assert_eq!(state.observe(before).size, 11, "committed meanwhile");
        client.close().await.expect("closed");
    });
}
