//! The namespace against a plain tree that is fed the same entries in the same order.

mod audit;
mod compare;
mod tree;

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use weft_core::entry::{Caller, Command, Cred, Entry};
use weft_core::ids::{ChunkId, ClientId, GroupId, Ino, PgId, Seq, SlotId, SpaceId};
use weft_core::machine::{self, Applied};
use weft_core::name::{Name, XattrName};
use weft_core::namespace::compact::{self, Gathered};
use weft_core::namespace::inode::{Extent, ExtentBody, Kind};
use weft_core::namespace::op::{AllocateMode, Commit, Op, RenameMode, SetAttr, SetTime, XattrMode};
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::query::{Answer, Query};
use weft_core::namespace::step::Step;
use weft_core::namespace::volume::AttachVolume;
use weft_core::refusal::Refusal;
use weft_core::time::Timestamp;

use compare::{plain, plain_refusal};
use tree::{Tree, VOLUME};

const GROUP: GroupId = GroupId(1);
const SPACE: SpaceId = SpaceId(3);
const CLIENTS: [ClientId; 2] = [ClientId(11), ClientId(12)];
/// Who moves bytes from records into chunks.
const COMPACTOR: ClientId = ClientId(13);
const CHUNK_LEN: u32 = 64;

/// A roll of dice that becomes an operation once it is known what there is.
#[derive(Clone, Debug, Default)]
struct Roll {
    what: u8,
    who: u8,
    inodes: [u8; 3],
    names: [u8; 2],
    mode: u16,
    spans: [(u8, u8); 3],
    bits: u16,
    tick: u8,
}

fn roll() -> impl Strategy<Value = Roll> {
    let head = (any::<u8>(), any::<u8>(), any::<[u8; 3]>(), any::<[u8; 2]>());
    let rest = (any::<u16>(), any::<[(u8, u8); 3]>(), any::<u16>(), any::<u8>());
    (head, rest).prop_map(|((what, who, inodes, names), (mode, spans, bits, tick))| Roll {
        what,
        who,
        inodes,
        names,
        mode,
        spans,
        bits,
        tick,
    })
}

/// Machine and model side by side.
struct Pair {
    records: BTreeMap<Bytes, Bytes>,
    tree: Tree,
    clock: u64,
    last: u64,
    seqs: [u64; 2],
    chunks: Vec<ChunkId>,
    /// Bytes of a file as they were read to be compacted.
    gathered: Option<(Ino, Gathered)>,
    /// Requests with the replies they got.
    log: Vec<(Entry, Result<Outcome, Refusal>)>,
}

impl Pair {
    fn new() -> Pair {
        let start = 1_000_000_000;
        let mut pair = Pair {
            records: BTreeMap::new(),
            tree: Tree::new(Timestamp::from_nanos(start)),
            clock: start,
            last: start,
            seqs: [0; 2],
            chunks: Vec::new(),
            gathered: None,
            log: Vec::new(),
        };
        let attach = AttachVolume { volume: VOLUME, space: SPACE, slot: SlotId(5), mode: 0o777, uid: 0, gid: 0 };
        pair.own(Command::AttachVolume(attach)).expect("a volume");
        for client in [CLIENTS[0], CLIENTS[1], COMPACTOR] {
            pair.own(Command::OpenSession { client, space: SPACE }).expect("a session");
        }
        pair
    }

    fn apply(&mut self, entry: &Entry) -> Applied {
        let applied = machine::apply(&self.records, GROUP, entry).expect("a map in memory does not fail");
        for (key, change) in applied.changes.clone() {
            match change {
                Some(value) => drop(self.records.insert(key, value)),
                None => drop(self.records.remove(&key)),
            }
        }
        applied
    }

    fn own(&mut self, command: Command) -> Result<Outcome, Refusal> {
        let entry = Entry { time: Timestamp::from_nanos(self.last), caller: None, command };
        self.apply(&entry).reply
    }

    fn step(&mut self, roll: &Roll) {
        if roll.what >= 250 {
            return self.housekeeping(roll);
        }
        if roll.what >= 240 {
            return self.compaction(roll);
        }
        // The leader's clock may jump back; the group's time never does.
        self.clock = if roll.tick < 20 { self.clock.saturating_sub(5_000) } else { self.clock + u64::from(roll.tick) };
        self.last = self.last.max(self.clock);
        let op = self.op(roll);
        let at = usize::from(roll.who & 1);
        let client = CLIENTS[at];
        self.seqs[at] += 1;
        let cred = match roll.who >> 1 & 3 {
            0 | 1 => Cred::root(),
            2 => Cred { uid: 1000, gid: 1000, gids: vec![2000], ..Cred::default() },
            _ => Cred { uid: 1001, gid: 2000, gids: vec![], ..Cred::default() },
        };
        let caller = Caller { client, space: SPACE, seq: Seq(self.seqs[at]), acked_below: Seq(0), cred: cred.clone() };
        let entry = Entry {
            time: Timestamp::from_nanos(self.clock),
            caller: Some(caller),
            command: Command::Op { volume: VOLUME, op: op.clone() },
        };
        let applied = self.apply(&entry);
        let expected = self.tree.run(Timestamp::from_nanos(self.last), client, &cred, &op);
        assert_eq!(
            plain(applied.reply.clone()),
            expected.map_err(|refusal| plain_refusal(&refusal)),
            "{op:?} by {}",
            cred.uid
        );
        self.log.push((entry, applied.reply));
    }

    fn housekeeping(&mut self, roll: &Roll) {
        let pending = machine::pending(&self.records, 100).expect("a map in memory does not fail");
        for (volume, ino) in pending.cuts {
            self.own(Command::Step(Step::FinishCut { volume, ino })).expect("a step");
        }
        if roll.what >= 253 {
            // Of all inodes, to see that a step which is not due does nothing.
            let ino = self.known(roll.inodes[0]);
            let more = self.own(Command::Step(Step::ReapOrphans { volume: VOLUME, inos: vec![ino] })).expect("a step");
            assert_eq!(more, Outcome::Stepped { more: false });
            self.tree.reap(ino.0);
        } else {
            let (max_bytes, max_inodes) = if roll.bits & 1 == 0 { (0, 0) } else { (300, 12) };
            self.own(Command::SetQuota { volume: VOLUME, max_bytes, max_inodes }).expect("a quota");
            (self.tree.max_bytes, self.tree.max_inodes) = (max_bytes, max_inodes);
        }
    }

    /// Reads what lies in a file's records, or, perhaps much later, has it moved into a chunk.
    fn compaction(&mut self, roll: &Roll) {
        let Some((ino, gathered)) = self.gathered.take() else {
            let (ino, from) = (self.file(roll.inodes[0]), u64::from(roll.spans[0].0) / 4);
            let gathered = compact::gather(&self.records, VOLUME, ino, from).expect("a map in memory does not fail");
            self.gathered = gathered.map(|gathered| (ino, gathered));
            if roll.bits & 1 == 0 {
                self.compaction_of_all(ino);
            }
            return;
        };
        let compacted = std::rc::Rc::make_mut(&mut self.tree.compacted);
        let chunk = ChunkId { client: COMPACTOR, counter: compacted.len() as u64 };
        compacted.insert(chunk, gathered.bytes.clone());
        let pieces = gathered.pieces;
        self.own(Command::Step(Step::Compact { volume: VOLUME, ino, chunk, pg: PgId(2), pieces })).expect("a step");
        let mut from = Some(0);
        while let Some(offset) = from {
            let query = Query::Map { ino, offset, limit: 100 };
            let answer = machine::query(&self.records, VOLUME, ClientId(0), &Cred::root(), &query).expect("a map");
            // Of a file that has gone meanwhile nothing is moved.
            let Ok(Answer::Map { extents, more_from, .. }) = answer else { return };
            for extent in extents {
                if let ExtentBody::Chunk { chunk: its, at, .. } = extent.body
                    && its == chunk
                {
                    let bytes = &gathered.bytes[at as usize..][..extent.len as usize];
                    self.tree.compact(ino.0, extent.offset, chunk, bytes);
                }
            }
            from = more_from;
        }
    }

    /// What nobody touched since it was read is moved whole.
    fn compaction_of_all(&mut self, ino: Ino) {
        let Some((_, gathered)) = self.gathered.clone() else { return };
        let from = gathered.pieces.first().map_or(u64::MAX, |piece| piece.offset);
        self.compaction(&Roll::default());
        let again = compact::gather(&self.records, VOLUME, ino, from).expect("a map in memory does not fail");
        assert_eq!(again.expect("a file").extents, 0);
    }

    /// An inode that is there, now and then one that is not.
    fn known(&self, dice: u8) -> Ino {
        let inos: Vec<u64> = self.tree.nodes.keys().copied().chain([9999]).collect();
        Ino(inos[usize::from(dice) % inos.len()])
    }

    /// Mostly a directory.
    fn dir(&self, dice: u8) -> Ino {
        if dice >= 240 {
            return self.known(dice);
        }
        let dirs: Vec<u64> =
            self.tree.nodes.iter().filter(|(_, node)| node.kind == Kind::Directory).map(|(ino, _)| *ino).collect();
        Ino(dirs[usize::from(dice) % dirs.len()])
    }

    /// Mostly a file.
    fn file(&self, dice: u8) -> Ino {
        let files: Vec<u64> =
            self.tree.nodes.iter().filter(|(_, node)| node.kind == Kind::File).map(|(ino, _)| *ino).collect();
        if dice >= 240 || files.is_empty() { self.known(dice) } else { Ino(files[usize::from(dice) % files.len()]) }
    }

    fn op(&mut self, roll: &Roll) -> Op {
        let name = |dice: u8| Name::parse(vec![b'a' + dice % 4; 1 + usize::from(dice / 64)]).expect("a good name");
        let (parent, name, new_name) = (self.dir(roll.inodes[0]), name(roll.names[0]), name(roll.names[1]));
        let mode = roll.mode & 0o7777 | if roll.bits & 0x8000 == 0 { 0o700 } else { 0 };
        let (ino, file) = (self.known(roll.inodes[1]), self.file(roll.inodes[1]));
        let (offset, len) = (u64::from(roll.spans[0].0) / 2, u64::from(roll.spans[0].1) / 4);
        match roll.what % 25 {
            0 | 1 => Op::Mkdir { parent, name, mode },
            2 | 3 => Op::Create { parent, name, mode, exclusive: roll.bits & 1 == 0 },
            4 => {
                let kinds = [Kind::File, Kind::Fifo, Kind::Socket, Kind::CharDevice, Kind::BlockDevice];
                Op::Mknod { parent, name, kind: kinds[usize::from(roll.bits % 5)], mode, rdev: 0x103 }
            }
            5 => Op::Symlink { parent, name, target: Bytes::from(vec![b't'; usize::from(roll.bits % 3)]) },
            6 => Op::Link { ino: if roll.bits & 3 == 0 { ino } else { file }, parent, name },
            7 => Op::Unlink { parent, name },
            8 => Op::Rmdir { parent, name },
            9..=11 => {
                let modes = [RenameMode::Replace, RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
                let new_parent = if roll.bits & 8 == 0 { parent } else { self.dir(roll.inodes[2]) };
                Op::Rename { parent, name, new_parent, new_name, mode: modes[usize::from(roll.bits % 4)] }
            }
            12 | 13 => Op::Setattr { ino, set: set_attr(roll) },
            14 => Op::Truncate { ino: file, size: offset, set: SetAttr::default(), opened: roll.bits & 1 == 0 },
            15..=19 => {
                let count = usize::from(roll.bits % 4);
                let extents = roll.spans.iter().take(count).enumerate();
                let extents = extents.map(|(nth, span)| self.extent(roll, nth, *span)).collect();
                Op::Commit(Commit {
                    ino: file,
                    extents,
                    size_at_least: if roll.bits & 0x40 == 0 { 0 } else { offset },
                    mtime: (roll.bits & 0x80 == 0).then(|| Timestamp::from_nanos(u64::from(roll.mode))),
                    set: if roll.bits & 0x300 == 0 { set_attr(roll) } else { SetAttr::default() },
                    clear_suid: roll.bits & 0x400 == 0,
                })
            }
            20 | 21 => {
                let modes = [
                    AllocateMode::Reserve,
                    AllocateMode::ReserveKeepSize,
                    AllocateMode::PunchHole,
                    AllocateMode::ZeroRange,
                    AllocateMode::ZeroRangeKeepSize,
                ];
                Op::Allocate { ino: file, mode: modes[usize::from(roll.bits % 5)], offset, len }
            }
            22 => Op::CopyRange {
                source_volume: VOLUME,
                source: self.file(roll.inodes[2]),
                source_offset: u64::from(roll.spans[1].0) / 2,
                target: file,
                target_offset: offset,
                len: len * 3,
            },
            23 => {
                let modes = [XattrMode::Set, XattrMode::Create, XattrMode::Replace];
                let mode = modes[usize::from(roll.bits % 3)];
                Op::SetXattr { ino, name: attribute(roll), value: Bytes::from(vec![1; len as usize]), mode }
            }
            _ if roll.bits & 1 == 0 => Op::Tmpfile { parent, mode },
            _ => Op::RemoveXattr { ino, name: attribute(roll) },
        }
    }

    fn extent(&mut self, roll: &Roll, nth: usize, (offset, len): (u8, u8)) -> Extent {
        let len = u32::from(len) % 40 + 1;
        let body = match (roll.bits >> (2 * nth)) % 4 {
            0 => ExtentBody::Inline((0..len).map(|i| (u32::from(roll.tick) + i) as u8).collect()),
            1 => ExtentBody::Zero,
            2 if !self.chunks.is_empty() => {
                // One that was uploaded before, by whomever.
                let chunk = self.chunks[usize::from(roll.mode) % self.chunks.len()];
                ExtentBody::Chunk { chunk, pg: PgId(1), at: u32::from(roll.tick) % 24, chunk_len: CHUNK_LEN }
            }
            _ => {
                let client = CLIENTS[usize::from(roll.who & 1)];
                let chunk = ChunkId { client, counter: self.chunks.len() as u64 };
                self.chunks.push(chunk);
                ExtentBody::Chunk { chunk, pg: PgId(1), at: u32::from(roll.tick) % 24, chunk_len: CHUNK_LEN }
            }
        };
        Extent { offset: u64::from(offset) / 2, len, body }
    }

    fn compare(&self) {
        compare::compare(&self.records, &self.tree, SPACE, &self.chunks);
    }

    /// Every request again: the same answers, nothing changed.
    fn replay(&mut self) {
        for (entry, reply) in std::mem::take(&mut self.log) {
            let applied = self.apply(&entry);
            assert_eq!(applied.reply, reply, "{entry:?}");
            assert!(applied.changes.is_empty(), "a repeated request changed {:?}", applied.changes);
        }
    }
}

fn set_attr(roll: &Roll) -> SetAttr {
    let bit = |n: u16| roll.bits >> n & 1 == 1;
    let time = |n: u16| {
        let time = if bit(n + 1) { SetTime::Now } else { SetTime::To(Timestamp::from_nanos(u64::from(roll.mode))) };
        bit(n).then_some(time)
    };
    SetAttr {
        mode: bit(4).then_some(roll.mode & 0o7777),
        uid: bit(5).then_some([0, 1000, 1001][usize::from(roll.tick % 3)]),
        gid: bit(6).then_some([0, 1000, 2000][usize::from(roll.tick / 3 % 3)]),
        atime: time(10),
        mtime: time(12),
        ctime: None,
    }
}

fn attribute(roll: &Roll) -> XattrName {
    let names = ["user.a", "user.ab", "trusted.t", "weft.x"];
    XattrName::parse(names[usize::from(roll.names[0] % 4)]).expect("a good name")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn the_namespace_does_what_a_plain_tree_does(rolls in prop::collection::vec(roll(), 1..150)) {
        let mut pair = Pair::new();
        for (nth, roll) in rolls.iter().enumerate() {
            pair.step(roll);
            if nth % 16 == 0 {
                pair.compare();
            }
        }
        pair.compare();
        pair.replay();
        pair.compare();
    }
}
