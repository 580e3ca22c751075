//! Clients: they number their requests, ask again where no answer came, and remember what they were told.

use std::collections::BTreeMap;

use rand::Rng;
use rand::rngs::SmallRng;
use weft_core::entry::{Caller, Command, Cred, Entry};
use weft_core::ids::{ClientId, Seq, SpaceId, VolumeId};
use weft_core::limits::MAX_WINDOW;
use weft_core::namespace::op::Op;
use weft_core::refusal::Refusal;
use weft_core::time::Timestamp;

use super::sessions::{Reply, is_passing};
use crate::run::Violation;
use crate::small::broken;

/// Requests that one client has under way at the most.
const AT_ONCE: usize = 8;
/// Answers that it remembers.
const REMEMBERED: usize = 64;

#[derive(Clone)]
pub(super) struct Request {
    pub(super) volume: VolumeId,
    pub(super) op: Op,
    pub(super) cred: Cred,
}

/// A message on its way to whoever leads.
#[derive(Clone)]
pub(super) struct Message {
    pub(super) entry: Entry,
    /// Who waits for the answer.
    pub(super) from: Option<(ClientId, u64)>,
}

pub(super) struct Client {
    pub(super) id: ClientId,
    pub(super) space: SpaceId,
    next: u64,
    open: BTreeMap<u64, Request>,
    heard: BTreeMap<u64, Reply>,
    /// Chunks it has uploaded.
    pub(super) chunks: u64,
    /// It was told that its session is over.
    pub(super) over: bool,
}

impl Client {
    pub(super) fn new(id: ClientId, space: SpaceId) -> Client {
        Client { id, space, next: 1, open: BTreeMap::new(), heard: BTreeMap::new(), chunks: 0, over: false }
    }

    pub(super) fn may_ask(&self) -> bool {
        !self.over && self.open.len() < AT_ONCE
    }

    pub(super) fn ask(&mut self, request: Request) -> Message {
        let seq = self.next;
        self.next += 1;
        self.open.insert(seq, request);
        self.message(seq)
    }

    /// One of the requests that no answer has come to.
    pub(super) fn ask_again(&self, rng: &mut SmallRng) -> Option<Message> {
        let nth = rng.random_range(0..self.open.len().max(1));
        self.open.keys().nth(nth).map(|seq| self.message(*seq))
    }

    /// All of them, in order.
    pub(super) fn ask_all_again(&self) -> Vec<Message> {
        self.open.keys().map(|seq| self.message(*seq)).collect()
    }

    fn message(&self, seq: u64) -> Message {
        let Request { volume, op, cred } = self.open[&seq].clone();
        let acked_below = *self.open.keys().next().unwrap_or(&self.next);
        let caller = Caller { client: self.id, space: self.space, seq: Seq(seq), acked_below: Seq(acked_below), cred };
        let command = Command::Op { volume, op };
        let entry = Entry { time: Timestamp::default(), caller: Some(caller), command };
        Message { entry, from: Some((self.id, seq)) }
    }

    /// A number that no honest client would use: none, an old one, one far ahead, with a mark that lies.
    pub(super) fn forge(&self, rng: &mut SmallRng, request: Request) -> Message {
        let about = |rng: &mut SmallRng| match rng.random_range(0..6u32) {
            0 => 0,
            1 => u64::MAX - rng.random_range(0..2),
            2 => self.next + rng.random_range(0..3 * MAX_WINDOW),
            _ => self.next.saturating_sub(rng.random_range(0..20)),
        };
        let (seq, acked) = (about(rng), about(rng));
        // A mark far ahead would shut the honest client out for good, and nothing more be tried.
        let acked_below = acked.min(*self.open.keys().next().unwrap_or(&self.next));
        let Request { volume, op, cred } = request;
        let caller = Caller { client: self.id, space: self.space, seq: Seq(seq), acked_below: Seq(acked_below), cred };
        let command = Command::Op { volume, op };
        Message { entry: Entry { time: Timestamp::default(), caller: Some(caller), command }, from: None }
    }

    /// An answer came.
    pub(super) fn hear(&mut self, seq: u64, reply: Reply) -> Result<(), Violation> {
        if matches!(reply, Err(Refusal::SessionEnded { .. })) {
            self.over = true;
            self.open.clear();
        }
        if let Err(Refusal::SeqTooLow { .. }) = reply
            && self.open.contains_key(&seq)
        {
            return Err(broken("exactly once", format!("client {} waits for {seq}, and is told it need not", self.id)));
        }
        if is_passing(&reply) {
            return Ok(());
        }
        self.open.remove(&seq);
        if let Some(before) = self.heard.get(&seq)
            && *before != reply
        {
            let what = format!("client {} was told {before:?} of request {seq}, then {reply:?}", self.id);
            return Err(broken("exactly once", what));
        }
        self.heard.insert(seq, reply);
        if self.heard.len() > REMEMBERED {
            self.heard.pop_first();
        }
        Ok(())
    }
}
