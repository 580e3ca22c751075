//! Volumes, spaces, junctions and slots.

use weft_core::entry::{Caller, Command, Cred};
use weft_core::ids::{ClientId, GroupId, Ino, SlotId, SpaceId, VolumeId};
use weft_core::machine;
use weft_core::namespace::inode::SlotRef;
use weft_core::namespace::op::{Op, RenameMode};
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::query::{Answer, Found, Query};
use weft_core::refusal::Refusal;
use weft_core::site::SiteCommand;

use crate::group::{CLIENT, Group, SPACE, VOLUME, chunk, commit, inline, name, piece};

const SLOT: SlotRef = SlotRef { space: SpaceId(9), slot: SlotId(4) };

#[test]
fn a_volume_is_attached_once_and_found_by_its_slot() {
    let mut group = Group::new();
    let file = group.create("a");
    group.attach(VOLUME, SPACE);
    assert_eq!(group.attr(file.ino), file, "attaching again changes nothing");
    assert_eq!(group.query(Query::Slot { space: SPACE, slot: SlotId(VOLUME.0) }), Ok(Answer::Slot(VOLUME)),);
    assert_eq!(group.query(Query::Slot { space: SPACE, slot: SlotId(5) }), Err(Refusal::NoSlot { slot: SlotId(5) }));
    assert_eq!(machine::volume_list(&group.records), Ok(vec![(VOLUME, SPACE)]));
    let root = machine::volume_root(&group.records, VOLUME).expect("a map").expect("a volume");
    assert_eq!((root.ino, root.parent, root.nlink, root.mode), (Ino::ROOT, Ino::ROOT, 2, 0o755));
    let none = Err(Refusal::NoVolume { what: "2".into() });
    assert_eq!(machine::volume_root(&group.records, VolumeId(2)), Ok(none.clone().map(|()| root)));
    assert_eq!(
        machine::query(&group.records, VolumeId(2), ClientId(0), &Cred::root(), &Query::Statfs).expect("a map"),
        none.map(|()| Answer::Done)
    );
}

#[test]
fn a_session_of_one_space_does_not_reach_another() {
    let mut group = Group::new();
    group.attach(VolumeId(2), SpaceId(2));
    let mut entry = group.request(group.caller(1), Op::Rmdir { parent: Ino::ROOT, name: name("a") });
    entry.command = Command::Op { volume: VolumeId(2), op: Op::Rmdir { parent: Ino::ROOT, name: name("a") } };
    assert!(matches!(group.apply(&entry).reply, Err(Refusal::WrongRecipient { .. })));
    let late = Command::OpenSession { client: CLIENT, space: SpaceId(3) };
    assert!(matches!(group.own(late).reply, Err(Refusal::NotServed { .. })));
    let site = Command::Site(SiteCommand::ClientIds { count: 1 });
    assert!(matches!(group.own(site.clone()).reply, Err(Refusal::NotServed { .. })), "group 1 keeps no site");
    let entry = weft_core::entry::Entry { time: Default::default(), caller: None, command: site };
    let reply = machine::apply(&group.records, GroupId::SYSTEM, &entry).expect("a map").reply;
    assert!(matches!(reply, Err(Refusal::NotServed { .. })), "nor has one been made: {reply:?}");
}

#[test]
fn bytes_are_shared_inside_a_space_and_not_across() {
    let mut group = Group::new();
    group.attach(VolumeId(2), SPACE);
    group.attach(VolumeId(3), SpaceId(3));
    let source = group.create("a").ino;
    let extents = vec![piece(0, chunk(CLIENT, 1), 100), inline(40, b"over")];
    assert!(group.ask(commit(source, extents)).is_ok());
    let make = Op::Create { parent: Ino::ROOT, name: name("b"), mode: 0o600, exclusive: true };
    group.seq += 1;
    let mut entry = group.request(group.caller(group.seq), make);
    let Command::Op { volume, .. } = &mut entry.command else { panic!("an operation") };
    *volume = VolumeId(2);
    let Ok(Outcome::Created { attr, .. }) = group.apply(&entry).reply else { panic!("no file") };

    let copy = |source_volume| Op::CopyRange {
        source_volume,
        source,
        source_offset: 10,
        target: attr.ino,
        target_offset: 0,
        len: 1000,
    };
    group.seq += 1;
    let mut entry = group.request(group.caller(group.seq), copy(VOLUME));
    entry.command = Command::Op { volume: VolumeId(2), op: copy(VOLUME) };
    let Ok(Outcome::Copied { len: 90, attr }) = group.apply(&entry).reply else { panic!("not copied") };
    assert_eq!((attr.size, attr.allocated, attr.volume), (90, 90, VolumeId(2)));
    let state = machine::chunk_state(&group.records, SPACE, chunk(CLIENT, 1)).expect("a map");
    assert!(matches!(state, machine::ChunkState::Named { count: 4, .. }), "{state:?}");
    group.check();
    assert_eq!(group.ask(copy(VolumeId(3))), Err(Refusal::CrossVolume));
    assert_eq!(group.ask(copy(VolumeId(4))), Err(Refusal::CrossVolume));
}

#[test]
fn junctions_are_the_superusers_and_stay_where_they_are() {
    let mut group = Group::new();
    let make = Op::MakeJunction { parent: Ino::ROOT, name: name("j"), slot: SLOT };
    group.seq += 1;
    let plain = Caller { cred: Cred { uid: 1000, ..Cred::default() }, ..group.caller(group.seq) };
    assert_eq!(group.apply(&group.request(plain, make.clone())).reply, Err(Refusal::NotPermitted));
    assert_eq!(group.ask(make.clone()), Ok(Outcome::Done));
    assert_eq!(group.ask(make), Err(Refusal::Exists { ino: Ino(0) }));
    assert_eq!(group.attr(Ino::ROOT).nlink, 3, "it shows as a directory");
    let found = group.query(Query::Lookup { parent: Ino::ROOT, name: name("j") });
    assert_eq!(found, Ok(Answer::Found(Found::Junction(SLOT))));
    group.create("a");
    let rename = |from: &str, to: &str, mode| Op::Rename {
        parent: Ino::ROOT,
        name: name(from),
        new_parent: Ino::ROOT,
        new_name: name(to),
        mode,
    };
    for op in [
        Op::Unlink { parent: Ino::ROOT, name: name("j") },
        Op::Rmdir { parent: Ino::ROOT, name: name("j") },
        rename("j", "k", RenameMode::Replace),
        rename("a", "j", RenameMode::Replace),
        rename("a", "j", RenameMode::Exchange),
    ] {
        assert!(matches!(group.ask(op.clone()), Err(Refusal::InUse { .. })), "{op:?}");
    }
    group.check();
    assert!(group.ask(Op::RemoveJunction { parent: Ino::ROOT, name: name("a") }).is_err());
    assert_eq!(group.ask(Op::RemoveJunction { parent: Ino::ROOT, name: name("j") }), Ok(Outcome::Done));
    assert_eq!(group.attr(Ino::ROOT).nlink, 2);
    group.check();
}
