//! What a session must say to a request, as plainly as can be: a map of replies.

use std::collections::BTreeMap;

use weft_core::entry::{Caller, Command, Entry};
use weft_core::ids::{ClientId, Seq, SpaceId};
use weft_core::limits::MAX_WINDOW;
use weft_core::namespace::outcome::Outcome;
use weft_core::refusal::Refusal;

pub(super) type Reply = Result<Outcome, Refusal>;

/// What a request must come to.
#[derive(Clone, Debug)]
pub(super) enum Expected {
    /// This, and nothing may change.
    Exactly(Box<Reply>),
    /// It is done now.
    Done,
}

#[derive(Default)]
struct Session {
    ended: bool,
    acked_below: u64,
    /// By place in the window: the number and its reply.
    replies: BTreeMap<u64, (u64, Reply)>,
}

/// All sessions of the group.
#[derive(Default)]
pub(super) struct Sessions(BTreeMap<(SpaceId, ClientId), Session>);

impl Sessions {
    /// What the request must come to.
    pub(super) fn expected(&self, caller: &Caller) -> Expected {
        let Caller { client, space, seq: Seq(seq), .. } = *caller;
        let Some(session) = self.0.get(&(space, client)) else {
            return Expected::Exactly(Box::new(Err(Refusal::NoSession { client, space })));
        };
        if session.ended {
            return Expected::Exactly(Box::new(Err(Refusal::SessionEnded { client, space })));
        }
        if let Some((_, reply)) = session.replies.get(&(seq % MAX_WINDOW)).filter(|(of, _)| *of == seq) {
            return Expected::Exactly(Box::new(reply.clone()));
        }
        let below = session.acked_below.max(caller.acked_below.0);
        if seq == 0 || seq < below {
            Expected::Exactly(Box::new(Err(Refusal::SeqTooLow { seq: Seq(seq) })))
        } else if seq - below.max(1) >= MAX_WINDOW {
            Expected::Exactly(Box::new(Err(Refusal::WindowFull { seq: Seq(seq) })))
        } else {
            Expected::Done
        }
    }

    /// A request was done, and this came of it.
    pub(super) fn done(&mut self, caller: &Caller, reply: &Reply) {
        if is_passing(reply) {
            return;
        }
        let session = self.0.get_mut(&(caller.space, caller.client)).expect("only a session's request is done");
        session.acked_below = session.acked_below.max(caller.acked_below.0);
        session.replies.insert(caller.seq.0 % MAX_WINDOW, (caller.seq.0, reply.clone()));
    }

    /// An entry of the leader's own was applied.
    pub(super) fn note(&mut self, entry: &Entry, reply: &Reply) {
        match &entry.command {
            Command::OpenSession { client, space } if reply.is_ok() => {
                self.0.entry((*space, *client)).or_default();
            }
            Command::EndSession { client, space } => {
                let session = self.0.entry((*space, *client)).or_default();
                session.ended = true;
                session.replies.clear();
            }
            _ => {}
        }
    }

    pub(super) fn has_ended(&self, client: ClientId, space: SpaceId) -> bool {
        self.0.get(&(space, client)).is_some_and(|session| session.ended)
    }
}

/// Whether the answer says nothing about the request, so that it may yet be done.
pub(super) fn is_passing(reply: &Reply) -> bool {
    use Refusal::{Busy, CutPending, NoSession, SeqTooLow, SessionEnded, WindowFull};
    matches!(
        reply,
        Err(CutPending { .. }
            | Busy { .. }
            | NoSession { .. }
            | SessionEnded { .. }
            | SeqTooLow { .. }
            | WindowFull { .. })
    )
}
