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
//!
//! A member that is there is taken out by another rule: it was called leaving first, at an epoch at which it has no right
//! to acknowledge, and has said since that it has adopted this epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use weft_core::ids::{PgEpoch, PgId, ReplicaId, VolumeId};
use weft_core::site::plan::{Presence, Report};
use weft_core::site::{Labels, MemberState, NodeStatus, PgMember, SiteCommand, SiteMap};

/// What a heartbeat said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// Where the node answers now.
    pub addr: String,
    /// Its disk is full: no new chunks.
    pub full: bool,
    /// Placement groups in which it was behind and now has everything, or in which it is leaving, each with the epoch of
    /// which this is true.
    pub complete: Vec<(PgId, PgEpoch)>,
    /// Volumes whose records it has made, as leader of their groups.
    pub attached: Vec<VolumeId>,
    /// Volumes whose records it has removed, as leader of their groups.
    pub dropped: Vec<VolumeId>,
    /// The map version whose placement epochs it has adopted.
    pub adopted: u64,
    /// Where its machine stands.
    pub labels: Labels,
    /// Bytes of the disk under its chunks.
    pub total_bytes: u64,
    /// Bytes free on it.
    pub free_bytes: u64,
    /// How many damaged logs it gave up.
    pub lost_logs: u32,
}

/// How a node stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It sent this within its lease.
    Alive(Beat),
    /// Its lease has run out. For so long nothing was heard of it.
    Silent(Duration),
    /// Not known yet: it may hold a lease from an earlier leader.
    Unsure,
}

impl Heard {
    /// What the planner needs to know of it.
    pub fn presence(&self) -> Presence {
        match self {
            Heard::Alive(beat) => Presence::Alive(Report {
                full: beat.full,
                complete: beat.complete.clone(),
                total_bytes: beat.total_bytes,
                free_bytes: beat.free_bytes,
            }),
            Heard::Silent(time) => Presence::Silent { for_ms: time.as_millis() as u64 },
            Heard::Unsure => Presence::Unsure,
        }
    }
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
            (last, Some(since)) if now.duration_since(since) > self.patience => {
                Heard::Silent(now.duration_since(last.map_or(since, |(at, _)| *at)))
            }
            _ => Heard::Unsure,
        }
    }

    /// Takes note of an entry about to be proposed; `false` if it would take out a node that may hold a lease, and
    /// must wait.
    pub fn condemn(&mut self, now: Instant, map: &SiteMap, command: &SiteCommand) -> bool {
        let mut condemned = BTreeSet::new();
        for (node, left) in taken_out(map, command) {
            match (self.heard(now, node), left) {
                (Heard::Silent(_), _) => drop(condemned.insert(node)),
                (Heard::Alive(beat), Some(left)) if beat.complete.contains(&left) => {}
                _ => return false,
            }
        }
        self.condemned.extend(condemned);
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

/// Who loses a place that counts, if the command is applied; where it was leaving, with the placement group and the epoch
/// of which it must have said so.
fn taken_out(map: &SiteMap, command: &SiteCommand) -> Vec<(ReplicaId, Option<(PgId, PgEpoch)>)> {
    match command {
        SiteCommand::NodeStatus { changes } => {
            let away = |id| changes.contains(&(id, NodeStatus::Away));
            map.nodes.iter().filter(|node| away(node.id)).map(|node| (node.replica(), None)).collect()
        }
        // Only by force it may be a member still.
        SiteCommand::RemoveNode { node: id, force: true } => {
            map.nodes.iter().filter(|node| node.id == *id).map(|node| (node.replica(), None)).collect()
        }
        SiteCommand::SetPgs { pgs } => pgs
            .iter()
            .filter_map(|new| Some((map.pgs.iter().find(|old| old.id == new.id)?, new)))
            .flat_map(|(old, new)| {
                let is = |was: &PgMember| new.members.iter().find(|is| is.replica == was.replica).map(|is| is.state);
                old.members.iter().filter_map(move |was| match (was.state, is(was)) {
                    (MemberState::Away, _) => None,
                    (MemberState::Leaving, Some(MemberState::Leaving)) => None,
                    (MemberState::Leaving, _) => Some((was.replica, Some((old.id, old.epoch)))),
                    (_, None | Some(MemberState::Away)) => Some((was.replica, None)),
                    _ => None,
                })
            })
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use weft_core::ids::{Incarnation, NodeId};
    use weft_core::site::{Node, Pg};

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
        assert_eq!(beats.heard(at(start, 3301), replica(1)), Heard::Silent(Duration::from_millis(3301)));
        beats.note(at(start, 3400), replica(1), Beat::default());
        look_until(&mut beats, start, 3400, 6600);
        assert_eq!(beats.heard(at(start, 6700), replica(1)), Heard::Alive(Beat::default()));
        assert_eq!(beats.heard(at(start, 6701), replica(1)), Heard::Silent(Duration::from_millis(3301)));
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
            assert_eq!(beats.heard(at(start, 4000), replica(1)), Heard::Silent(Duration::from_secs(4)));
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
            ..Node::default()
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
    fn who_is_there_is_taken_out_once_it_has_adopted_that_it_leaves() {
        let start = Instant::now();
        let mut beats = Beats::new(LEASE, start);
        look_until(&mut beats, start, 0, 4000);
        let member = |node, state| PgMember { replica: replica(node), state };
        let pg = |epoch, members| Pg { id: PgId(1), factor: 1, epoch: PgEpoch(epoch), members };
        let serving = member(1, MemberState::Serving);
        let map = |pg| SiteMap { pgs: vec![pg], ..SiteMap::default() };
        let set = |pg| SiteCommand::SetPgs { pgs: vec![pg] };
        let leaving = pg(2, vec![serving, member(2, MemberState::Leaving)]);
        let now = at(start, 4000);
        beats.note(now, replica(2), Beat::default());
        let both = map(pg(1, vec![serving, member(2, MemberState::Serving)]));
        assert!(!beats.condemn(now, &both, &set(pg(2, vec![serving]))), "it was not told to leave");
        assert!(beats.condemn(now, &both, &set(leaving.clone())), "to be told so takes nothing away yet");
        let (told, gone) = (map(leaving), set(pg(3, vec![serving])));
        assert!(!beats.condemn(now, &told, &gone), "it has not said that it knows");
        let beat = |epoch| Beat { complete: vec![(PgId(1), PgEpoch(epoch))], ..Beat::default() };
        beats.note(now, replica(2), beat(1));
        assert!(!beats.condemn(now, &told, &gone), "what it knows is older");
        beats.note(now, replica(2), beat(2));
        assert!(beats.condemn(now, &told, &gone));
        assert!(beats.may_grant(replica(2)), "it keeps its lease for what else it holds");
        // Who leaves without a word has lost its lease first.
        look_until(&mut beats, start, 4000, 7400);
        assert!(beats.condemn(at(start, 7400), &told, &gone));
        assert!(!beats.may_grant(replica(2)));
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
            ..Node::default()
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
