//! Deleting volumes.

use weft_core::entry::Command;
use weft_core::ids::{ClientId, Ino, SlotId, SpaceId, VolumeId};
use weft_core::limits::{MAX_CHANGES, MAX_PENDING};
use weft_core::machine;
use weft_core::namespace::audit::Audit;
use weft_core::namespace::garbage::{freed, garbage};
use weft_core::namespace::op::Op;
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::query::{Answer, Query};
use weft_core::namespace::step::Step;
use weft_core::namespace::volume::AttachVolume;
use weft_core::refusal::Refusal;

use crate::group::{CLIENT, Group, SPACE, VOLUME, chunk, commit, name, piece};

const OTHER: VolumeId = VolumeId(2);

/// Both recounts find nothing.
fn right(group: &Group) {
    group.check();
    let mut audit = Audit::new(&group.records, None, 100).expect("a map in memory does not fail");
    while audit.step(&group.records, 500).expect("a map in memory does not fail") {}
    assert_eq!(audit.take_wrong(), Vec::<String>::new());
}

#[test]
fn a_volume_goes_step_by_step_with_every_count_right_and_never_comes_back() {
    let mut group = Group::new();
    group.attach(OTHER, SPACE);
    let empty = group.records.len();
    let (file, gone) = (group.create("file").ino, group.create("gone").ino);
    for nth in 0..3000u64 {
        let extent = piece(nth * 100, chunk(CLIENT, nth / 2), 100);
        assert!(group.ask(commit(file, vec![extent])).is_ok());
    }
    assert!(group.ask(commit(gone, vec![piece(0, chunk(CLIENT, 7), 100)])).is_ok());
    assert!(group.ask(Op::Unlink { parent: Ino::ROOT, name: name("gone") }).is_ok());

    let step = || Command::Step(Step::DropVolume { volume: VOLUME });
    let mut steps = 0;
    loop {
        let reply = group.own(step()).reply;
        right(&group);
        steps += 1;
        // From the first step on nobody finds it.
        let refused = Err(Refusal::NoVolume { what: VOLUME.to_string() });
        assert_eq!(group.query(Query::Statfs), refused.clone().map(|()| Answer::Done));
        assert_eq!(group.ask(Op::Rmdir { parent: file, name: name("a") }), refused.map(|()| Outcome::Done));
        match reply {
            Ok(Outcome::Stepped { more: true }) => {}
            Ok(Outcome::Stepped { more: false }) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(steps > 3, "bounded steps, not {steps}");
    let freed = machine::freed_chunks(&group.records, SPACE, None, 10_000).expect("a map in memory");
    assert_eq!(freed.len(), 1500);
    let before = group.records.clone();
    assert_eq!(group.own(step()).reply, Ok(Outcome::Stepped { more: false }), "again changes nothing");
    assert_eq!(group.records, before);
    let slot = SlotId(VOLUME.0);
    let again = AttachVolume { volume: VOLUME, space: SPACE, slot, mode: 0o755, uid: 0, gid: 0 };
    let reply = group.own(Command::AttachVolume(again)).reply;
    assert!(matches!(reply, Err(Refusal::NoVolume { .. })), "a late entry does not bring it back: {reply:?}");
    assert_eq!(machine::volume_list(&group.records), Ok(vec![(OTHER, SPACE)]), "the other one stays");
    let left = group.records.keys().filter(|key| key[0] == 0x10).count();
    assert_eq!(left, 1, "the root of the other volume; there were {empty} records before");
}

fn drop_volume(group: &mut Group, volume: VolumeId) -> usize {
    for taken in 1..10_000 {
        let applied = group.own(Command::Step(Step::DropVolume { volume }));
        assert!(applied.changes.len() <= MAX_CHANGES);
        if applied.reply == Ok(Outcome::Stepped { more: false }) {
            return taken;
        }
    }
    panic!("no end of it")
}

#[test]
fn chunks_of_a_space_without_volumes_are_garbage_though_their_uploader_lives() {
    let mut group = Group::new();
    let file = group.create("a").ino;
    let (named, stored, foreign) = (chunk(CLIENT, 1), chunk(CLIENT, 2), chunk(ClientId(4711), 1));
    assert!(group.ask(commit(file, vec![piece(0, named, 100)])).is_ok());
    let all = [named, stored, foreign];
    let found = |group: &Group| garbage(&group.records, SPACE, &all).expect("a map");
    assert_eq!(found(&group), []);
    // While its records go, what they name is named.
    assert!(group.own(Command::Step(Step::DropVolume { volume: VOLUME })).reply.is_ok());
    assert_eq!(found(&group), []);
    drop_volume(&mut group, VOLUME);
    assert_eq!(found(&group), all, "the session is open, and has nothing left to name them in");
    assert_eq!(garbage(&group.records, SpaceId(99), &all), Ok(vec![]), "a space that was never here");
    let forget = Step::ForgetFreed { space: SPACE, chunks: all.to_vec() };
    assert!(freed(&group.records, None, 10).expect("a map").iter().all(|freed| freed.ended));
    assert!(group.own(Command::Step(forget)).reply.is_ok());
    assert_eq!(freed(&group.records, None, 10), Ok(vec![]));
    // Nothing comes into the space again: its chunks may be deleted by now.
    let late = AttachVolume { volume: OTHER, space: SPACE, slot: SlotId(2), mode: 0o755, uid: 0, gid: 0 };
    let reply = group.own(Command::AttachVolume(late)).reply;
    assert!(matches!(reply, Err(Refusal::NoVolume { .. })), "{reply:?}");
    // Another space of the group is not touched by it.
    group.attach(OTHER, SpaceId(2));
    assert_eq!(garbage(&group.records, SpaceId(2), &all), Ok(vec![]));
}

/// Names in the big trees, each of a file with one extent.
const FOLDERS: u64 = 50;
const FILES: u64 = 2000;

fn big_tree(group: &mut Group) {
    for folder in 0..FOLDERS {
        let made = group.ask(Op::Mkdir { parent: Ino::ROOT, name: name(&folder.to_string()), mode: 0o755 });
        let Ok(Outcome::Created { attr, .. }) = made else { panic!("{made:?}") };
        for file in 0..FILES {
            let op = Op::Create { parent: attr.ino, name: name(&file.to_string()), mode: 0o644, exclusive: true };
            let Ok(Outcome::Created { attr, .. }) = group.ask(op) else { panic!("not created") };
            let extent = piece(0, chunk(CLIENT, attr.ino.0), 100);
            assert!(group.ask(commit(attr.ino, vec![extent])).is_ok());
        }
    }
}

#[test]
fn a_volume_of_a_hundred_thousand_files_goes_in_bounded_steps_and_leaves_nothing() {
    let mut group = Group::new();
    big_tree(&mut group);
    assert!(group.records.len() as u64 > 4 * FOLDERS * FILES);
    let steps = drop_volume(&mut group, VOLUME);
    // Of each file an extent, an inode and a name.
    assert!(steps as u64 >= 3 * FOLDERS * FILES / 1024, "{steps}");
    while !forget_some(&mut group) {}
    // Its mark, the space, the session with its ring of replies, the clock.
    assert!(group.records.len() <= 1024 + 8, "{}", group.records.len());
}

#[test]
fn a_tree_of_a_hundred_thousand_files_is_removed_name_by_name_with_bounded_lists() {
    let mut group = Group::new();
    big_tree(&mut group);
    for folder in 0..FOLDERS {
        let parent = Ino(2 + folder * (FILES + 1));
        for file in 0..FILES {
            let applied = group.once(Op::Unlink { parent, name: name(&file.to_string()) });
            assert!(applied.reply.is_ok() && applied.changes.len() <= 10);
        }
        assert!(group.ask(Op::Rmdir { parent: Ino::ROOT, name: name(&folder.to_string()) }).is_ok());
    }
    let mut turns = 0;
    loop {
        let pending = machine::pending(&group.records, usize::MAX).expect("a map");
        assert!(pending.orphans.len() <= MAX_PENDING);
        if pending.orphans.is_empty() {
            break;
        }
        turns += 1;
        for (volume, ino) in pending.orphans {
            let applied = group.own(Command::Step(Step::ReapOrphans { volume, inos: vec![ino] }));
            assert!(applied.reply == Ok(Outcome::Stepped { more: false }) && applied.changes.len() <= 10);
        }
    }
    assert_eq!(turns, (FOLDERS * (FILES + 1)).div_ceil(MAX_PENDING as u64));
    group.own(Command::EndSession { client: CLIENT, space: SPACE }).reply.expect("ended");
    while !forget_some(&mut group) {}
    assert!(group.records.len() <= 8, "{}", group.records.len());
    group.check();
}

/// Forgets a page of the freed, as a leader does once they are deleted; whether that were all.
fn forget_some(group: &mut Group) -> bool {
    let page = freed(&group.records, None, 1024).expect("a map");
    let chunks: Vec<_> = page.iter().filter(|freed| freed.ended).map(|freed| freed.chunk).collect();
    assert_eq!(chunks.len(), page.len(), "all may be forgotten");
    let applied = group.own(Command::Step(Step::ForgetFreed { space: SPACE, chunks }));
    assert!(applied.reply.is_ok() && applied.changes.len() <= MAX_CHANGES);
    page.is_empty()
}
