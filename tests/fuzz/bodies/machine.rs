//! A change by a stranger, from its bytes into the machine: whatever a client sends may be refused, and neither stops a
//! replica nor harms its records.

use std::cell::RefCell;
use std::collections::BTreeMap;

use bytes::Bytes;
use weft_core::entry::{Caller, Command, Cred, Entry};
use weft_core::ids::{ClientId, GroupId, Ino, Seq, SlotId, SpaceId, VolumeId};
use weft_core::limits::MAX_CHANGES;
use weft_core::machine;
use weft_core::name::Name;
use weft_core::namespace::inode::{Extent, ExtentBody};
use weft_core::namespace::op::{Commit, Op, SetAttr};
use weft_core::namespace::volume::AttachVolume;
use weft_core::time::Timestamp;
use weft_proto::convert::{ParsedApply, parse_apply, parse_query};
use weft_proto::fuzzing::decode;

type Records = BTreeMap<Bytes, Bytes>;

const GROUP: GroupId = GroupId(1);
const VOLUME: VolumeId = VolumeId(1);
const SPACE: SpaceId = SpaceId(1);
const CLIENT: ClientId = ClientId(1);

thread_local! {
    static BEFORE: RefCell<Option<Records>> = const { RefCell::new(None) };
}

/// The change is applied to a small volume, as it is and as that of the session that is open there.
pub fn body(data: &[u8]) {
    if let Some(Ok(ParsedApply { envelope, volume, op, .. })) = decode(data).map(parse_apply) {
        let ours = Caller { client: CLIENT, space: SPACE, seq: Seq(100), acked_below: Seq(100), cred: Cred::root() };
        for (volume, caller) in [(volume, envelope.caller()), (VOLUME, ours)] {
            let mut records = before();
            let command = Command::Op { volume, op: op.clone() };
            let entry = Entry { time: Timestamp::default(), caller: Some(caller), command };
            let count = apply(&mut records, &entry);
            assert!(count <= MAX_CHANGES);
            let wrong = machine::recount(&records).expect("sound records");
            assert!(wrong.is_empty(), "{wrong:?} after {op:?}");
        }
    }
    if let Some(Ok(parsed)) = decode(data).map(parse_query) {
        for volume in [parsed.volume, VOLUME] {
            let answer =
                machine::query(&before(), volume, parsed.envelope.client, &parsed.envelope.cred, &parsed.query);
            assert!(answer.is_ok(), "{:?}: {answer:?}", parsed.query);
        }
    }
}

fn before() -> Records {
    BEFORE.with_borrow_mut(|records| records.get_or_insert_with(make).clone())
}

/// A volume with directories, a file of several extents and a link.
fn make() -> Records {
    let mut records = Records::new();
    let own = |command| Entry { time: Timestamp::default(), caller: None, command };
    let attach = AttachVolume { volume: VOLUME, space: SPACE, slot: SlotId(1), mode: 0o777, uid: 0, gid: 0 };
    apply(&mut records, &own(Command::AttachVolume(attach)));
    apply(&mut records, &own(Command::OpenSession { client: CLIENT, space: SPACE }));
    let name = |text: &'static str| Name::parse(text).expect("a good name");
    let inline = |offset, text: &'static str| Extent {
        offset,
        len: text.len() as u32,
        body: ExtentBody::Inline(Bytes::from_static(text.as_bytes())),
    };
    let commit = Commit {
        ino: Ino(3),
        extents: vec![inline(0, "some"), inline(10, "bytes"), inline(4096, "far behind")],
        size_at_least: 0,
        mtime: None,
        set: SetAttr::default(),
        clear_suid: false,
    };
    let ops = [
        Op::Mkdir { parent: Ino::ROOT, name: name("a"), mode: 0o755 },
        Op::Create { parent: Ino(2), name: name("f"), mode: 0o644, exclusive: true },
        Op::Commit(commit),
        Op::Link { ino: Ino(3), parent: Ino::ROOT, name: name("b") },
        Op::Mkdir { parent: Ino(2), name: name("d"), mode: 0o700 },
    ];
    for (seq, op) in (1..).zip(ops) {
        let cred = Cred::root();
        let caller = Caller { client: CLIENT, space: SPACE, seq: Seq(seq), acked_below: Seq(seq), cred };
        let command = Command::Op { volume: VOLUME, op };
        apply(&mut records, &Entry { time: Timestamp::default(), caller: Some(caller), command });
    }
    records
}

fn apply(records: &mut Records, entry: &Entry) -> usize {
    let applied = machine::apply(records, GROUP, entry).expect("sound records");
    let count = applied.changes.len();
    for (key, value) in applied.changes {
        match value {
            Some(value) => drop(records.insert(key, value)),
            None => drop(records.remove(&key)),
        }
    }
    count
}
