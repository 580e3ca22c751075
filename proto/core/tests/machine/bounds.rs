//! What is too much for one command is cut in one record, or goes on when it is tried again.

use weft_core::entry::Command;
use weft_core::ids::Ino;
use weft_core::limits::{BLOCK, MAX_CHUNK, MAX_CUT_NOW, MAX_EXTENT, STEP_RECORDS};
use weft_core::machine;
use weft_core::namespace::inode::ExtentBody;
use weft_core::namespace::op::{AllocateMode, Op, SetAttr};
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::step::Step;
use weft_core::refusal::Refusal;

use crate::group::{CLIENT, Group, SPACE, VOLUME, chunk, commit, inline, name, piece};

fn truncate(ino: Ino, size: u64) -> Op {
    Op::Truncate { ino, size, set: SetAttr::default(), opened: true }
}

fn finish(group: &mut Group, ino: Ino) -> u32 {
    for taken in 1..1000 {
        match group.own(Command::Step(Step::FinishCut { volume: VOLUME, ino })).reply {
            Ok(Outcome::Stepped { more: true }) => group.check(),
            Ok(Outcome::Stepped { more: false }) => return taken,
            other => panic!("{other:?}"),
        }
    }
    panic!("no end of it")
}

#[test]
fn a_file_of_many_extents_is_cut_at_once_and_cleared_in_steps() {
    let mut group = Group::new();
    let ino = group.create("a").ino;
    let extents = 3 * STEP_RECORDS as u64;
    group.scatter(ino, 0, extents, 10);
    let cut = group.once(truncate(ino, 0));
    assert!(cut.changes.len() < 10, "{}", cut.changes.len());
    let attr = group.attr(ino);
    assert_eq!((attr.size, attr.allocated, attr.generation), (0, 0, 1));
    assert_eq!(group.map(ino), vec![]);
    group.check();
    // A new map begins at once, whatever is left of the old one.
    assert!(group.ask(commit(ino, vec![inline(0, b"new")])).is_ok());
    assert_eq!(machine::pending(&group.records, 10).expect("a map").cuts, vec![(VOLUME, ino)]);
    assert_eq!(finish(&mut group, ino), 3);
    assert_eq!(machine::pending(&group.records, 10).expect("a map").cuts, vec![]);
    assert_eq!(group.map(ino), vec![inline(0, b"new")]);
    group.check();
}

#[test]
fn growth_past_a_cut_waits_until_it_is_finished() {
    let mut group = Group::new();
    let ino = group.create("a").ino;
    group.scatter(ino, 0, 2000, 10);
    assert!(group.ask(commit(ino, vec![piece(95, chunk(CLIENT, 1), 20)])).is_ok());
    assert!(group.ask(truncate(ino, 100)).is_ok());
    assert_eq!(group.attr(ino).size, 100);
    let last = group.map(ino).pop().expect("extents");
    assert_eq!((last.offset, last.len), (95, 5), "what lies across the cut is cut now");
    group.check();

    let pending = Err(Refusal::CutPending { ino });
    assert_eq!(group.ask(truncate(ino, 101)), pending);
    assert_eq!(group.ask(commit(ino, vec![inline(200, b"x")])), pending);
    let reserve = Op::Allocate { ino, mode: AllocateMode::Reserve, offset: 0, len: 500 };
    assert_eq!(group.ask(reserve.clone()), pending);
    // Below the cut all goes on.
    assert!(group.ask(commit(ino, vec![inline(50, b"below")])).is_ok());
    assert!(group.ask(truncate(ino, 60)).is_ok());
    assert!(group.ask(truncate(ino, 50)).is_ok());
    group.check();

    let (reply, tried) = group.ask_on(truncate(ino, 5000));
    assert!(reply.is_ok() && tried > 1);
    assert!(group.map(ino).iter().all(|extent| extent.offset + u64::from(extent.len) <= 50));
    assert_eq!(group.attr(ino).size, 5000);
    group.check();
}

#[test]
fn few_extents_go_at_once() {
    let mut group = Group::new();
    let ino = group.create("a").ino;
    group.scatter(ino, 0, MAX_CUT_NOW as u64, 10);
    assert!(group.ask(truncate(ino, 0)).is_ok());
    assert_eq!(machine::pending(&group.records, 10).expect("a map").cuts, vec![]);
    group.scatter(ino, 0, MAX_CUT_NOW as u64, 10);
    assert!(group.ask(truncate(ino, 5)).is_ok());
    assert_eq!(machine::pending(&group.records, 10).expect("a map").cuts, vec![]);
    assert_eq!(group.map(ino).len(), 1);
    group.check();
}

#[test]
fn a_write_over_very_many_extents_goes_on_when_it_is_tried_again() {
    let mut group = Group::new();
    let ino = group.create("a").ino;
    group.scatter(ino, 0, 6000, u64::from(BLOCK));
    let size = 6000 * u64::from(BLOCK);
    let extents: Vec<_> = (0..6).map(|nth| piece(nth * MAX_EXTENT, chunk(CLIENT, nth), MAX_CHUNK)).collect();
    let over = extents.iter().map(|extent| u64::from(extent.len)).sum::<u64>();
    assert!(over >= size, "all of it is written over");
    let (reply, tried) = group.ask_on(commit(ino, extents));
    let Ok(Outcome::Attr(attr)) = reply else { panic!("{reply:?}") };
    assert!(tried > 1, "{tried}");
    assert_eq!((attr.size, attr.allocated), (over, over));
    let map = group.map(ino);
    assert!(map.iter().all(|extent| matches!(extent.body, ExtentBody::Chunk { .. })));
    assert!(map.len() < 20, "{}", map.len());
    group.check();
    // And it was done once: the answer is kept now.
    let again = group.request(group.caller(group.seq), commit(ino, vec![]));
    assert!(group.apply(&again).changes.is_empty());
}

#[test]
fn holes_and_zeroes_over_very_many_extents_go_on_too() {
    let mut group = Group::new();
    let ino = group.create("a").ino;
    for mode in [AllocateMode::PunchHole, AllocateMode::ZeroRange, AllocateMode::Reserve] {
        group.scatter(ino, 0, 5000, 10);
        let (reply, tried) = group.ask_on(Op::Allocate { ino, mode, offset: 0, len: 50_000 });
        assert!(reply.is_ok() && tried > 1, "{mode:?}: {reply:?} after {tried}");
        let allocated = group.attr(ino).allocated;
        assert_eq!(allocated, if mode == AllocateMode::PunchHole { 0 } else { 50_000 });
        group.check();
        assert!(group.ask_on(truncate(ino, 0)).0.is_ok());
        finish(&mut group, ino);
    }
    let much = Op::Allocate { ino, mode: AllocateMode::Reserve, offset: 0, len: 40 << 30 };
    let (reply, tried) = group.ask_on(much);
    assert!(reply.is_ok() && tried > 2);
    assert_eq!(group.attr(ino).allocated, 40 << 30);
    let absurd = Op::Allocate { ino, mode: AllocateMode::Reserve, offset: 0, len: 1 << 45 };
    assert!(matches!(group.ask(absurd), Err(Refusal::NoSpace { .. })));
    group.check();
}

#[test]
fn a_copy_of_very_many_extents_tells_how_far_it_came() {
    let mut group = Group::new();
    let (source, target) = (group.create("a").ino, group.create("b").ino);
    group.scatter(source, 0, 1500, 10);
    group.scatter(target, 3, 3000, 5);
    let (mut at, len, mut turns) = (0, 1500 * 10 - 9, 0);
    while at < len {
        let op = Op::CopyRange {
            source_volume: VOLUME,
            source,
            source_offset: at,
            target,
            target_offset: at,
            len: len - at,
        };
        let Ok(Outcome::Copied { len: copied, .. }) = group.ask(op) else { panic!("not copied") };
        assert!(copied > 0);
        at += copied;
        turns += 1;
    }
    assert!(turns > 2);
    let upto = |ino| group.map(ino).into_iter().filter(|extent| extent.offset < len).collect::<Vec<_>>();
    assert_eq!(upto(source), upto(target));
    group.check();
}

#[test]
fn an_orphan_is_reaped_in_steps_and_goes_last() {
    let mut group = Group::new();
    let ino = group.create("a").ino;
    group.scatter(ino, 0, 1500, 10);
    assert!(group.ask(commit(ino, vec![piece(0, chunk(CLIENT, 9), 1000)])).is_ok());
    for nth in 0..20 {
        let name = weft_core::name::XattrName::parse(format!("user.{nth}").into_bytes()).expect("a good name");
        let value = bytes::Bytes::from_static(b"value");
        let mode = weft_core::namespace::op::XattrMode::Set;
        assert_eq!(group.ask(Op::SetXattr { ino, name, value, mode }), Ok(Outcome::Done));
    }
    let reap = Command::Step(Step::ReapOrphans { volume: VOLUME, inos: vec![ino] });
    assert_eq!(group.own(reap.clone()).reply, Ok(Outcome::Stepped { more: false }));
    assert_eq!(group.attr(ino).nlink, 1, "a file with a name is no orphan, whatever a leader thought");
    assert!(group.ask(Op::Unlink { parent: Ino::ROOT, name: name("a") }).is_ok());
    assert_eq!(machine::pending(&group.records, 10).expect("a map").orphans, vec![(VOLUME, ino)]);
    assert!(!group.map(ino).is_empty(), "whoever has it open still reads it");
    group.check();
    let mut steps = 0;
    while group.own(reap.clone()).reply == Ok(Outcome::Stepped { more: true }) {
        steps += 1;
        group.check();
    }
    assert_eq!(steps, 1);
    assert_eq!(machine::pending(&group.records, 10).expect("a map").orphans, vec![]);
    let used = group.query(weft_core::namespace::query::Query::Statfs);
    let Ok(weft_core::namespace::query::Answer::Statfs(used)) = used else { panic!("no statfs") };
    assert_eq!((used.bytes, used.inodes), (0, 1));
    assert_eq!(machine::freed_chunks(&group.records, SPACE, None, 10).expect("a map").len(), 1);
    group.check();
}

#[test]
fn many_orphans_are_reaped_in_one_step_within_its_bounds() {
    let mut group = Group::new();
    let mut inos = Vec::new();
    for nth in 0..20 {
        let ino = group.create(&format!("small {nth}")).ino;
        assert!(group.ask(commit(ino, vec![inline(0, b"bytes")])).is_ok());
        assert!(group.ask(Op::Unlink { parent: Ino::ROOT, name: name(&format!("small {nth}")) }).is_ok());
        inos.push(ino);
    }
    let named = group.create("named").ino;
    inos.insert(3, named);
    let orphans = |group: &Group| machine::pending(&group.records, 100).expect("a map").orphans.len();
    let reap = Command::Step(Step::ReapOrphans { volume: VOLUME, inos: inos.clone() });
    assert_eq!(group.own(reap).reply, Ok(Outcome::Stepped { more: true }), "16 are looked at");
    assert_eq!(orphans(&group), 5);
    assert_eq!(group.attr(named).nlink, 1, "what has a name stays");
    group.check();

    // Two of a thousand records and a small one: the first step ends within the second.
    let mut large = Vec::new();
    for what in ["a", "b"] {
        let ino = group.create(what).ino;
        group.scatter(ino, 0, 1000, 10);
        assert!(group.ask(Op::Unlink { parent: Ino::ROOT, name: name(what) }).is_ok());
        large.push(ino);
    }
    large.extend(&inos[16..]);
    let reap = Command::Step(Step::ReapOrphans { volume: VOLUME, inos: large });
    assert_eq!(group.own(reap.clone()).reply, Ok(Outcome::Stepped { more: true }));
    assert_eq!(orphans(&group), 6);
    group.check();
    assert_eq!(group.own(reap).reply, Ok(Outcome::Stepped { more: false }));
    assert_eq!(orphans(&group), 0);
    group.check();
}

#[test]
fn what_no_honest_client_sends_is_refused() {
    let mut group = Group::new();
    let ino = group.create("a").ino;
    let long = vec![inline(0, b"x"); 513];
    assert!(matches!(group.ask(commit(ino, long)), Err(Refusal::TooLarge { .. })));
    let mut beyond = piece(0, chunk(CLIENT, 1), 100);
    beyond.len = 101;
    let mut short = inline(0, b"abc");
    short.len = 2;
    let mut empty = inline(0, b"");
    empty.len = 0;
    for extent in [beyond, short, empty, piece(0, chunk(CLIENT, 1), MAX_CHUNK + 1)] {
        assert!(matches!(group.ask(commit(ino, vec![extent])), Err(Refusal::Invalid { .. })));
    }
    let far = inline(u64::MAX - 1, b"xx");
    assert!(matches!(group.ask(commit(ino, vec![far])), Err(Refusal::FileTooBig { .. })));
    assert!(matches!(group.ask(truncate(ino, u64::MAX)), Err(Refusal::FileTooBig { .. })));
    let far = Op::Allocate { ino, mode: AllocateMode::PunchHole, offset: u64::MAX, len: u64::MAX };
    assert!(matches!(group.ask(far), Err(Refusal::FileTooBig { .. })));
    let other = piece(0, chunk(weft_core::ids::ClientId(5), 1), 10);
    assert!(matches!(group.ask(commit(ino, vec![other])), Err(Refusal::ChunkNotYours { .. })));
    assert!(group.ask(commit(ino, vec![piece(0, chunk(CLIENT, 1), 10)])).is_ok());
    assert!(matches!(group.ask(commit(ino, vec![piece(0, chunk(CLIENT, 1), 11)])), Err(Refusal::ChunkNotYours { .. })));
    group.check();
}
