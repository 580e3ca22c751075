//! Bytes of small writes move from records into chunks, and only those that nobody touched meanwhile.

use bytes::Bytes;
use weft_core::entry::Command;
use weft_core::ids::{ClientId, Ino, PgId};
use weft_core::limits::{COMPACT_FROM, MAX_CHANGES, STEP_RECORDS};
use weft_core::machine::{self, ChunkState};
use weft_core::namespace::compact::{self, Gathered, Piece};
use weft_core::namespace::inode::{Extent, ExtentBody};
use weft_core::namespace::op::{AllocateMode, Op, SetAttr};
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::step::Step;
use weft_core::refusal::Refusal;

use crate::group::{Group, SPACE, VOLUME, chunk, commit, inline, name, piece};

const COMPACTOR: ClientId = ClientId(900);
const PG: PgId = PgId(4);

fn gather(group: &Group, ino: Ino, from: u64) -> Gathered {
    compact::gather(&group.records, VOLUME, ino, from).expect("a map").expect("a file")
}

fn swap(group: &mut Group, ino: Ino, counter: u64, pieces: &[Piece]) -> Result<Outcome, Refusal> {
    let chunk = chunk(COMPACTOR, counter);
    let step = Step::Compact { volume: VOLUME, ino, chunk, pg: PG, pieces: pieces.to_vec() };
    let applied = group.own(Command::Step(step));
    assert!(applied.changes.len() <= MAX_CHANGES);
    applied.reply
}

/// A line at a time, each its own commit, as a program that keeps a journal does.
fn append(group: &mut Group, ino: Ino, lines: u64) -> Vec<u8> {
    let mut all = Vec::new();
    for nth in 0..lines {
        let line = format!("line {nth:06}\n").into_bytes();
        let offset = all.len() as u64;
        all.extend_from_slice(&line);
        let extent = Extent { offset, len: line.len() as u32, body: ExtentBody::Inline(line.into()) };
        group.ask(commit(ino, vec![extent])).expect("written");
    }
    all
}

fn waiting(group: &Group) -> Vec<Ino> {
    compact::waiting(&group.records, None, 100).expect("a map").into_iter().map(|(_, ino)| ino).collect()
}

fn size_of(group: &Group) -> usize {
    group.records.iter().map(|(key, value)| key.len() + value.len()).sum()
}

#[test]
fn a_file_of_many_small_writes_becomes_few_records() {
    let mut group = Group::new();
    group.open(COMPACTOR);
    let ino = group.create("journal").ino;
    let records = group.records.len();
    append(&mut group, ino, u64::from(COMPACT_FROM) - 1);
    assert_eq!(waiting(&group), [], "few are left where they are");
    let bytes = append(&mut group, ino, 3000);
    assert_eq!(waiting(&group), [ino]);
    group.check();
    let (before, attr) = (size_of(&group), group.attr(ino));
    let (mut counter, mut from, mut stored) = (0, Some(0), Vec::new());
    while let Some(offset) = from {
        let gathered = gather(&group, ino, offset);
        assert!(gathered.extents <= STEP_RECORDS);
        assert_eq!(gathered.pieces.len(), 1, "neighbours become one stretch");
        stored.extend_from_slice(&gathered.bytes);
        counter += 1;
        let more = gathered.more_from.is_some();
        assert_eq!(swap(&mut group, ino, counter, &gathered.pieces), Ok(Outcome::Stepped { more }));
        group.check();
        from = gathered.more_from;
    }
    assert_eq!(stored, bytes);
    let map = group.map(ino);
    let spans: Vec<u64> = map.iter().map(|extent| u64::from(extent.len)).collect();
    assert_eq!((map.len() as u64, spans.iter().sum::<u64>()), (counter, bytes.len() as u64));
    assert_eq!(counter, 3);
    assert_eq!(group.attr(ino), attr, "nothing to be seen of it, not even a new version");
    // Of each chunk its count and its extent; replies lie in their ring.
    assert!(group.records.len() <= records + 1024 + 2 * 3, "{}", group.records.len());
    assert!(size_of(&group) < before - 3000 * 40);
    assert_eq!(waiting(&group), []);
    for counter in 1..=3 {
        let state = machine::chunk_state(&group.records, SPACE, chunk(COMPACTOR, counter));
        assert!(matches!(state, Ok(ChunkState::Named { count: 1, pg: PG, .. })));
    }
    // Repeated, as after a lost answer, it finds nothing of what it was about.
    let gathered = gather(&group, ino, 0);
    assert_eq!((gathered.extents, gathered.bytes.len(), gathered.more_from), (0, 0, None));
}

#[test]
fn scattered_bytes_share_a_chunk() {
    let mut group = Group::new();
    group.open(COMPACTOR);
    let ino = group.create("pages").ino;
    group.scatter(ino, 0, 2 * STEP_RECORDS as u64, 100);
    let gathered = gather(&group, ino, 0);
    assert_eq!((gathered.pieces.len(), gathered.bytes.len()), (STEP_RECORDS, STEP_RECORDS));
    assert_eq!(swap(&mut group, ino, 1, &gathered.pieces), Ok(Outcome::Stepped { more: true }));
    let state = machine::chunk_state(&group.records, SPACE, chunk(COMPACTOR, 1));
    assert!(matches!(state, Ok(ChunkState::Named { count, .. }) if count == STEP_RECORDS as u64), "{state:?}");
    let rest = gather(&group, ino, gathered.more_from.expect("there is more"));
    assert_eq!(swap(&mut group, ino, 2, &rest.pieces), Ok(Outcome::Stepped { more: false }));
    assert!(group.map(ino).iter().all(|extent| matches!(extent.body, ExtentBody::Chunk { .. })));
    group.check();
    // All pieces gone, both are garbage.
    assert!(group.ask(Op::Unlink { parent: Ino::ROOT, name: name("pages") }).is_ok());
    while group.own(Command::Step(Step::ReapOrphans { volume: VOLUME, inos: vec![ino] })).reply
        == Ok(Outcome::Stepped { more: true })
    {}
    let freed = machine::freed_chunks(&group.records, SPACE, None, 10).expect("a map");
    assert_eq!(freed.iter().map(|freed| freed.chunk.counter).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(waiting(&group), []);
    group.check();
}

#[test]
fn what_changed_meanwhile_stays_as_it_is() {
    let changes: Vec<(&str, Op)> = {
        let ino = Ino(2);
        let truncate = |size| Op::Truncate { ino, size, set: SetAttr::default(), opened: true };
        let allocate = |mode| Op::Allocate { ino, mode, offset: 30, len: 5 };
        vec![
            ("overwritten", commit(ino, vec![inline(100, b"new")])),
            ("overwritten by a chunk", commit(ino, vec![piece(100, chunk(crate::group::CLIENT, 1), 3)])),
            ("cut in the middle", truncate(50)),
            ("cut to nothing", truncate(0)),
            ("punched", allocate(AllocateMode::PunchHole)),
            ("zeroed", allocate(AllocateMode::ZeroRange)),
        ]
    };
    for (what, change) in changes {
        let mut group = Group::new();
        group.open(COMPACTOR);
        let ino = group.create("a").ino;
        assert_eq!(ino, Ino(2));
        append(&mut group, ino, 100);
        // A second stretch that nothing of this touches, and that may go in any case.
        let far = inline(1 << 20, b"far away");
        assert!(group.ask(commit(ino, vec![far])).is_ok());
        let gathered = gather(&group, ino, 0);
        assert_eq!(gathered.pieces.len(), 2);
        group.ask(change).unwrap_or_else(|refusal| panic!("{what}: {refusal}"));
        let before = group.map(ino);
        assert!(swap(&mut group, ino, 1, &gathered.pieces).is_ok(), "{what}");
        let near = |map: &[Extent]| map.iter().filter(|extent| extent.offset < 1 << 20).cloned().collect::<Vec<_>>();
        assert_eq!(near(&group.map(ino)), near(&before), "{what}");
        group.check();
    }
}

#[test]
fn what_was_written_again_with_the_same_bytes_may_go() {
    let mut group = Group::new();
    group.open(COMPACTOR);
    let ino = group.create("a").ino;
    let bytes = append(&mut group, ino, 100);
    let gathered = gather(&group, ino, 0);
    let again = Bytes::from(bytes[50..500].to_vec());
    let extent = Extent { offset: 50, len: 450, body: ExtentBody::Inline(again) };
    assert!(group.ask(commit(ino, vec![extent])).is_ok());
    // Appended to besides: that is not part of what was gathered.
    assert!(group.ask(commit(ino, vec![inline(bytes.len() as u64, b"more")])).is_ok());
    assert_eq!(swap(&mut group, ino, 1, &gathered.pieces), Ok(Outcome::Stepped { more: false }));
    assert_eq!(group.map(ino).len(), 2);
    group.check();
}

#[test]
fn only_a_live_session_compacts_and_only_once_into_a_chunk_that_was_not_given_up() {
    let mut group = Group::new();
    let ino = group.create("a").ino;
    append(&mut group, ino, 100);
    let gathered = gather(&group, ino, 0);
    assert!(matches!(swap(&mut group, ino, 1, &gathered.pieces), Err(Refusal::NoSession { .. })));
    group.open(COMPACTOR);
    let mut long = gathered.pieces.clone();
    long[0].len = u32::MAX;
    assert!(matches!(swap(&mut group, ino, 1, &long), Err(Refusal::Invalid { .. })));
    let many = vec![gathered.pieces[0]; STEP_RECORDS + 1];
    assert!(matches!(swap(&mut group, ino, 1, &many), Err(Refusal::Invalid { .. })));
    assert_eq!(swap(&mut group, ino, 1, &gathered.pieces), Ok(Outcome::Stepped { more: false }));
    // Written over: the chunk is freed, and a step that comes late can't bring it back.
    append(&mut group, ino, 100);
    group.check();
    let again = swap(&mut group, ino, 1, &gathered.pieces);
    assert!(matches!(again, Err(Refusal::ChunkNotYours { .. })), "{again:?}");
    group.own(Command::EndSession { client: COMPACTOR, space: SPACE }).reply.expect("ended");
    assert!(matches!(swap(&mut group, ino, 2, &gathered.pieces), Err(Refusal::SessionEnded { .. })));
    assert!(group.map(ino).iter().all(|extent| matches!(extent.body, ExtentBody::Inline(_))));
    // What is no file any more waits for nothing.
    assert!(group.ask(Op::Unlink { parent: Ino::ROOT, name: name("a") }).is_ok());
    assert!(group.own(Command::Step(Step::ReapOrphans { volume: VOLUME, inos: vec![ino] })).reply.is_ok());
    assert_eq!(swap(&mut group, ino, 3, &[]), Ok(Outcome::Stepped { more: false }));
    assert_eq!(compact::gather(&group.records, VOLUME, ino, 0), Ok(None));
    group.check();
}
