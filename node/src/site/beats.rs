//! Who was heard of lately: the soft state with which the leader of the system group judges nodes. Time is handed in;
//! nothing here waits or sends.
//!
//! What always holds: a chunk server's lease, counted from the sending of its heartbeat, has run out before the leader
//! takes the server out of a placement group. Three rules see to it. A node is silent only a lease and 10 % after its
//! last heartbeat came in. A fresh leader, or one that was itself stopped for a while, waits that long before it calls
//! anybody silent, since another may have granted leases meanwhile; a leader is fresh in every new term, also where it
//! was replaced and came back so soon that it saw no break. While an entry that takes a node out is under way, the
//! node's heartbeats are answered without a lease, for as long as the term lasts or until the entry is known to be
//! settled.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use weft_core::ids::{PgEpoch, PgId, ReplicaId, VolumeId};
use weft_core::site::{MemberState, Node, NodeStatus, SiteCommand, SiteMap};

/// What a heartbeat said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// Where the node answers now.
    pub addr: String,
    /// Its disk is full: no new chunks.
    pub full: bool,
    /// Placement groups in which it was behind and now has everything, each with the epoch of which this is true.
    pub complete: Vec<(PgId, PgEpoch)>,
    /// Volumes whose records it has made, as leader of their groups.
    pub attached: Vec<VolumeId>,
    /// Volumes whose records it has removed, as leader of their groups.
    pub dropped: Vec<VolumeId>,
    /// The map version whose placement epochs it has adopted.
    pub adopted: u64,
}

/// How a node stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It sent this within its lease.
    Alive(Beat),
    /// Its lease has run out.
    Silent,
    /// Not known yet: it may hold a lease from an earlier leader.
    Unsure,
}

/// The heartbeats a leader of the system group has seen.
#[derive(Debug)]
pub struct Beats {
    patience: Duration,
    /// The term in which this node led last.
    term: Option<u64>,
    /// Since when it leads without a break; `None` while it does not.
    since: Option<Instant>,
    looked: Instant,
    heard: BTreeMap<ReplicaId, (Instant, Beat)>,
    /// Nodes that an entry under way takes out.
    condemned: BTreeSet<ReplicaId>,
}

impl Beats {
    /// Leads nothing yet.
    pub fn new(lease: Duration, now: Instant) -> Beats {
        Beats {
            patience: lease + lease / 10,
            term: None,
            since: None,
            looked: now,
            heard: BTreeMap::new(),
            condemned: BTreeSet::new(),
        }
    }

    /// Called every time the leader looks, at least twice within a lease, with the term in which it leads. A longer gap
    /// means that the process was stopped, and what it heard counts no more.
    pub fn look(&mut self, now: Instant, leads: Option<u64>) {
        let gap = now.duration_since(self.looked) > self.patience / 2;
        self.looked = now;
        let Some(term) = leads else {
            self.since = None;
            return;
        };
        if self.term != Some(term) {
            // What was proposed in an earlier term is in the log of this one, or never will be.
            self.condemned.clear();
        }
        if self.term != Some(term) || self.since.is_none() || gap {
            // Within a term what this node has proposed may still be under way: the condemned stay so.
            self.term = Some(term);
            self.since = Some(now);
            self.heard.clear();
        }
    }

    /// A heartbeat came in.
    pub fn note(&mut self, now: Instant, from: ReplicaId, beat: Beat) {
        self.heard.insert(from, (now, beat));
    }

    /// Whether the heartbeat may be answered with a lease.
    pub fn may_grant(&self, to: ReplicaId) -> bool {
        !self.condemned.contains(&to)
    }

    /// How a node stands.
    pub fn heard(&self, now: Instant, of: ReplicaId) -> Heard {
        match (&self.heard.get(&of), self.since) {
            (Some((at, beat)), _) if now.duration_since(*at) <= self.patience => Heard::Alive(beat.clone()),
            (_, Some(since)) if now.duration_since(since) > self.patience => Heard::Silent,
            _ => Heard::Unsure,
        }
    }

    /// Takes note of an entry about to be proposed; `false` if it would take out a node that may hold a lease, and
    /// must wait.
    pub fn condemn(&mut self, now: Instant, map: &SiteMap, command: &SiteCommand) -> bool {
        let out = taken_out(map, command);
        if out.iter().any(|node| self.heard(now, *node) != Heard::Silent) {
            return false;
        }
        self.condemned.extend(out);
        true
    }

    /// Whether an entry that takes nodes out may still be under way.
    pub fn is_unsettled(&self) -> bool {
        !self.condemned.is_empty()
    }

    /// An entry proposed after all of those has been applied here: so have they, or they never will be.
    pub fn settle(&mut self) {
        self.condemned.clear();
    }
}

/// The nodes that lose their place among those that count, if the command is applied.
fn taken_out(map: &SiteMap, command: &SiteCommand) -> BTreeSet<ReplicaId> {
    let counts = |state: MemberState| state != MemberState::Away;
    match command {
        SiteCommand::NodeStatus { changes } => {
            let away = |id| changes.contains(&(id, NodeStatus::Away));
            map.nodes.iter().filter(|node| away(node.id)).map(Node::replica).collect()
        }
        SiteCommand::SetPgs { pgs } => pgs
            .iter()
            .filter_map(|new| Some((map.pgs.iter().find(|old| old.id == new.id)?, new)))
            .flat_map(|(old, new)| {
                old.members
                    .iter()
                    .filter(|was| counts(was.state))
                    .filter(|was| !new.members.iter().any(|is| is.replica == was.replica && counts(is.state)))
                    .map(|was| was.replica)
            })
            .collect(),
        _ => BTreeSet::new(),
    }
}

#[cfg(test)]
mod tests {
    use weft_core::ids::{Incarnation, NodeId};
    use weft_core::site::{Pg, PgMember};

    use super::*;

    fn replica(node: u32) -> ReplicaId {
        ReplicaId { node: NodeId(node), incarnation: Incarnation(7) }
    }

    const LEASE: Duration = Duration::from_secs(3);

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    /// Looks every 200 ms, as the duties do.
    fn look_until(beats: &mut Beats, start: Instant, from: u64, to: u64) {
        (from..=to).step_by(200).for_each(|ms| beats.look(at(start, ms), Some(1)));
    }

    #[test]
    fn a_fresh_leader_calls_nobody_silent_before_a_lease_and_a_tenth() {
        let start = Instant::now();
        let mut beats = Beats::new(LEASE, start);
        look_until(&mut beats, start, 0, 3200);
        assert_eq!(beats.heard(at(start, 3300), replica(1)), Heard::Unsure);
        assert_eq!(beats.heard(at(start, 3301), replica(1)), Heard::Silent);
        beats.note(at(start, 3400), replica(1), Beat::default());
        look_until(&mut beats, start, 3400, 6600);
        assert_eq!(beats.heard(at(start, 6700), replica(1)), Heard::Alive(Beat::default()));
        assert_eq!(beats.heard(at(start, 6701), replica(1)), Heard::Silent);
    }

    #[test]
    fn a_leader_that_was_stopped_or_replaced_begins_anew() {
        let start = Instant::now();
        for interrupt in [
            |beats: &mut Beats, start| beats.look(at(start, 9000), Some(1)),
            |beats: &mut Beats, start| {
                look_until(beats, start, 4200, 9000);
                beats.look(at(start, 9001), Some(3));
            },
            |beats: &mut Beats, start| {
                beats.look(at(start, 4100), None);
                look_until(beats, start, 4200, 9000);
                beats.look(at(start, 9000), None);
                beats.look(at(start, 9001), Some(1));
            },
        ] {
            let mut beats = Beats::new(LEASE, start);
            look_until(&mut beats, start, 0, 4000);
            assert_eq!(beats.heard(at(start, 4000), replica(1)), Heard::Silent);
            interrupt(&mut beats, start);
            assert_eq!(beats.heard(at(start, 9002), replica(1)), Heard::Unsure);
        }
    }

    #[test]
    fn nobody_gets_a_lease_while_being_taken_out_and_nobody_with_a_lease_is_taken_out() {
        let start = Instant::now();
        let mut beats = Beats::new(LEASE, start);
        look_until(&mut beats, start, 0, 4000);
        beats.note(at(start, 3900), replica(2), Beat::default());
        let member = |node, state| PgMember { replica: replica(node), state };
        let pg = |members| Pg { id: PgId(1), factor: 2, epoch: PgEpoch(1), members };
        let serving = vec![member(1, MemberState::Serving), member(2, MemberState::Serving)];
        let node = Node {
            id: NodeId(1),
            incarnation: Incarnation(7),
            addr: "a:1".into(),
            meta: true,
            chunk: true,
            status: NodeStatus::Up,
        };
        let map = SiteMap { pgs: vec![pg(serving)], nodes: vec![node], ..SiteMap::default() };
        let out = |node| SiteCommand::SetPgs {
            pgs: vec![pg((1..=2)
                .map(|id| member(id, if id == node { MemberState::Away } else { MemberState::Serving }))
                .collect())],
        };
        let now = at(start, 4000);
        assert!(!beats.condemn(now, &map, &out(2)), "node 2 holds a lease");
        assert!(beats.may_grant(replica(2)));
        assert!(beats.condemn(now, &map, &out(1)));
        beats.note(now, replica(1), Beat::default());
        assert!(!beats.may_grant(replica(1)), "the entry may already be under way");
        assert!(beats.is_unsettled());
        beats.settle();
        assert!(beats.may_grant(replica(1)));
        let away = SiteCommand::NodeStatus { changes: vec![(NodeId(1), NodeStatus::Away)] };
        assert!(!beats.condemn(now, &map, &away), "it was heard of again");
    }

    #[test]
    fn the_condemned_stay_so_after_a_pause_while_the_entry_may_still_come() {
        let start = Instant::now();
        let mut beats = Beats::new(LEASE, start);
        look_until(&mut beats, start, 0, 4000);
        let node = Node {
            id: NodeId(1),
            incarnation: Incarnation(7),
            addr: "a:1".into(),
            meta: true,
            chunk: true,
            status: NodeStatus::Up,
        };
        let map = SiteMap { nodes: vec![node], ..SiteMap::default() };
        let away = SiteCommand::NodeStatus { changes: vec![(NodeId(1), NodeStatus::Away)] };
        assert!(beats.condemn(at(start, 4000), &map, &away));
        // The proposal is waited for in vain for so long that the next look finds a gap.
        beats.look(at(start, 7100), Some(1));
        beats.note(at(start, 7200), replica(1), Beat::default());
        assert!(!beats.may_grant(replica(1)), "the entry may come yet");
        // In another term it has come before, or never will.
        beats.look(at(start, 7300), Some(2));
        assert!(beats.may_grant(replica(1)));
    }
}
