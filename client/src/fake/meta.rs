//! The group and the site: the real machine behind a leader that loses requests and answers.

use std::ops::ControlFlow;
use std::time::Duration;

use weft_core::entry::{Caller, Command, Entry};
use weft_core::ids::{ClientId, GroupId, Ino, NodeId, SpaceId, VolumeId};
use weft_core::limits::LEASE_MS;
use weft_core::machine;
use weft_core::namespace::inode::Attr;
use weft_core::namespace::lease;
use weft_core::namespace::op::Op;
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::query::{Answer, Query};
use weft_core::namespace::step::Step;
use weft_core::namespace::volume::AttachVolume;
use weft_core::refusal::Refusal;
use weft_core::time::Timestamp;
use weft_core::view::View;

use super::{Fake, GROUP, NODES, State};
use crate::servers::{Call, Recalls};

impl State {
    /// Applies an entry as the leader's log would.
    fn log(&mut self, caller: Option<Caller>, command: Command) -> Result<Outcome, Refusal> {
        self.time += 1_000_000;
        let entry = Entry { time: Timestamp::from_nanos(1_700_000_000_000_000_000 + self.time), caller, command };
        let applied = machine::apply(&self.records, GROUP, &entry).expect("a map in memory does not fail");
        for (key, value) in applied.changes {
            match value {
                Some(value) => self.records.insert(key, value),
                None => self.records.remove(&key),
            };
        }
        applied.reply
    }

    /// One round of the leader's background work; chunks nobody can reach any more are deleted at once.
    fn background(&mut self) {
        let pending = machine::pending_steps(&self.records).expect("a map in memory does not fail");
        for (volume, ino) in pending.cuts {
            self.log(None, Command::Step(Step::FinishCut { volume, ino })).expect("steps are not refused");
        }
        let spaces: Vec<SpaceId> = self.map.volumes.iter().map(|volume| volume.space).collect();
        for space in spaces {
            let freed = machine::freed_chunks(&self.records, space, None, 10_000).expect("a map in memory");
            for freed in freed {
                (1..=NODES).for_each(|node| drop(self.chunks.remove(&(node, freed.chunk))));
            }
        }
    }

    /// A leased directory is wanted back, and the request comes again.
    fn recall<T>(&mut self, answer: Result<T, Refusal>) -> Result<T, Refusal> {
        match answer {
            Err(Refusal::Leased { volume, dir }) => {
                self.recalled.insert((volume, dir));
                Err(Refusal::Busy { retry_after_ms: 3 })
            }
            answer => answer,
        }
    }

    /// What may happen to any request at a meta node before it is carried out.
    pub(super) fn arrive(&mut self, addr: &str, group: GroupId) -> Result<(), Refusal> {
        if self.happens(|trouble| trouble.elections) {
            self.leader = (self.roll() % u64::from(NODES)) as u32 + 1;
        }
        if self.happens(|trouble| trouble.lost_requests) {
            return Err(Refusal::Unknown { why: "the request was lost".into() });
        }
        if addr != format!("node{}:1", self.leader) {
            let leader = (!self.roll().is_multiple_of(4)).then_some(NodeId(self.leader));
            return Err(Refusal::NotLeader { group, leader });
        }
        if self.happens(|trouble| trouble.busy) {
            return Err(Refusal::Busy { retry_after_ms: 3 });
        }
        Ok(())
    }

    /// What may happen to any answer.
    pub(super) fn answer<T>(&mut self, answer: Result<T, Refusal>) -> Result<T, Refusal> {
        match self.happens(|trouble| trouble.lost_answers) {
            true => Err(Refusal::Unknown { why: "the answer was lost".into() }),
            false => answer,
        }
    }
}

impl Fake {
    pub(crate) fn add_volume(&self, name: &str, replication: u8) -> VolumeId {
        self.make_volume(name, replication, 0)
    }

    pub(super) fn make_volume(&self, name: &str, replication: u8, token: u64) -> VolumeId {
        let mut state = self.state.lock();
        if let Some(there) = state.map.volumes.iter().find(|volume| volume.name == name && volume.token == token) {
            return there.id;
        }
        let record = Fake::volume_record(&state, name, replication, token);
        let attach =
            AttachVolume { volume: record.id, space: record.space, slot: record.slot, mode: 0o777, uid: 0, gid: 0 };
        state.log(None, Command::AttachVolume(attach)).expect("a new volume is not refused");
        let id = record.id;
        state.map.volumes.push(record);
        state.map.version += 1;
        id
    }

    pub(super) fn do_apply(&self, addr: &str, call: Call, volume: VolumeId, op: &Op) -> Result<Outcome, Refusal> {
        let mut state = self.state.lock();
        state.arrive(addr, GROUP)?;
        state.counts.applies += 1;
        if matches!(op, Op::Commit(_)) {
            state.counts.commits += 1;
        }
        let held: &[_] = if let Op::Held { items, .. } = op { items } else { &[] };
        for op in held.iter().map(|item| &item.op).chain([op]) {
            if let Op::Commit(commit) = op {
                state.check_chunks(&commit.extents);
            }
        }
        let caller = Caller {
            client: call.client,
            space: call.space,
            seq: call.seq,
            acked_below: call.acked_below,
            cred: call.cred,
        };
        let reply = state.log(Some(caller), Command::Op { volume, op: op.clone() });
        let reply = state.recall(reply);
        state.background();
        state.answer(reply)
    }

    pub(super) fn do_query(&self, addr: &str, call: Call, volume: VolumeId, query: &Query) -> Result<Answer, Refusal> {
        let mut state = self.state.lock();
        state.arrive(addr, GROUP)?;
        state.counts.queries += 1;
        let answer = machine::query(&state.records, volume, call.client, &call.cred, query).expect("a map in memory");
        let answer = state.recall(answer);
        state.answer(answer)
    }

    pub(super) fn do_recalls(&self, addr: &str, call: Call, held: Vec<(VolumeId, Ino)>) -> Result<Recalls, Refusal> {
        let mut state = self.state.lock();
        state.arrive(addr, GROUP)?;
        let leases = lease::lease_list(&state.records).expect("a map in memory");
        let is_held = |at: &(VolumeId, Ino)| {
            leases.iter().any(|lease| lease.client == call.client && (lease.volume, lease.dir) == *at)
        };
        let lost = held.into_iter().filter(|at| !is_held(at)).collect();
        state.recalled.retain(|at| leases.iter().any(|lease| (lease.volume, lease.dir) == *at));
        let recalled = state.recalled.iter().filter(|at| is_held(at)).copied().collect();
        state.answer(Ok(Recalls { lease: Duration::from_millis(LEASE_MS.into()), recalled, lost }))
    }

    pub(super) fn session(&self, addr: &str, call: Call, open: bool) -> Result<(), Refusal> {
        let mut state = self.state.lock();
        state.arrive(addr, GROUP)?;
        let (client, space) = (call.client, call.space);
        let reply = match open {
            true => state.log(None, Command::OpenSession { client, space }),
            false => state.log(None, Command::EndSession { client, space }),
        };
        state.answer(reply.map(drop))
    }

    /// Ends a session behind the client's back.
    pub(crate) fn end_session(&self, client: ClientId, space: SpaceId) {
        self.state.lock().log(None, Command::EndSession { client, space }).expect("ending is not refused");
    }

    /// Takes a write lease from whoever holds it.
    pub(crate) fn revoke(&self, volume: VolumeId, dir: Ino) {
        let mut state = self.state.lock();
        if let Some(lease) = lease::lease_of(&state.records, volume, dir).expect("a map in memory") {
            let command = Command::Revoke { volume, dir, client: lease.client };
            state.log(None, command).expect("revoking is not refused");
        }
    }

    /// Runs a client's change at the server without a client.
    pub(crate) fn as_root(&self, volume: VolumeId, op: Op) -> Result<Outcome, Refusal> {
        let mut state = self.state.lock();
        let reply = state.log(None, Command::Op { volume, op });
        state.background();
        reply
    }

    pub(crate) fn stat(&self, volume: VolumeId, ino: weft_core::ids::Ino) -> Attr {
        let state = self.state.lock();
        let answer = machine::query(&state.records, volume, ClientId(0), &crate::Cred::root(), &Query::Getattr { ino });
        match answer.expect("a map in memory") {
            Ok(Answer::Attr(attr)) => attr,
            other => panic!("{other:?}"),
        }
    }

    /// All counts are right, and every chunk that a record names is on its servers.
    pub(crate) fn check(&self) {
        let state = self.state.lock();
        let wrong = machine::recount(&state.records).expect("a map in memory");
        assert!(wrong.is_empty(), "{wrong:?}");
        let mut records = 0;
        state
            .records
            .scan(&[], &[0xff; 16], &mut |_, _| {
                records += 1;
                ControlFlow::Continue(())
            })
            .expect("a map in memory");
        assert!(records > 0);
    }
}
