//! A meta group's machine: clients that ask again, leaders that come and go, entries that are proposed twice or never
//! taken, replicas that apply the same log in batches of their own and fall back when they crash.
//!
//! One copy of the records, the *truth*, is applied entry by entry as the log grows; the laws are asked of it, and every
//! replica must come to the same. Under every other seed a plain tree is fed the same operations and must give the same
//! answers; under the others files have thousands of extents, and there are several volumes and spaces.

mod clients;
mod replica;
mod roll;
mod sessions;

/// The slow and obvious file system of `weft-core`'s own tests.
#[path = "../../../../proto/core/tests/model/compare.rs"]
mod compare;
#[allow(dead_code, reason = "the tests of weft-core use all of it")]
#[path = "../../../../proto/core/tests/model/tree.rs"]
mod tree;

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use weft_core::codec;
use weft_core::entry::{Command, Cred, Entry};
use weft_core::ids::{ChunkId, ClientId, Ino, SlotId, SpaceId, VolumeId};
use weft_core::limits::{MAX_CHANGES, STEP_RECORDS};
use weft_core::machine::{self, ChunkState};
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::query::{Answer, Query, VolumeUse};
use weft_core::namespace::step::Step;
use weft_core::namespace::volume::AttachVolume;
use weft_core::refusal::Refusal;
use weft_core::time::Timestamp;

use self::clients::{Client, Message, Request};
use self::replica::{GROUP, Logged, Replica, damaged, print};
pub(super) use self::replica::{Records, write};
use self::roll::{Ground, Known};
use self::sessions::{Expected, Reply, Sessions, is_passing};
use self::tree::Tree;
use super::{Tally, broken};
use crate::run::Violation;

const REPLICAS: usize = 3;
const CLIENTS: usize = 5;
/// Between two looks at the laws.
const STRETCH: usize = 500;
const STRETCHES: usize = 6;
/// Times that a request is asked again at the end, with the steps in between that it waits for.
const PATIENCE: usize = 64;

/// Volume and space; the first is the plain tree's.
const VOLUMES: [(VolumeId, SpaceId); 3] =
    [(tree::VOLUME, SpaceId(3)), (VolumeId(8), SpaceId(3)), (VolumeId(9), SpaceId(4))];

/// What a leader put before the others, and under which leadership.
struct Proposal {
    message: Message,
    term: u64,
}

struct Told {
    client: ClientId,
    seq: u64,
    reply: Reply,
}

struct World<'a> {
    rng: SmallRng,
    tally: &'a mut Tally,
    wide: bool,
    truth: Records,
    log: Vec<Logged>,
    replicas: [Replica; REPLICAS],
    leader: usize,
    term: u64,
    /// Nanoseconds, and how far the replicas' clocks are from it.
    now: u64,
    skews: [i64; REPLICAS],
    messages: Vec<Message>,
    proposals: Vec<Proposal>,
    answers: Vec<Told>,
    clients: Vec<Client>,
    next_client: u64,
    sessions: Sessions,
    tree: Option<Tree>,
    known: Known,
    /// Chunks that may be deleted: nothing may name them again.
    given_up: BTreeSet<(SpaceId, ChunkId)>,
}

/// Runs one seed.
pub(super) fn run(seed: u64, tally: &mut Tally) -> Result<(), Violation> {
    let mut world = World::new(seed, tally);
    world.begin()?;
    for _ in 0..STRETCHES {
        for _ in 0..STRETCH {
            world.event()?;
        }
        world.judge()?;
    }
    world.finish()
}

impl World<'_> {
    fn new(seed: u64, tally: &mut Tally) -> World<'_> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let wide = seed.is_multiple_of(2);
        let skews = std::array::from_fn(|_| rng.random_range(-2_000_000_000..2_000_000_000));
        World {
            rng,
            tally,
            wide,
            truth: Records::new(),
            log: Vec::new(),
            replicas: Default::default(),
            leader: 0,
            term: 1,
            now: 1_000_000_000_000,
            skews,
            messages: Vec::new(),
            proposals: Vec::new(),
            answers: Vec::new(),
            clients: Vec::new(),
            next_client: 11,
            sessions: Sessions::default(),
            tree: None,
            known: Known::default(),
            given_up: BTreeSet::new(),
        }
    }

    fn begin(&mut self) -> Result<(), Violation> {
        for (volume, space) in if self.wide { &VOLUMES[..] } else { &VOLUMES[..1] } {
            self.commit(attach(*volume, *space))?.map_err(unexpected)?;
        }
        if !self.wide {
            let made = machine::group_time(&self.truth).map_err(|error| damaged(&error))?;
            self.tree = Some(Tree::new(made.unwrap_or_default()));
        }
        for _ in 0..CLIENTS {
            self.new_client();
        }
        Ok(())
    }

    fn new_client(&mut self) {
        let space = if self.wide && self.rng.random_range(0..4u32) == 0 { SpaceId(4) } else { SpaceId(3) };
        let id = ClientId(self.next_client);
        self.next_client += 1;
        self.clients.push(Client::new(id, space));
        self.messages.push(own(Command::OpenSession { client: id, space }));
    }

    fn event(&mut self) -> Result<(), Violation> {
        self.now += self.rng.random_range(0..1_000_000);
        match self.rng.random_range(0..100u32) {
            0..=29 => self.ask(),
            30..=35 => {
                let at = self.rng.random_range(0..self.clients.len());
                let again = self.clients[at].ask_again(&mut self.rng);
                if again.is_some() {
                    self.tally.count("asked_again");
                }
                self.messages.extend(again);
            }
            36..=57 => self.deliver(),
            58..=77 => return self.take_proposals(),
            78..=88 => {
                let (at, most) = (self.rng.random_range(0..REPLICAS), self.rng.random_range(1..40));
                self.tally.steps += self.replicas[at].advance(&self.log, most)?;
            }
            89..=93 => return self.answer(),
            94 => self.replica_fault(),
            95 => self.new_leader(),
            96 | 97 => self.housekeeping()?,
            _ => return self.question(),
        }
        Ok(())
    }

    /// A client asks for something.
    fn ask(&mut self) {
        let at = self.rng.random_range(0..self.clients.len());
        if self.clients[at].over {
            self.clients.swap_remove(at);
            return self.new_client();
        }
        if !self.clients[at].may_ask() {
            return;
        }
        let (rng, client) = (&mut self.rng, &mut self.clients[at]);
        let pick = |rng: &mut SmallRng, wide: bool| {
            if !wide {
                return tree::VOLUME;
            }
            let mine: Vec<VolumeId> =
                VOLUMES.iter().filter(|(_, space)| *space == client.space).map(|(volume, _)| *volume).collect();
            // Now and then one of another space.
            let stray = rng.random_range(0..40u32) == 0;
            if stray { VOLUMES[rng.random_range(0..3)].0 } else { *mine.choose(rng).expect("every space has one") }
        };
        let (volume, other) = (pick(rng, self.wide), pick(rng, self.wide));
        let mut ground = Ground { known: &mut self.known, volume, other, wide: self.wide };
        let op = roll::op(rng, &mut ground, client);
        let request = Request { volume, op, cred: roll::cred(rng) };
        let message = if rng.random_range(0..60u32) == 0 {
            self.tally.count("forged");
            client.forge(rng, request)
        } else {
            client.ask(request)
        };
        self.messages.push(message);
    }

    /// Messages reach the leader, in any order, some twice, some never.
    fn deliver(&mut self) {
        for _ in 0..self.rng.random_range(1..4) {
            if self.messages.is_empty() {
                return;
            }
            let at = self.rng.random_range(0..self.messages.len());
            let message = match self.rng.random_range(0..20u32) {
                0 => {
                    self.tally.count("lost");
                    self.messages.swap_remove(at);
                    continue;
                }
                1 | 2 => {
                    self.tally.count("duplicated");
                    self.messages[at].clone()
                }
                _ => self.messages.swap_remove(at),
            };
            self.propose(message);
        }
    }

    fn propose(&mut self, mut message: Message) {
        let time = self.now.saturating_add_signed(self.skews[self.leader]);
        message.entry.time = Timestamp::from_nanos(time);
        self.proposals.push(Proposal { message, term: self.term });
    }

    /// Proposals become entries, or don't.
    fn take_proposals(&mut self) -> Result<(), Violation> {
        for _ in 0..self.rng.random_range(1..5) {
            if self.proposals.is_empty() {
                break;
            }
            let at = self.rng.random_range(0..self.proposals.len().min(8));
            let Proposal { message, term } = self.proposals.remove(at);
            match self.rng.random_range(0..30u32) {
                0 => self.tally.count("not_taken"),
                1 => {
                    self.tally.count("taken_twice");
                    self.commit_and_tell(message.clone(), term)?;
                    self.commit_and_tell(message, term)?;
                }
                _ => self.commit_and_tell(message, term)?,
            }
        }
        Ok(())
    }

    fn commit_and_tell(&mut self, message: Message, term: u64) -> Result<(), Violation> {
        let from = message.from;
        let reply = self.commit(message)?;
        // Only who proposed it can tell, and it may be gone.
        if let Some((client, seq)) = from
            && term == self.term
            && self.rng.random_range(0..8u32) > 0
        {
            self.answers.push(Told { client, seq, reply });
        }
        Ok(())
    }

    fn answer(&mut self) -> Result<(), Violation> {
        for _ in 0..self.rng.random_range(1..8) {
            if self.answers.is_empty() {
                break;
            }
            let at = self.rng.random_range(0..self.answers.len());
            let Told { client, seq, reply } = self.answers.swap_remove(at);
            if let Some(client) = self.clients.iter_mut().find(|known| known.id == client) {
                client.hear(seq, reply)?;
            }
        }
        Ok(())
    }

    fn replica_fault(&mut self) {
        let at = self.rng.random_range(0..REPLICAS);
        match self.rng.random_range(0..4u32) {
            0 => {
                self.tally.count("crashes");
                self.replicas[at].crash();
            }
            1 => {
                let from = self.rng.random_range(0..REPLICAS);
                if self.replicas[from].applied > self.replicas[at].applied {
                    self.tally.count("snapshots");
                    let from = self.replicas[from].clone();
                    self.replicas[at].install(&from);
                }
            }
            _ => self.replicas[at].save(),
        }
    }

    fn new_leader(&mut self) {
        self.tally.count("new_leaders");
        self.leader = self.rng.random_range(0..REPLICAS);
        self.term += 1;
        // What the former one proposed is taken or not.
        let keep = self.rng.random_range(0..=self.proposals.len());
        self.proposals.truncate(keep);
        if self.rng.random_range(0..4u32) == 0 {
            self.skews[self.leader] = self.rng.random_range(-4_000_000_000..4_000_000_000);
        }
    }

    /// What a leader does unasked, by its own records, which may be behind.
    fn housekeeping(&mut self) -> Result<(), Violation> {
        let seen = &self.replicas[self.leader].records;
        let pending = machine::pending_steps(seen).map_err(|error| damaged(&error))?;
        let mut steps = Vec::new();
        let mut due: BTreeMap<VolumeId, Vec<Ino>> = BTreeMap::new();
        for (volume, ino) in pending.orphans {
            if self.rng.random_range(0..3u32) == 0 {
                due.entry(volume).or_default().push(ino);
            }
        }
        steps.extend(due.into_iter().map(|(volume, inos)| Command::Step(Step::ReapOrphans { volume, inos })));
        for (volume, ino) in pending.cuts {
            if self.rng.random() {
                steps.push(Command::Step(Step::FinishCut { volume, ino }));
            }
        }
        let (volume, space) = if self.wide { VOLUMES[self.rng.random_range(0..3)] } else { VOLUMES[0] };
        match self.rng.random_range(0..12u32) {
            0 => steps
                .push(Command::Step(Step::ReapOrphans { volume, inos: vec![self.known.any(&mut self.rng, volume)] })),
            1 => steps.push(Command::Step(Step::FinishCut { volume, ino: self.known.any(&mut self.rng, volume) })),
            2 | 3 => {
                let freed = machine::freed_chunks(seen, space, None, 50).map_err(|error| damaged(&error))?;
                let chunks = freed.iter().map(|freed| freed.chunk).filter(|_| self.rng.random()).collect();
                steps.push(Command::Step(Step::ForgetFreed { space, chunks }));
            }
            4 => {
                let client = self.clients.choose(&mut self.rng).expect("there are some");
                self.tally.count("ended_sessions");
                steps.push(Command::EndSession { client: client.id, space: client.space });
            }
            5 | 6 => {
                let (max_bytes, max_inodes) = match self.rng.random_range(0..3u32) {
                    0 if self.wide => (40_000, 60),
                    0 => (300, 12),
                    1 if self.wide => (1 << 30, 200),
                    1 => (100_000, 30),
                    _ => (0, 0),
                };
                steps.push(Command::SetQuota { volume, max_bytes, max_inodes });
            }
            7 => steps.push(attach(volume, space).entry.command),
            8 => steps.push(Command::RaiseFeatureLevel(self.rng.random_range(0..3))),
            _ => {}
        }
        steps.into_iter().for_each(|command| self.propose(own(command)));
        Ok(())
    }

    /// A question to any replica, wherever it is: its records are whole.
    fn question(&mut self) -> Result<(), Violation> {
        let volume = if self.wide { VOLUMES[self.rng.random_range(0..3)].0 } else { tree::VOLUME };
        let query = roll::question(&mut self.rng, &self.known, volume);
        let cred = roll::cred(&mut self.rng);
        let at = self.rng.random_range(0..REPLICAS);
        self.tally.steps += 1;
        let answer = machine::query(&self.replicas[at].records, volume, ClientId(0), &cred, &query);
        answer.map(drop).map_err(|error| damaged(&error))
    }

    /// Puts an entry into the log, applies it to the truth, and asks the laws of one entry.
    fn commit(&mut self, message: Message) -> Result<Reply, Violation> {
        let bytes = codec::encode_entry(&message.entry);
        let entry = codec::decode_entry(&bytes).map_err(|error| broken("codec", error.to_string()))?;
        if entry != message.entry {
            return Err(broken("codec", format!("{:?} came back as {entry:?}", message.entry)));
        }
        let expected = match &entry {
            Entry { caller: Some(caller), command: Command::Op { .. }, .. } => Some(self.sessions.expected(caller)),
            _ => None,
        };
        let group_time = machine::group_time(&self.truth).map_err(|error| damaged(&error))?;
        let before = self.uses()?;
        let machine::Applied { reply, changes } =
            machine::apply(&self.truth, GROUP, &entry).map_err(|error| damaged(&error))?;
        self.tally.steps += 1;
        let (count, print) = (changes.len(), print(&reply, &changes));
        self.tally.fold(&print.to_be_bytes());
        write(&mut self.truth, changes);
        self.log.push(Logged { bytes, print });
        if count > MAX_CHANGES {
            return Err(broken("few changes", format!("{count} by {entry:?}")));
        }
        self.obeys_quota(&before)?;
        match (&expected, &entry.caller, &entry.command) {
            (Some(Expected::Exactly(expected)), _, _) => {
                if **expected != reply || count > 0 {
                    let what = format!("{entry:?}: {reply:?} with {count} changes, where {expected:?} was due");
                    return Err(broken("exactly once", what));
                }
            }
            (Some(Expected::Done), Some(caller), Command::Op { volume, op }) => {
                // A reply, a session's mark, the clock: nothing else.
                if reply.is_err() && !is_passing(&reply) && count > 3 {
                    return Err(broken(
                        "a refusal changes nothing",
                        format!("{count} records by {entry:?}: {reply:?}"),
                    ));
                }
                if let Err(Refusal::CutPending { .. }) = reply {
                    self.tally.count("unfinished");
                }
                if let Some(tree) = &mut self.tree {
                    let now = group_time.map_or(entry.time, |last| last.max(entry.time));
                    let wanted = tree.run(now, caller.client, &caller.cred, op);
                    let (found, wanted) = (compare::plain(reply.clone()), compare::plain(wanted));
                    if found != wanted {
                        let what = format!("{op:?} by {}: {found:?}, not {wanted:?}", caller.cred.uid);
                        return Err(broken("as a plain tree", what));
                    }
                }
                self.sessions.done(caller, &reply);
                self.known.learn(&mut self.rng, *volume, &reply);
            }
            _ => {
                self.sessions.note(&entry, &reply);
                self.tell_tree(&entry.command);
            }
        }
        Ok(reply)
    }

    /// What the leader does changes the plain tree too.
    fn tell_tree(&mut self, command: &Command) {
        let Some(tree) = &mut self.tree else { return };
        match command {
            Command::SetQuota { max_bytes, max_inodes, .. } => {
                (tree.max_bytes, tree.max_inodes) = (*max_bytes, *max_inodes);
            }
            Command::Step(Step::ReapOrphans { inos, .. }) => inos.iter().for_each(|ino| tree.reap(ino.0)),
            Command::Step(Step::ForgetFreed { space, chunks }) => {
                for chunk in chunks.iter().take(STEP_RECORDS) {
                    if self.sessions.has_ended(chunk.client, *space) {
                        tree.freed.remove(chunk);
                    }
                }
            }
            _ => {}
        }
    }

    fn uses(&self) -> Result<BTreeMap<VolumeId, VolumeUse>, Violation> {
        let mut uses = BTreeMap::new();
        for (volume, _) in if self.wide { &VOLUMES[..] } else { &VOLUMES[..1] } {
            let answer = machine::query(&self.truth, *volume, ClientId(0), &Cred::root(), &Query::Statfs);
            if let Ok(Answer::Statfs(now)) = answer.map_err(|error| damaged(&error))? {
                uses.insert(*volume, now);
            }
        }
        Ok(uses)
    }

    /// What is used grows only within the limits.
    fn obeys_quota(&self, before: &BTreeMap<VolumeId, VolumeUse>) -> Result<(), Violation> {
        let over = |now: u64, was: u64, max: u64| max != 0 && now > was && now > max;
        for (volume, now) in self.uses()? {
            let was = before.get(&volume).copied().unwrap_or_default();
            if over(now.bytes, was.bytes, now.max_bytes) || over(now.inodes, was.inodes, now.max_inodes) {
                return Err(broken("quota", format!("volume {volume}: {was:?} became {now:?}")));
            }
        }
        Ok(())
    }

    /// The laws of all records.
    fn judge(&mut self) -> Result<(), Violation> {
        for replica in &mut self.replicas {
            self.tally.steps += replica.advance(&self.log, usize::MAX)?;
            if replica.records != self.truth {
                let differ = replica.records.iter().find(|(key, value)| self.truth.get(*key) != Some(*value));
                return Err(broken("replicas equal", format!("they differ, first at {differ:?}")));
            }
        }
        let wrong = machine::recount(&self.truth).map_err(|error| damaged(&error))?;
        if !wrong.is_empty() {
            return Err(broken("counts equal a recount", wrong.join("; ")));
        }
        for (space, uploaded) in &self.known.chunks {
            for chunk in uploaded.iter().map(|uploaded| uploaded.chunk) {
                let state = machine::chunk_state(&self.truth, *space, chunk).map_err(|error| damaged(&error))?;
                if matches!(state, ChunkState::Freed { .. } | ChunkState::Abandoned) {
                    self.given_up.insert((*space, chunk));
                }
            }
        }
        for (space, chunk) in &self.given_up {
            let state = machine::chunk_state(&self.truth, *space, *chunk).map_err(|error| damaged(&error))?;
            if !matches!(state, ChunkState::Freed { .. } | ChunkState::Abandoned) {
                return Err(broken("given up for good", format!("chunk {chunk} of space {space} is {state:?} again")));
            }
        }
        if let Some(tree) = &self.tree {
            let chunks = self.known.chunks.get(&SpaceId(3)).map(Vec::as_slice).unwrap_or_default();
            let chunks: Vec<ChunkId> = chunks.iter().map(|uploaded| uploaded.chunk).collect();
            compare::compare(&self.truth, tree, SpaceId(3), &chunks);
        }
        Ok(())
    }

    /// Nothing is lost any more: every request is answered in the end, and no work is left over.
    fn finish(&mut self) -> Result<(), Violation> {
        self.messages.retain(|message| message.entry.caller.is_none());
        for message in std::mem::take(&mut self.messages) {
            self.propose(message);
        }
        for Proposal { message, term } in std::mem::take(&mut self.proposals) {
            self.commit_and_tell(message, term)?;
        }
        let open: Vec<Message> = self.clients.iter().flat_map(Client::ask_all_again).collect();
        for message in open {
            self.ask_until_answered(message)?;
        }
        for _ in 0..PATIENCE * PATIENCE {
            let pending = machine::pending_steps(&self.truth).map_err(|error| damaged(&error))?;
            if pending.orphans.is_empty() && pending.cuts.is_empty() {
                return self.judge();
            }
            for (volume, ino) in pending.orphans {
                self.step(Step::ReapOrphans { volume, inos: vec![ino] })?.map_err(unexpected)?;
            }
            for (volume, ino) in pending.cuts {
                self.step(Step::FinishCut { volume, ino })?.map_err(unexpected)?;
            }
        }
        Err(broken("steps come to an end", "there is always more to do"))
    }

    fn ask_until_answered(&mut self, mut message: Message) -> Result<(), Violation> {
        message.entry.time = Timestamp::from_nanos(self.now);
        for _ in 0..PATIENCE {
            let reply = self.commit(message.clone())?;
            let Err(Refusal::CutPending { ino }) = reply else {
                return match reply {
                    Err(Refusal::NoSession { .. } | Refusal::SessionEnded { .. } | Refusal::SeqTooLow { .. }) => Ok(()),
                    reply if is_passing(&reply) => Err(broken("every request is answered", format!("{reply:?}"))),
                    _ => Ok(()),
                };
            };
            let Command::Op { volume, .. } = message.entry.command else { return Ok(()) };
            for _ in 0..PATIENCE {
                if self.step(Step::FinishCut { volume, ino })? == Ok(Outcome::Stepped { more: false }) {
                    break;
                }
            }
        }
        Err(broken("every request is answered", format!("{:?} is never finished", message.entry)))
    }

    fn step(&mut self, step: Step) -> Result<Reply, Violation> {
        self.commit(own(Command::Step(step)))
    }
}

fn unexpected(refusal: Refusal) -> Violation {
    broken("steps are taken", refusal.to_string())
}

fn attach(volume: VolumeId, space: SpaceId) -> Message {
    own(Command::AttachVolume(AttachVolume { volume, space, slot: SlotId(volume.0), mode: 0o777, uid: 0, gid: 0 }))
}

fn own(command: Command) -> Message {
    Message { entry: Entry { time: Timestamp::default(), caller: None, command }, from: None }
}
