//! Deleting volumes.

use weft_core::entry::Command;
use weft_core::ids::{SlotId, VolumeId};
use weft_core::machine;
use weft_core::namespace::audit::Audit;
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
    assert!(group.ask(Op::Unlink { parent: weft_core::ids::Ino::ROOT, name: name("gone") }).is_ok());

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
