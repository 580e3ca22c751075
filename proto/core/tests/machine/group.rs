//! A group of records in memory, driven entry by entry.

use std::collections::BTreeMap;

use bytes::Bytes;
use weft_core::codec;
use weft_core::entry::{Caller, Command, Cred, Entry};
use weft_core::ids::{ChunkId, ClientId, GroupId, Ino, PgId, Seq, SlotId, SpaceId, VolumeId};
use weft_core::limits::MAX_CHANGES;
use weft_core::machine::{self, Applied};
use weft_core::name::Name;
use weft_core::namespace::inode::{Attr, Extent, ExtentBody};
use weft_core::namespace::op::{Commit, Op, SetAttr};
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::query::{Answer, Query};
use weft_core::namespace::step::Step;
use weft_core::namespace::volume::AttachVolume;
use weft_core::refusal::Refusal;
use weft_core::time::Timestamp;

pub(crate) const GROUP: GroupId = GroupId(1);
pub(crate) const VOLUME: VolumeId = VolumeId(1);
pub(crate) const SPACE: SpaceId = SpaceId(1);
pub(crate) const CLIENT: ClientId = ClientId(77);

pub(crate) struct Group {
    pub(crate) records: BTreeMap<Bytes, Bytes>,
    pub(crate) seq: u64,
    pub(crate) time: u64,
}

impl Group {
    /// One volume and one session.
    pub(crate) fn new() -> Group {
        let mut group = Group { records: BTreeMap::new(), seq: 0, time: 1_000 };
        group.attach(VOLUME, SPACE);
        group.open(CLIENT);
        group
    }

    pub(crate) fn attach(&mut self, volume: VolumeId, space: SpaceId) {
        let attach = AttachVolume { volume, space, slot: SlotId(volume.0), mode: 0o755, uid: 0, gid: 0 };
        assert_eq!(self.own(Command::AttachVolume(attach)).reply, Ok(Outcome::Done));
    }

    pub(crate) fn open(&mut self, client: ClientId) {
        assert_eq!(self.own(Command::OpenSession { client, space: SPACE }).reply, Ok(Outcome::Done));
    }

    pub(crate) fn apply(&mut self, entry: &Entry) -> Applied {
        // As it comes out of the log.
        let entry = codec::decode_entry(&codec::encode_entry(entry)).expect("an entry");
        let applied = machine::apply(&self.records, GROUP, &entry).expect("a map in memory does not fail");
        assert!(applied.changes.len() <= MAX_CHANGES);
        for (key, change) in applied.changes.clone() {
            match change {
                Some(value) => drop(self.records.insert(key, value)),
                None => drop(self.records.remove(&key)),
            }
        }
        applied
    }

    pub(crate) fn own(&mut self, command: Command) -> Applied {
        self.apply(&Entry { time: Timestamp::from_nanos(self.time), caller: None, command })
    }

    pub(crate) fn caller(&self, seq: u64) -> Caller {
        let acked_below = Seq(seq.saturating_sub(8));
        Caller { client: CLIENT, space: SPACE, seq: Seq(seq), acked_below, cred: Cred::root() }
    }

    pub(crate) fn request(&self, caller: Caller, op: Op) -> Entry {
        let command = Command::Op { volume: VOLUME, op };
        Entry { time: Timestamp::from_nanos(self.time), caller: Some(caller), command }
    }

    /// Asks once, under the next number.
    pub(crate) fn once(&mut self, op: Op) -> Applied {
        self.seq += 1;
        self.time += 1;
        let entry = self.request(self.caller(self.seq), op);
        self.apply(&entry)
    }

    pub(crate) fn ask(&mut self, op: Op) -> Result<Outcome, Refusal> {
        self.once(op).reply
    }

    /// Asks as a leader does: a cut that is pending gets its next step, then the same request is tried again. How
    /// often it was tried comes with the reply.
    pub(crate) fn ask_on(&mut self, op: Op) -> (Result<Outcome, Refusal>, u32) {
        let mut reply = self.ask(op.clone());
        for tried in 1..1000 {
            let Err(Refusal::CutPending { ino }) = reply else { return (reply, tried) };
            let step = Step::FinishCut { volume: VOLUME, ino };
            assert!(matches!(self.own(Command::Step(step)).reply, Ok(Outcome::Stepped { .. })));
            let entry = self.request(self.caller(self.seq), op.clone());
            reply = self.apply(&entry).reply;
        }
        panic!("no end of it")
    }

    pub(crate) fn create(&mut self, name: &str) -> Attr {
        let op = Op::Create { parent: Ino::ROOT, name: self::name(name), mode: 0o644, exclusive: true };
        match self.ask(op) {
            Ok(Outcome::Created { attr, fresh: true }) => attr,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn attr(&self, ino: Ino) -> Attr {
        match self.query(Query::Getattr { ino }) {
            Ok(Answer::Attr(attr)) => attr,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn query(&self, query: Query) -> Result<Answer, Refusal> {
        machine::query(&self.records, VOLUME, ClientId(0), &Cred::root(), &query)
            .expect("a map in memory does not fail")
    }

    /// All extents of a file up to its end.
    pub(crate) fn map(&self, ino: Ino) -> Vec<Extent> {
        let (mut all, mut from) = (Vec::new(), Some(0));
        while let Some(offset) = from {
            let Ok(Answer::Map { extents, more_from, .. }) = self.query(Query::Map { ino, offset, limit: 4096 }) else {
                panic!("no map")
            };
            all.extend(extents);
            from = more_from;
        }
        all
    }

    pub(crate) fn check(&self) {
        assert_eq!(machine::recount(&self.records).expect("a map in memory does not fail"), Vec::<String>::new());
    }

    /// Writes `count` extents of one byte each, from `offset` on, every one apart from the next by `stride`.
    pub(crate) fn scatter(&mut self, ino: Ino, offset: u64, count: u64, stride: u64) {
        let offsets: Vec<u64> = (0..count).map(|nth| offset + nth * stride).collect();
        for offsets in offsets.chunks(512) {
            let extents = offsets.iter().map(|offset| inline(*offset, b"x")).collect();
            assert!(self.ask(commit(ino, extents)).is_ok());
        }
    }
}

pub(crate) fn name(text: &str) -> Name {
    Name::parse(text.as_bytes().to_vec()).expect("a good name")
}

pub(crate) fn commit(ino: Ino, extents: Vec<Extent>) -> Op {
    Op::Commit(Commit { ino, extents, size_at_least: 0, mtime: None, set: SetAttr::default(), clear_suid: false })
}

pub(crate) fn inline(offset: u64, bytes: &'static [u8]) -> Extent {
    Extent { offset, len: bytes.len() as u32, body: ExtentBody::Inline(Bytes::from_static(bytes)) }
}

pub(crate) fn chunk(client: ClientId, counter: u64) -> ChunkId {
    ChunkId { client, counter }
}

/// All of a chunk, at `offset`.
pub(crate) fn piece(offset: u64, id: ChunkId, len: u32) -> Extent {
    Extent { offset, len, body: ExtentBody::Chunk { chunk: id, pg: PgId(1), at: 0, chunk_len: len } }
}
