//! Write leases: who is refused, what a holder does on its own, and that it comes to the same in the group.

use proptest::prelude::*;
use weft_core::codec;
use weft_core::entry::{Caller, Command, Cred};
use weft_core::ids::{ChunkId, ClientId, Ino, PgId, Seq};
use weft_core::limits::{MAX_HELD, MAX_LEASES};
use weft_core::machine;
use weft_core::name::XattrName;
use weft_core::namespace::inode::{Attr, Extent, ExtentBody};
use weft_core::namespace::lease::{self, Held, Local, Tried, Way};
use weft_core::namespace::op::{Commit, Op, RenameMode, SetAttr, SetTime, XattrMode};
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::query::{Answer, Query};
use weft_core::refusal::Refusal;
use weft_core::time::Timestamp;

use super::group::{CLIENT, Group, SPACE, VOLUME, name};

const OTHER: ClientId = ClientId(78);

fn mkdir(parent: Ino, of: &str) -> Op {
    Op::Mkdir { parent, name: name(of), mode: 0o755 }
}

fn create(parent: Ino, of: &str) -> Op {
    Op::Create { parent, name: name(of), mode: 0o644, exclusive: true }
}

/// A group with a directory that [`CLIENT`] has leased, and what that client knows.
fn leased(numbers: u32) -> (Group, Local, Ino) {
    let mut group = Group::new();
    group.open(OTHER);
    let Ok(Outcome::Created { attr: dir, .. }) = group.ask(mkdir(Ino::ROOT, "dir")) else { panic!("a directory") };
    let mut local = Local::new(VOLUME, CLIENT, SPACE);
    take(&mut group, &mut local, dir.ino, numbers);
    (group, local, dir.ino)
}

fn take(group: &mut Group, local: &mut Local, dir: Ino, numbers: u32) {
    match group.ask(Op::Lease { dir, numbers }) {
        Ok(Outcome::Leased { first, dir, .. }) => local.lease(&dir, first, numbers),
        other => panic!("{other:?}"),
    }
}

/// Another client asks for a change.
fn other(group: &mut Group, seq: u64, op: Op) -> Result<Outcome, Refusal> {
    let caller = Caller { client: OTHER, space: SPACE, seq: Seq(seq), acked_below: Seq(0), cred: Cred::root() };
    let entry = group.request(caller, op);
    group.apply(&entry).reply
}

fn other_asks(group: &Group, query: &Query) -> Result<Answer, Refusal> {
    machine::query(&group.records, VOLUME, OTHER, &Cred::root(), query).expect("a map does not fail")
}

fn held(local: &mut Local, root: Ino, time: u64, op: &Op) -> (Outcome, Held) {
    match local.apply(root, Timestamp::from_nanos(time), &Cred::root(), op) {
        Tried::Done(outcome, item, _) => (outcome, *item),
        other => panic!("{op:?}: {other:?}"),
    }
}

#[test]
fn everybody_else_is_refused_what_is_leased_until_it_is_given_up() {
    let (mut group, mut local, dir) = leased(16);
    let refused = Err(Refusal::Leased { volume: VOLUME, dir });
    let (_, item) = held(&mut local, dir, 5_000, &create(dir, "file"));

    let ways_in = [
        Query::Lookup { parent: Ino::ROOT, name: name("dir") },
        Query::Lookup { parent: dir, name: name("file") },
        Query::Getattr { ino: dir },
        Query::Readdir { dir, after: None, limit: 10, with_attrs: false },
        Query::Readdir { dir: Ino::ROOT, after: None, limit: 10, with_attrs: true },
        Query::Access { ino: dir, mask: 1 },
        Query::ListXattr { ino: dir },
    ];
    for query in &ways_in {
        assert_eq!(other_asks(&group, query), Err(Refusal::Leased { volume: VOLUME, dir }), "{query:?}");
    }
    assert!(other_asks(&group, &Query::Getattr { ino: Ino::ROOT }).is_ok());
    let rename = Op::Rename {
        parent: Ino::ROOT,
        name: name("dir"),
        new_parent: Ino::ROOT,
        new_name: name("moved"),
        mode: RenameMode::Replace,
    };
    let changes = [
        create(dir, "other"),
        mkdir(dir, "other"),
        Op::Rmdir { parent: Ino::ROOT, name: name("dir") },
        Op::Setattr { ino: dir, set: SetAttr::default() },
        Op::Lease { dir, numbers: 1 },
        rename.clone(),
    ];
    for (seq, op) in (1..).zip(changes) {
        assert_eq!(other(&mut group, seq, op.clone()), refused, "{op:?}");
        // Past what it holds back, its holder too: what it knows would be wrong.
        if !matches!(op, Op::Lease { .. }) {
            assert_eq!(group.ask(op.clone()), refused, "{op:?}");
        }
    }
    assert_eq!(
        group.ask(Op::Held { items: vec![item], give_up: vec![dir] }),
        Ok(Outcome::Held { refused: Vec::new() })
    );
    assert!(other_asks(&group, &ways_in[1]).is_ok(), "what was held back is there");
    // A refusal is not remembered: the same request goes through now.
    assert!(other(&mut group, 6, rename).is_ok());
}

#[test]
fn what_comes_after_its_lease_was_taken_is_refused_one_by_one() {
    let (mut group, mut local, dir) = leased(16);
    let items: Vec<Held> = ["a", "b"].map(|of| held(&mut local, dir, 5_000, &create(dir, of)).1).into();
    let revoke = |client| Command::Revoke { volume: VOLUME, dir, client };
    group.own(revoke(OTHER));
    assert!(other_asks(&group, &Query::Getattr { ino: dir }).is_err(), "it is not theirs to lose");
    group.own(revoke(CLIENT));
    assert!(other_asks(&group, &Query::Getattr { ino: dir }).is_ok());
    let refused = vec![(0, Refusal::NoLease { dir }), (1, Refusal::NoLease { dir })];
    assert_eq!(group.ask(Op::Held { items, give_up: vec![dir] }), Ok(Outcome::Held { refused }));
    assert_eq!(group.attr(dir).size, 0);
}

#[test]
fn the_end_of_a_session_ends_its_leases() {
    let (mut group, _, dir) = leased(16);
    group.own(Command::EndSession { client: CLIENT, space: SPACE });
    assert!(other_asks(&group, &Query::Getattr { ino: dir }).is_ok());
    assert_eq!(lease::lease_list(&group.records), Ok(Vec::new()));
}

#[test]
fn only_new_directories_are_leased_and_so_many() {
    let (mut group, _, dir) = leased(16);
    let unsupported = |reply| matches!(reply, Err(Refusal::Unsupported { .. }));
    let file = group.create("file").ino;
    assert!(unsupported(group.ask(Op::Lease { dir: file, numbers: 1 })));
    assert!(unsupported(group.ask(Op::Lease { dir: Ino::ROOT, numbers: 1 })), "not empty, and the root");
    for at in 1..MAX_LEASES {
        let Ok(Outcome::Created { attr, .. }) = group.ask(mkdir(Ino::ROOT, &format!("d{at}"))) else { panic!() };
        assert!(group.ask(Op::Lease { dir: attr.ino, numbers: 1 }).is_ok());
    }
    let Ok(Outcome::Created { attr, .. }) = group.ask(mkdir(Ino::ROOT, "more")) else { panic!() };
    assert!(unsupported(group.ask(Op::Lease { dir: attr.ino, numbers: 1 })));
    assert!(group.ask(Op::Held { items: Vec::new(), give_up: vec![dir] }).is_ok());
    assert!(group.ask(Op::Lease { dir: attr.ino, numbers: 1 }).is_ok());
    group.own(Command::SetQuota { volume: VOLUME, max_bytes: 0, max_inodes: 1000 });
    assert!(group.ask(Op::Held { items: Vec::new(), give_up: vec![attr.ino] }).is_ok());
    assert!(unsupported(group.ask(Op::Lease { dir: attr.ino, numbers: 1 })), "what is held back might not fit");
}

#[test]
fn numbers_must_be_reserved_and_are_used_once() {
    let (mut group, mut local, dir) = leased(4);
    let (_, item) = held(&mut local, dir, 5_000, &create(dir, "a"));
    let again = Held { op: create(dir, "b"), ..item.clone() };
    let beyond = Held { op: create(dir, "c"), new_ino: Some(Ino(10_000)), ..item.clone() };
    let none = Held { op: create(dir, "d"), new_ino: None, ..item.clone() };
    let Ok(Outcome::Held { refused }) =
        group.ask(Op::Held { items: vec![item, again, beyond, none], give_up: Vec::new() })
    else {
        panic!("made")
    };
    assert_eq!(refused.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [1, 2, 3]);
    for of in ["b", "c", "d"] {
        held(&mut local, dir, 6_000, &create(dir, of));
    }
    let more = local.apply(dir, Timestamp::from_nanos(7_000), &Cred::root(), &create(dir, "e"));
    assert!(matches!(more, Tried::Elsewhere), "{more:?}");
    take(&mut group, &mut local, dir, 4);
    held(&mut local, dir, 8_000, &create(dir, "e"));
}

#[test]
fn an_entry_of_held_back_changes_is_bounded() {
    let (mut group, mut local, dir) = leased(4096);
    let item = held(&mut local, dir, 5_000, &create(dir, "a")).1;
    let many = vec![item; MAX_HELD + 1];
    assert!(matches!(group.ask(Op::Held { items: many, give_up: Vec::new() }), Err(Refusal::TooLarge { .. })));
    // Whoever does not count gets refusals at the end, and the group stays whole.
    let items: Vec<Held> =
        (0..MAX_HELD).map(|at| held(&mut local, dir, 5_000, &mkdir(dir, &format!("directory {at}"))).1).collect();
    let Ok(Outcome::Held { refused }) = group.ask(Op::Held { items, give_up: Vec::new() }) else { panic!("made") };
    assert!(refused.iter().all(|(_, refusal)| matches!(refusal, Refusal::TooLarge { .. })), "{refused:?}");
    assert_eq!(machine::recount(&group.records), Ok(Vec::new()));
}

#[test]
fn the_ends_of_leases_count_as_changes() {
    let (mut group, mut local, dir) = leased(64);
    let mut dirs = vec![dir];
    for at in 1..MAX_LEASES {
        let Ok(Outcome::Created { attr, .. }) = group.ask(mkdir(Ino::ROOT, &format!("d{at}"))) else { panic!() };
        assert!(group.ask(Op::Lease { dir: attr.ino, numbers: 1 }).is_ok());
        dirs.push(attr.ino);
    }
    let (Outcome::Created { attr: file, .. }, made) = held(&mut local, dir, 5_000, &create(dir, "file")) else {
        panic!()
    };
    let mut items = vec![made];
    // As many records as a hostile client can have changed in one entry.
    for (nth, count) in (0..).zip([512, 512, 512, 512, 512, 512, 512, 424, 60]) {
        let extents = (0..count)
            .map(|at| Extent { offset: nth * 10_000 + 2 * at, len: 1, body: ExtentBody::Inline(vec![1].into()) })
            .collect();
        let commit = Commit {
            ino: file.ino,
            extents,
            size_at_least: 0,
            mtime: None,
            set: SetAttr::default(),
            clear_suid: false,
        };
        let (time, cred) = (Timestamp::from_nanos(5_000), Cred::root());
        items.push(Held { root: dir, new_ino: None, time, cred, op: Op::Commit(commit) });
    }
    // Within the bound of an entry, or applying it would have ended every replica.
    assert!(group.ask(Op::Held { items, give_up: dirs }).is_ok());
    assert_eq!(lease::lease_list(&group.records), Ok(Vec::new()));
    assert_eq!(machine::recount(&group.records), Ok(Vec::new()));
}

#[test]
fn lists_in_lists_are_refused_before_they_are_taken() {
    let held = |op| Held { root: Ino(2), new_ino: None, time: Timestamp::default(), cred: Cred::root(), op };
    for op in [Op::Lease { dir: Ino(2), numbers: 1 }, Op::Held { items: Vec::new(), give_up: Vec::new() }] {
        assert!(codec::decode_held(&codec::encode_held(&vec![held(op)])).is_err());
    }
    let op = Op::Unlink { parent: Ino(2), name: name("a") };
    assert_eq!(codec::decode_held(&codec::encode_held(&vec![held(op.clone())])), Ok(vec![held(op)]));
}

#[test]
fn a_request_goes_where_its_answer_is() {
    let (mut group, mut local, dir) = leased(64);
    let outside = group.create("outside").ino;
    let (Outcome::Created { attr: file, .. }, _) = held(&mut local, dir, 5_000, &create(dir, "file")) else { panic!() };
    let rename = |parent, new_parent| Op::Rename {
        parent,
        name: name("file"),
        new_parent,
        new_name: name("moved"),
        mode: RenameMode::Replace,
    };
    let commit = |ino| {
        Op::Commit(Commit {
            ino,
            extents: Vec::new(),
            size_at_least: 9,
            mtime: None,
            set: SetAttr::default(),
            clear_suid: false,
        })
    };
    assert_eq!(local.way(&create(Ino::ROOT, "x")), Way::Away);
    assert_eq!(local.way(&rename(dir, dir)), Way::Here(dir));
    assert_eq!(local.way(&rename(dir, Ino::ROOT)), Way::Break(vec![dir]));
    assert_eq!(local.way(&rename(Ino::ROOT, dir)), Way::Break(vec![dir]));
    assert_eq!(local.way(&Op::Link { ino: outside, parent: dir, name: name("l") }), Way::Break(vec![dir]));
    assert_eq!(local.way(&commit(file.ino)), Way::Here(dir));
    assert_eq!(local.way(&commit(outside)), Way::Away);
    local.forget_maps(&[file.ino].into());
    assert_eq!(local.way(&commit(file.ino)), Way::Here(dir), "it is kept");
    local.forget_maps(&Default::default());
    assert_eq!(local.way(&commit(file.ino)), Way::Through(vec![dir]));
    assert_eq!(local.way_to_ask(&Query::Open { ino: file.ino, read: true, write: false }), Way::Through(vec![dir]));
    assert_eq!(local.way_to_ask(&Query::Getattr { ino: file.ino }), Way::Here(dir));
    let learnt = Attr { size: 1234, version: 9, ..file.clone() };
    local.learn(&learnt);
    assert_eq!(local.ask(&Cred::root(), &Query::Getattr { ino: file.ino }), Ok(Ok(Answer::Attr(learnt))));
    let before = local.bytes();
    local.give_up(dir);
    assert_eq!(local.way(&create(dir, "x")), Way::Away);
    assert!(local.bytes() < before && local.roots().is_empty());
}

/// A roll of dice that becomes an operation below the leased directory.
#[derive(Clone, Debug)]
struct Roll {
    what: u8,
    at: [u8; 2],
    names: [u8; 2],
    bits: u8,
    offset: u8,
    push: bool,
}

fn roll() -> impl Strategy<Value = Roll> {
    (any::<u8>(), any::<[u8; 2]>(), any::<[u8; 2]>(), any::<u8>(), any::<u8>(), prop::bool::weighted(0.2))
        .prop_map(|(what, at, names, bits, offset, push)| Roll { what, at, names, bits, offset, push })
}

fn op(roll: &Roll, dirs: &[Ino], files: &[Ino], chunk: u64) -> Op {
    let of = |list: &[Ino], dice: u8| list[usize::from(dice) % list.len()];
    let called = |dice: u8| name(["a", "b", "c", "d"][usize::from(dice) % 4]);
    let (parent, other_parent) = (of(dirs, roll.at[0]), of(dirs, roll.at[1]));
    let ino = if files.is_empty() || roll.bits & 64 != 0 { parent } else { of(files, roll.at[1]) };
    let file = if files.is_empty() { parent } else { of(files, roll.at[1]) };
    let set = SetAttr { mode: Some(0o600 + u16::from(roll.bits & 7)), mtime: Some(SetTime::Now), ..SetAttr::default() };
    match roll.what % 14 {
        0 | 1 => Op::Create { parent, name: called(roll.names[0]), mode: 0o644, exclusive: roll.bits & 1 == 0 },
        2 => Op::Mkdir { parent, name: called(roll.names[0]), mode: 0o755 },
        3 => Op::Symlink { parent, name: called(roll.names[0]), target: "target".into() },
        4 => Op::Link { ino: file, parent, name: called(roll.names[0]) },
        5 => Op::Unlink { parent, name: called(roll.names[0]) },
        6 => Op::Rmdir { parent, name: called(roll.names[0]) },
        7 => Op::Rename {
            parent,
            name: called(roll.names[0]),
            new_parent: other_parent,
            new_name: called(roll.names[1]),
            mode: [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange][usize::from(roll.bits % 3)],
        },
        8 => Op::Setattr { ino, set },
        9 => Op::Truncate { ino: file, size: u64::from(roll.offset / 3), set: SetAttr::default(), opened: true },
        10..=12 => {
            let len = 1 + u32::from(roll.bits % 32);
            let body = match roll.bits % 3 {
                0 => ExtentBody::Inline(vec![roll.offset; len as usize].into()),
                1 => ExtentBody::Zero,
                _ => ExtentBody::Chunk {
                    chunk: ChunkId { client: CLIENT, counter: chunk },
                    pg: PgId(1),
                    at: 0,
                    chunk_len: 64,
                },
            };
            let extents = vec![Extent { offset: u64::from(roll.offset), len, body }];
            let set = if roll.bits & 8 == 0 { set } else { SetAttr::default() };
            Op::Commit(Commit { ino: file, extents, size_at_least: 0, mtime: None, set, clear_suid: false })
        }
        _ => Op::SetXattr {
            ino,
            name: XattrName::parse("user.x").expect("a name"),
            value: vec![roll.offset; 3].into(),
            mode: [XattrMode::Set, XattrMode::Create, XattrMode::Replace][usize::from(roll.bits % 3)],
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// The same operations, one by one in one group, held back and sent in batches to the other: every answer is the
    /// same, and so is what is there in the end.
    #[test]
    fn held_back_or_not_it_comes_to_the_same(rolls in prop::collection::vec(roll(), 1..80)) {
        let (mut group, mut local, dir) = leased(1000);
        // One whose next number is the first of those reserved.
        let mut plain = Group::new();
        plain.open(OTHER);
        prop_assert!(plain.ask(mkdir(Ino::ROOT, "dir")).is_ok());
        let (mut dirs, mut files, mut queue) = (vec![dir], Vec::new(), Vec::new());
        for (at, roll) in rolls.iter().enumerate() {
            let op = op(roll, &dirs, &files, at as u64);
            // Both at the time of the plain group's entry.
            let expected = plain.ask(op.clone());
            prop_assert_eq!(local.way(&op), Way::Here(dir));
            let time = Timestamp::from_nanos(plain.time);
            group.time = group.time.max(plain.time);
            match local.apply(dir, time, &Cred::root(), &op) {
                Tried::Done(outcome, item, _) => {
                    if let Outcome::Created { attr, fresh: true } = &outcome {
                        if attr.kind == weft_core::namespace::inode::Kind::Directory {
                            dirs.push(attr.ino);
                        } else {
                            files.push(attr.ino);
                        }
                    }
                    prop_assert_eq!(&Ok(outcome), &expected, "{:?}", op);
                    queue.push(*item);
                }
                Tried::Refused(refusal) => prop_assert_eq!(&Err(refusal), &expected, "{:?}", op),
                Tried::Elsewhere => prop_assert!(false, "{op:?}"),
            }
            for ino in dirs.iter().chain(&files) {
                let query = Query::Getattr { ino: *ino };
                prop_assert_eq!(local.ask(&Cred::root(), &query).unwrap(), plain.query(query));
            }
            if roll.push {
                let items = std::mem::take(&mut queue);
                prop_assert_eq!(group.ask(Op::Held { items, give_up: Vec::new() }), Ok(Outcome::Held { refused: Vec::new() }));
            }
        }
        for dir in &dirs {
            let query = Query::Readdir { dir: *dir, after: None, limit: 100, with_attrs: true };
            prop_assert_eq!(local.ask(&Cred::root(), &query).unwrap(), plain.query(query));
        }
        prop_assert_eq!(
            group.ask(Op::Held { items: queue, give_up: vec![dir] }),
            Ok(Outcome::Held { refused: Vec::new() })
        );
        prop_assert_eq!(machine::recount(&group.records), Ok(Vec::new()));
        for ino in dirs.iter().chain(&files) {
            prop_assert_eq!(group.query(Query::Getattr { ino: *ino }), plain.query(Query::Getattr { ino: *ino }));
            prop_assert_eq!(group.map(*ino), plain.map(*ino));
        }
        for dir in dirs {
            let query = Query::Readdir { dir, after: None, limit: 100, with_attrs: true };
            prop_assert_eq!(group.query(query.clone()), plain.query(query));
        }
        let before = local.bytes();
        local.give_up(dir);
        prop_assert!(local.bytes() <= before && local.bytes() < 512, "{} bytes are left", local.bytes());
    }
}
