//! Which chunks may be deleted, and that none of them can be named afterwards.

use weft_core::entry::Command;
use weft_core::ids::{ChunkId, ClientId, Ino, SpaceId};
use weft_core::namespace::garbage::{freed, garbage};
use weft_core::namespace::op::Op;
use weft_core::namespace::step::Step;
use weft_core::refusal::Refusal;

use crate::group::{CLIENT, Group, SPACE, chunk, commit, name, piece};

#[test]
fn only_what_nobody_can_name_is_garbage() {
    let mut group = Group::new();
    let file = group.create("a").ino;
    let all: Vec<ChunkId> = (1..=4).map(|counter| chunk(CLIENT, counter)).collect();
    // 1 and 2 are named, 3 and 4 were stored only.
    assert!(group.ask(commit(file, vec![piece(0, all[0], 100)])).is_ok());
    assert!(group.ask(commit(file, vec![piece(100, all[1], 100)])).is_ok());
    let found = |group: &Group| garbage(&group.records, SPACE, &all).expect("a map");
    assert_eq!(found(&group), []);
    // A later write lies over 1.
    assert!(group.ask(commit(file, vec![piece(0, all[2], 100)])).is_ok());
    assert_eq!(found(&group), [all[0]]);
    let listed = freed(&group.records, None, 10).expect("a map");
    assert_eq!(listed.iter().map(|freed| (freed.chunk, freed.ended)).collect::<Vec<_>>(), [(all[0], false)]);
    let again = group.ask(commit(file, vec![piece(0, all[0], 100)]));
    assert!(matches!(again, Err(Refusal::ChunkNotYours { .. })), "what may be deleted is never named again: {again:?}");
    let forget = Command::Step(Step::ForgetFreed { space: SPACE, chunks: all.clone() });
    assert!(group.own(forget.clone()).reply.is_ok());
    assert_eq!(found(&group), [all[0]], "not forgotten while it could be named");

    group.own(Command::EndSession { client: CLIENT, space: SPACE }).reply.expect("ended");
    assert_eq!(found(&group), [all[0], all[3]], "what was never named is given up with its session");
    assert!(freed(&group.records, None, 10).expect("a map").iter().all(|freed| freed.ended));
    group.own(forget).reply.expect("forgotten");
    assert_eq!(freed(&group.records, None, 10), Ok(vec![]));
    assert_eq!(found(&group), [all[0], all[3]]);
    let late = group.ask(commit(file, vec![piece(0, all[3], 100)]));
    assert!(matches!(late, Err(Refusal::SessionEnded { .. })), "{late:?}");

    let strangers = [chunk(ClientId(4711), 1)];
    assert_eq!(garbage(&group.records, SPACE, &strangers), Ok(vec![]), "a session that is not known");
    assert_eq!(garbage(&group.records, SpaceId(99), &all), Ok(vec![]), "a space that is not known");
}

#[test]
fn freed_chunks_are_listed_page_by_page() {
    let mut group = Group::new();
    for counter in 1..=20 {
        let file = group.create(&format!("{counter}")).ino;
        assert!(group.ask(commit(file, vec![piece(0, chunk(CLIENT, counter), 100)])).is_ok());
        assert!(group.ask(Op::Unlink { parent: Ino::ROOT, name: name(&format!("{counter}")) }).is_ok());
        let volume = crate::group::VOLUME;
        group.own(Command::Step(Step::ReapOrphans { volume, inos: vec![file] })).reply.expect("reaped");
    }
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let page = freed(&group.records, after, 7).expect("a map");
        let Some(last) = page.last() else { break };
        after = Some((last.space, last.chunk));
        seen.extend(page.iter().map(|freed| freed.chunk.counter));
    }
    assert_eq!(seen, (1..=20).collect::<Vec<u64>>());
}

#[test]
fn a_client_that_lives_lets_go_of_what_it_will_not_name() {
    let mut group = Group::new();
    let file = group.create("a").ino;
    let all: Vec<ChunkId> = (1..=4).map(|counter| chunk(CLIENT, counter)).collect();
    assert!(group.ask(commit(file, vec![piece(0, all[0], 100)])).is_ok());
    assert!(group.ask(commit(file, vec![piece(0, all[2], 100)])).is_ok());
    let say = |counter| Command::NameNoneBelow { client: CLIENT, space: SPACE, counter };
    let settled = |group: &Group| {
        let listed = freed(&group.records, None, 10).expect("a map");
        listed.iter().map(|freed| (freed.chunk, freed.ended)).collect::<Vec<_>>()
    };
    assert_eq!(settled(&group), [(all[0], false)]);
    group.own(say(3)).reply.expect("said");
    // 1 was freed and may be forgotten, 2 was never named and is garbage, 3 is named, 4 may be named yet.
    assert_eq!(settled(&group), [(all[0], true)]);
    assert_eq!(garbage(&group.records, SPACE, &all), Ok(vec![all[0], all[1]]));
    group.own(Command::Step(Step::ForgetFreed { space: SPACE, chunks: all.clone() })).reply.expect("forgotten");
    assert_eq!(settled(&group), []);
    for id in &all[..2] {
        let late = group.ask(commit(file, vec![piece(500, *id, 100)]));
        assert!(matches!(late, Err(Refusal::ChunkNotYours { .. })), "said is said: {late:?}");
    }
    assert!(group.ask(commit(file, vec![piece(500, all[2], 100)])).is_ok(), "one that is named may be named again");
    assert!(group.ask(commit(file, vec![piece(900, all[3], 100)])).is_ok());
    // It is not taken back, and other requests of the session do not lose it.
    group.own(say(1)).reply.expect("said");
    assert!(matches!(group.ask(commit(file, vec![piece(0, all[1], 100)])), Err(Refusal::ChunkNotYours { .. })));
    let nobody = Command::NameNoneBelow { client: ClientId(4711), space: SPACE, counter: 1 };
    assert!(matches!(group.own(nobody).reply, Err(Refusal::NoSession { .. })));
    group.own(Command::EndSession { client: CLIENT, space: SPACE }).reply.expect("ended");
    group.own(say(9)).reply.expect("said too late, which harms nobody");
    let late = group.ask(commit(file, vec![piece(0, chunk(CLIENT, 10), 100)]));
    assert!(matches!(late, Err(Refusal::SessionEnded { .. })), "{late:?}");
    group.check();
}
