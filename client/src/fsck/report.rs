//! What a check found.

use weft_core::ids::{ChunkId, GroupId, Ino, NodeId, PgId, SpaceId};

/// Things of one kind that a report tells one by one; further ones are counted.
pub(super) const MOST: usize = 10_000;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsckReport {
    /// Whether everything was reread.
    pub deep: bool,
    /// The recount of each group.
    pub audits: Vec<GroupAudit>,
    /// The comparison of each group's replicas, if deep.
    pub digests: Vec<DigestReport>,
    /// Chunks that records name.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Copies of them that were looked at.
    pub copies: u64,
    /// Bytes of copies that were reread.
    pub reread: u64,
    /// Copies that are not as promised.
    pub damage: Vec<DamagedChunk>,
    /// Further ones that are not told one by one.
    pub more_damage: u64,
    /// Copies of chunks that nothing names.
    pub surplus: Surplus,
    /// Placement groups that hold chunks and have fewer copies than promised.
    pub degraded: Vec<Degraded>,
    /// What could not be looked at, and why.
    pub unseen: Vec<String>,
}

/// What to make of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything that is promised is there.
    Clean,
    /// Nothing is damaged as far as could be seen, but not everything could be looked at.
    Incomplete,
    /// Something is not as promised.
    Damaged,
}

/// The recount of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupAudit {
    /// The group.
    pub group: GroupId,
    /// Records read.
    pub records: u64,
    /// What is wrong, in words.
    pub wrong: Vec<String>,
}

/// The comparison of a group's replicas at one place of its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DigestReport {
    /// The group.
    pub group: GroupId,
    /// Those that answered.
    pub replicas: Vec<ReplicaDigest>,
}

impl DigestReport {
    /// Whether all that answered hold the same.
    pub fn agree(&self) -> bool {
        let digest = |replica: &ReplicaDigest| (replica.records, replica.bytes, replica.sum);
        self.replicas.windows(2).all(|pair| digest(&pair[0]) == digest(&pair[1]))
    }
}

/// The records of one replica, summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicaDigest {
    /// Whose.
    pub node: NodeId,
    /// How many there are.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// CRC-32 over all of them.
    pub sum: u32,
}

/// What is wrong with a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WhatIsWrong {
    /// The server does not hold it.
    Missing,
    /// Its bytes do not match their sums.
    Rotten,
    /// It is longer or shorter than the records say.
    OtherLength,
}

/// A copy that is not as promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedChunk {
    /// The chunk's space.
    pub space: SpaceId,
    /// The chunk.
    pub chunk: ChunkId,
    /// Its placement group.
    pub pg: PgId,
    /// Its bytes.
    pub len: u32,
    /// On which node.
    pub node: NodeId,
    /// What is wrong with it there.
    pub what: WhatIsWrong,
    /// What the server says of it.
    pub why: String,
    /// Nodes that have it whole.
    pub whole_on: Vec<NodeId>,
    /// The files whose bytes it holds.
    pub files: Vec<DamagedFile>,
}

/// A file with bytes in a damaged chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedFile {
    /// The name of its volume.
    pub volume: String,
    /// Its inode.
    pub ino: Ino,
    /// Its paths in the volume, the first few; none: it has no name any more and is open somewhere, or about to go.
    pub paths: Vec<Vec<u8>>,
}

/// Copies of chunks that nothing names. None of them is damage: they go by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Surplus {
    /// Of chunks that were named and are no more.
    pub freed: u64,
    /// Of chunks that their uploader may yet name.
    pub open: u64,
    /// Of chunks that were never named, and whose uploader has gone.
    pub abandoned: u64,
    /// Of chunks of spaces or sessions that nobody knows.
    pub unknown: u64,
}

/// A placement group with fewer copies than promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Degraded {
    /// The placement group.
    pub pg: PgId,
    /// How many copies are promised.
    pub factor: u8,
    /// Nodes that have all of its chunks.
    pub serving: Vec<NodeId>,
    /// Its other members: away, or behind and catching up.
    pub lacking: Vec<NodeId>,
}

impl FsckReport {
    /// What to make of it.
    pub fn verdict(&self) -> Verdict {
        let wrong = self.audits.iter().any(|audit| !audit.wrong.is_empty());
        if wrong || !self.damage.is_empty() || self.digests.iter().any(|digest| !digest.agree()) {
            Verdict::Damaged
        } else if !self.unseen.is_empty() || !self.degraded.is_empty() || self.more_damage > 0 {
            Verdict::Incomplete
        } else {
            Verdict::Clean
        }
    }

    /// Something could not be looked at.
    pub(super) fn unseen(&mut self, what: String) {
        if self.unseen.len() < MOST && !self.unseen.contains(&what) {
            self.unseen.push(what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_outweighs_what_was_not_seen_and_surplus_is_neither() {
        let mut report =
            FsckReport { surplus: Surplus { abandoned: 3, ..Surplus::default() }, ..FsckReport::default() };
        assert_eq!(report.verdict(), Verdict::Clean);
        let lone = Degraded { pg: PgId(1), factor: 2, serving: vec![NodeId(1)], lacking: vec![NodeId(2)] };
        let degraded = FsckReport { degraded: vec![lone], ..report.clone() };
        assert_eq!(degraded.verdict(), Verdict::Incomplete, "a copy that is promised is not there");
        report.unseen("node 3".into());
        report.unseen("node 3".into());
        assert_eq!((report.verdict(), report.unseen.len()), (Verdict::Incomplete, 1));
        let digest = |node, sum| ReplicaDigest { node: NodeId(node), records: 1, bytes: 1, sum };
        let digests = |sums: [u32; 2]| {
            vec![DigestReport { group: GroupId(1), replicas: vec![digest(1, sums[0]), digest(2, sums[1])] }]
        };
        assert_eq!(FsckReport { digests: digests([7, 7]), ..FsckReport::default() }.verdict(), Verdict::Clean);
        assert_eq!(FsckReport { digests: digests([7, 8]), ..report.clone() }.verdict(), Verdict::Damaged);
        let audit = GroupAudit { group: GroupId(1), records: 1, wrong: vec!["a count".into()] };
        assert_eq!(FsckReport { audits: vec![audit], ..report }.verdict(), Verdict::Damaged);
    }
}
