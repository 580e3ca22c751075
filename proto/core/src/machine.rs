//! The state machine of a group: one entry in, one reply and the changed records out.

use std::ops::ControlFlow;

use crate::codec::{self, ChunkRef, Head, Session};
use crate::entry::{Caller, Command, Cred, Entry};
use crate::ids::{ChunkId, ClientId, GroupId, Ino, PgId, PrincipalId, Seq, SpaceId, VolumeId};
use crate::keys;
use crate::limits::{MAX_CHANGES, MAX_PENDING};
use crate::namespace::fail::Fail;
use crate::namespace::inode::Attr;
use crate::namespace::op::Op;
use crate::namespace::outcome::Outcome;
use crate::namespace::query::{self, Answer, Query};
use crate::namespace::records::{self, damaged};
pub use crate::namespace::recount::recount;
use crate::namespace::session::{self, Place};
use crate::namespace::step::{self, PendingSteps, Step};
use crate::namespace::tx::Tx;
use crate::namespace::{compact, lease, ops, volume};
use crate::refusal::Refusal;
use crate::site;
use crate::time::Timestamp;
use crate::view::{Changes, Overlay, View, ViewError};

/// What came of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// What the caller is told.
    pub reply: Result<Outcome, Refusal>,
    /// What to write, in one batch with the applied log id. A refusal may change records too (its reply is kept).
    pub changes: Changes,
}

/// Applies one entry. The same entry on the same records gives the same answer and the same changes everywhere.
///
/// # Errors
/// The store failed; the replica must stop using it.
pub fn apply(view: &dyn View, group: GroupId, entry: &Entry) -> Result<Applied, ViewError> {
    let last = records::get::<Timestamp>(view, &keys::clock())?;
    let now = entry.time.max(last.unwrap_or(entry.time));
    let (reply, mut out) = match (&entry.command, &entry.caller) {
        (Command::Op { volume, op }, Some(caller)) => apply_called(view, now, *volume, op, caller)?,
        (Command::Op { volume, op }, None) => step_on(view, now, *volume, |tx| ops::run(tx, op))?,
        (command, _) => apply_own(view, group, now, command)?,
    };
    // An entry that changes nothing (a repeated request, say) leaves no trace of its time either.
    if out.changed() > 0 && last != Some(now) {
        out.put(keys::clock(), codec::encode(&now));
    }
    let changes = out.into_changes();
    assert!(changes.len() <= MAX_CHANGES, "every operation asks for room before it changes records in number");
    Ok(Applied { reply, changes })
}

/// What an entry came to: its reply, and the records with its changes.
type Reply<'a> = (Result<Outcome, Refusal>, Overlay<'a>);

/// A client's request: done once, however often it comes.
fn apply_called<'a>(
    view: &'a dyn View,
    now: Timestamp,
    volume: VolumeId,
    op: &Op,
    caller: &Caller,
) -> Result<Reply<'a>, ViewError> {
    let session = match session::place(view, caller) {
        Ok(Place::Answered(reply)) => return Ok((reply, Overlay::new(view))),
        Ok(Place::New(session)) => session,
        Err(Fail::Refused(refusal) | Fail::Unfinished(refusal)) => return Ok((Err(refusal), Overlay::new(view))),
        Err(Fail::View(err)) => return Err(err),
    };
    let run = |tx: &mut Tx<'_>| {
        if tx.head.space != caller.space {
            let why = format!("volume {volume} is not of space {}", caller.space);
            return Err(Refusal::WrongRecipient { why }.into());
        }
        ops::run(tx, op)
    };
    let (reply, out) = on_volume(view, now, volume, &caller.cred, Some(caller.client), run)?;
    let unfinished = reply.is_err() && out.is_some();
    let mut out = out.unwrap_or_else(|| Overlay::new(view));
    if !unfinished && !reply.as_ref().is_err_and(session::is_passing) {
        session::answer(&mut out, caller, &session, &reply);
    }
    Ok((reply, out))
}

/// What the leader proposes by itself; each of these may be repeated.
fn apply_own<'a>(
    view: &'a dyn View,
    group: GroupId,
    now: Timestamp,
    command: &Command,
) -> Result<Reply<'a>, ViewError> {
    let mut out = Overlay::new(view);
    let done = match command {
        Command::Site(command) if group == GroupId::SYSTEM => site::apply(&mut out, now, command).map(Outcome::Site),
        Command::Site(_) => Err(Refusal::NotServed { what: format!("the site, in group {group}") }.into()),
        Command::OpenSession { client, space } => session::open(&mut out, *client, *space, PrincipalId(0)),
        Command::OwnSession { client, space, owner } => session::open(&mut out, *client, *space, *owner),
        Command::EndSession { client, space } => session::end(&mut out, *client, *space),
        Command::NameNoneBelow { client, space, counter } => {
            session::name_none_below(&mut out, *client, *space, *counter)
        }
        Command::AttachVolume(attach) => volume::attach(&mut out, now, attach),
        Command::SetQuota { volume, max_bytes, max_inodes } => {
            volume::set_quota(&mut out, *volume, *max_bytes, *max_inodes)
        }
        Command::RaiseFeatureLevel(level) => raise(&mut out, *level),
        Command::Mark(_) => Ok(Outcome::Done),
        Command::Revoke { volume, dir, client } => lease::revoke(&mut out, *volume, *dir, *client),
        Command::Step(Step::ForgetFreed { space, chunks }) => step::forget(&mut out, *space, chunks),
        Command::Step(Step::DropVolume { volume }) => step::drop_volume(&mut out, *volume),
        Command::Step(Step::ReapOrphans { volume, inos }) => {
            return step_on(view, now, *volume, |tx| step::reap(tx, inos));
        }
        Command::Step(Step::FinishCut { volume, ino }) => {
            return step_on(view, now, *volume, |tx| step::finish_cut(tx, *ino));
        }
        Command::Step(Step::Compact { volume, ino, chunk, pg, pieces }) => {
            return step_on(view, now, *volume, |tx| compact::swap(tx, *ino, *chunk, *pg, pieces));
        }
        Command::Op { .. } => unreachable!("operations are told apart before"),
    };
    match done {
        Ok(outcome) => Ok((Ok(outcome), out)),
        Err(Fail::Refused(refusal) | Fail::Unfinished(refusal)) => Ok((Err(refusal), Overlay::new(view))),
        Err(Fail::View(err)) => Err(err),
    }
}

/// Runs something on a volume for the leader itself.
fn step_on<'a>(
    view: &'a dyn View,
    now: Timestamp,
    volume: VolumeId,
    run: impl FnOnce(&mut Tx<'_>) -> Result<Outcome, Fail>,
) -> Result<Reply<'a>, ViewError> {
    let (reply, out) = on_volume(view, now, volume, &Cred::root(), None, run)?;
    Ok((reply, out.unwrap_or_else(|| Overlay::new(view))))
}

/// Runs something on a volume. No records come back when it was refused; with `CutPending` some do when it went as
/// far as one command may.
#[allow(clippy::type_complexity)]
fn on_volume<'a>(
    view: &'a dyn View,
    now: Timestamp,
    volume: VolumeId,
    cred: &Cred,
    client: Option<ClientId>,
    run: impl FnOnce(&mut Tx<'_>) -> Result<Outcome, Fail>,
) -> Result<(Result<Outcome, Refusal>, Option<Overlay<'a>>), ViewError> {
    let before = match records::head(view, volume) {
        Ok(head) => head,
        Err(Fail::Refused(refusal) | Fail::Unfinished(refusal)) => return Ok((Err(refusal), None)),
        Err(Fail::View(err)) => return Err(err),
    };
    let mut tx = Tx { out: Overlay::new(view), now, cred, client, volume, head: before.clone(), held: None };
    let reply = match run(&mut tx) {
        Ok(outcome) => Ok(outcome),
        Err(Fail::Unfinished(refusal)) => Err(refusal),
        Err(Fail::Refused(refusal)) => return Ok((Err(refusal), None)),
        Err(Fail::View(err)) => return Err(err),
    };
    Ok(match tx.settle(&before) {
        Ok(()) => (reply, Some(Overlay::with(view, tx.out.into_changes()))),
        Err(refusal) => (Err(refusal), None),
    })
}

fn raise(out: &mut Overlay<'_>, level: u32) -> Result<Outcome, Fail> {
    if level > feature_level(out)? {
        out.put(keys::feature_level(), codec::encode(&level));
    }
    Ok(Outcome::Done)
}

/// Answers a question about a volume of this group, asked by a client ([`ClientId`] 0: by the node itself, which is
/// shown a leased directory as it is in the records).
///
/// # Errors
/// The store failed; the replica must stop using it.
pub fn query(
    view: &dyn View,
    volume: VolumeId,
    client: ClientId,
    cred: &Cred,
    query: &Query,
) -> Result<Result<Answer, Refusal>, ViewError> {
    match query::answer(view, volume, client, cred, query) {
        Ok(answer) => Ok(Ok(answer)),
        Err(Fail::Refused(refusal) | Fail::Unfinished(refusal)) => Ok(Err(refusal)),
        Err(Fail::View(err)) => Err(err),
    }
}

/// The level of features that entries of this group may use.
///
/// # Errors
/// The store failed.
pub fn feature_level(view: &dyn View) -> Result<u32, ViewError> {
    Ok(records::get(view, &keys::feature_level())?.unwrap_or(0))
}

/// The group's time: that of the last entry that changed anything.
///
/// # Errors
/// The store failed.
pub fn group_time(view: &dyn View) -> Result<Option<Timestamp>, ViewError> {
    records::get(view, &keys::clock())
}

/// Background work that waits in this group, at most `limit` of each kind, and at most [`MAX_PENDING`].
///
/// # Errors
/// The store failed; the replica must stop using it.
pub fn pending(view: &dyn View, limit: usize) -> Result<PendingSteps, ViewError> {
    let limit = limit.min(MAX_PENDING);
    let list = |bounds| {
        let mut found = Vec::new();
        records::scan(view, bounds, |key, _| {
            if found.len() >= limit {
                return Ok(ControlFlow::Break(()));
            }
            let (volume, ino) = keys::two_ids(key).map_err(|err| damaged(key, &err))?;
            found.push((VolumeId(volume), Ino(ino)));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    };
    Ok(PendingSteps { orphans: list(keys::orphans())?, cuts: list(keys::cuts())? })
}

/// As much of [`pending`] as one list holds.
///
/// # Errors
/// The store failed; the replica must stop using it.
pub fn pending_steps(view: &dyn View) -> Result<PendingSteps, ViewError> {
    pending(view, MAX_PENDING)
}

/// Whether a session is open in this group: `NoSession` or `SessionEnded` if not.
///
/// # Errors
/// The store failed; the replica must stop using it.
pub fn session(view: &dyn View, client: ClientId, space: SpaceId) -> Result<Result<(), Refusal>, ViewError> {
    let session: Option<Session> = records::get(view, &keys::session(space, client))?;
    Ok(match session {
        None => Err(Refusal::NoSession { client, space }),
        Some(session) if session.ended => Err(Refusal::SessionEnded { client, space }),
        Some(_) => Ok(()),
    })
}

/// The same, and whether a user may ask in it: `NotTrusted` if it is another's.
///
/// # Errors
/// As [`session`].
pub fn session_of(
    view: &dyn View,
    client: ClientId,
    space: SpaceId,
    user: PrincipalId,
) -> Result<Result<(), Refusal>, ViewError> {
    let found: Option<Session> = records::get(view, &keys::session(space, client))?;
    match found {
        Some(found) if !session::is_of(&found, user) => Ok(Err(session::another())),
        _ => session(view, client, space),
    }
}

/// All open sessions of this group, in order.
///
/// # Errors
/// The store failed; the replica must stop using it.
pub fn sessions(view: &dyn View) -> Result<Vec<(ClientId, SpaceId)>, ViewError> {
    let open = session_list(view)?.into_iter().filter(|session| !session.ended);
    Ok(open.map(|session| (session.client, session.space)).collect())
}

/// A session as its group knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// Whose.
    pub client: ClientId,
    /// Of which space.
    pub space: SpaceId,
    /// Replies to lower numbers have arrived.
    pub acked_below: Seq,
    /// Whether it has ended.
    pub ended: bool,
}

/// All sessions of the group, the ended ones among them.
///
/// # Errors
/// The store failed.
pub fn session_list(view: &dyn View) -> Result<Vec<SessionInfo>, ViewError> {
    let mut found = Vec::new();
    records::scan(view, keys::sessions(), |key, value| {
        let (space, client) = keys::two_ids(key).map_err(|err| damaged(key, &err))?;
        let session: Session = codec::decode(value).map_err(|err| damaged(key, &err))?;
        let Session { acked_below, ended, .. } = session;
        found.push(SessionInfo { client: ClientId(client), space: SpaceId(space), acked_below, ended });
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// The volumes whose records this group has, and their spaces.
///
/// # Errors
/// The store failed.
pub fn volume_list(view: &dyn View) -> Result<Vec<(VolumeId, SpaceId)>, ViewError> {
    let mut found = Vec::new();
    records::scan(view, keys::heads(), |key, value| {
        let volume = keys::head_volume(key).map_err(|err| damaged(key, &err))?;
        let head: Head = codec::decode(value).map_err(|err| damaged(key, &err))?;
        found.push((volume, head.space));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// The root directory of a volume.
///
/// # Errors
/// The store failed. The refusal: [`Refusal::NoVolume`].
pub fn volume_root(view: &dyn View, volume: VolumeId) -> Result<Result<Attr, Refusal>, ViewError> {
    let root = records::inode_if(view, volume, Ino::ROOT)?;
    Ok(root
        .map(|root| records::attr(volume, Ino::ROOT, &root))
        .ok_or_else(|| Refusal::NoVolume { what: volume.to_string() }))
}

/// What is known of a chunk of a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkState {
    /// Extent records name it.
    Named {
        /// How many.
        count: u64,
        /// Where its replicas are.
        pg: PgId,
        /// Its bytes.
        len: u32,
    },
    /// It was named, is no more, and never will be again: its replicas may go.
    Freed {
        /// Where its replicas are.
        pg: PgId,
        /// Its bytes.
        len: u32,
    },
    /// Nothing names it, but its uploader may yet.
    Open,
    /// Nothing names it, and its uploader can't any more: its session has ended, or it said so. Its replicas may go.
    Abandoned,
    /// The group does not know the uploader's session, nor the chunk: its replicas must stay.
    Unknown,
}

/// What is known of a chunk. Only [`ChunkState::Freed`] and [`ChunkState::Abandoned`] allow its deletion.
///
/// # Errors
/// The store failed.
pub fn chunk_state(view: &dyn View, space: SpaceId, chunk: ChunkId) -> Result<ChunkState, ViewError> {
    if let Some(ChunkRef { count, pg, len }) = records::chunk_ref(view, space, chunk)? {
        return Ok(ChunkState::Named { count, pg, len });
    }
    if let Some(ChunkRef { pg, len, .. }) = records::get(view, &keys::freed(space, chunk))? {
        return Ok(ChunkState::Freed { pg, len });
    }
    Ok(match session::nameable_from(view, chunk.client, space)? {
        None => ChunkState::Unknown,
        Some(from) if chunk.counter < from => ChunkState::Abandoned,
        Some(_) => ChunkState::Open,
    })
}

/// A chunk that extent records name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedChunk {
    /// Which.
    pub chunk: ChunkId,
    /// Where its replicas are.
    pub pg: PgId,
    /// Its bytes.
    pub len: u32,
}

/// Named chunks of a space behind `after` in key order, at most `limit`.
///
/// # Errors
/// The store failed.
pub fn named_chunks(
    view: &dyn View,
    space: SpaceId,
    after: Option<ChunkId>,
    limit: usize,
) -> Result<Vec<NamedChunk>, ViewError> {
    let (mut from, to) = keys::chunks_of(space);
    if let Some(after) = after {
        from = [&keys::chunk(space, after)[..], &[0]].concat().into();
    }
    let mut found = Vec::new();
    records::scan(view, (from, to), |key, value| {
        if found.len() >= limit {
            return Ok(ControlFlow::Break(()));
        }
        let (_, chunk) = keys::space_chunk(key).map_err(|err| damaged(key, &err))?;
        let ChunkRef { pg, len, .. } = codec::decode(value).map_err(|err| damaged(key, &err))?;
        found.push(NamedChunk { chunk, pg, len });
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// A chunk that is named no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreedChunk {
    /// Which.
    pub chunk: ChunkId,
    /// Where its replicas are.
    pub pg: PgId,
    /// Its bytes.
    pub len: u32,
}

/// Freed chunks of a space behind `after`, at most `limit`.
///
/// # Errors
/// The store failed.
pub fn freed_chunks(
    view: &dyn View,
    space: SpaceId,
    after: Option<ChunkId>,
    limit: usize,
) -> Result<Vec<FreedChunk>, ViewError> {
    let (mut from, to) = keys::freed_of(space);
    if let Some(after) = after {
        from = [&keys::freed(space, after)[..], &[0]].concat().into();
    }
    let mut found = Vec::new();
    records::scan(view, (from, to), |key, value| {
        if found.len() >= limit {
            return Ok(ControlFlow::Break(()));
        }
        let (_, chunk) = keys::space_chunk(key).map_err(|err| damaged(key, &err))?;
        let ChunkRef { pg, len, .. } = codec::decode(value).map_err(|err| damaged(key, &err))?;
        found.push(FreedChunk { chunk, pg, len });
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}
