//! Sessions, and the replies that make every request happen once.
//!
//! The replies of a session lie in a ring of [`MAX_WINDOW`] places, the place of a request being its number modulo the
//! window. A request may only come while all of a window before it is acknowledged, so what it overwrites is a reply
//! that nobody asks for any more: the ring bounds itself and nothing has to be swept on the way.

use std::ops::ControlFlow;

use crate::codec::{self, Session, StoredReply};
use crate::entry::Caller;
use crate::ids::{ClientId, PrincipalId, SpaceId};
use crate::keys;
use crate::limits::MAX_WINDOW;
use crate::namespace::fail::Fail;
use crate::namespace::lease;
use crate::namespace::outcome::Outcome;
use crate::namespace::records;
use crate::refusal::Refusal;
use crate::view::{Overlay, View, ViewError};

/// What a session says to a request.
pub(crate) enum Place {
    /// It was answered before, like this.
    Answered(Result<Outcome, Refusal>),
    /// It is new.
    New(Session),
}

/// Finds a request's place in its session: its reply first, then whether the session may ask at all.
pub(crate) fn place(view: &dyn View, caller: &Caller) -> Result<Place, Fail> {
    let Caller { client, space, seq, acked_below, .. } = *caller;
    let Some(session) = find(view, client, space)? else {
        return Err(Refusal::NoSession { client, space }.into());
    };
    if session.ended {
        return Err(Refusal::SessionEnded { client, space }.into());
    }
    // Before its replies: what another was answered is nobody else's.
    if !is_of(&session, caller.cred.principal) {
        return Err(another().into());
    }
    let key = reply_key(caller);
    if let Some(stored) = records::get::<StoredReply>(view, &key)?
        && stored.seq == seq
    {
        let reply = codec::decode_reply(&stored.reply).map_err(|err| records::damaged(&key, &err))?;
        return Ok(Place::Answered(reply));
    }
    let acked_below = acked_below.max(session.acked_below);
    // A client that acknowledges what it is just asking means nothing by it; its mark is not believed either.
    if seq < acked_below || seq.0 == 0 {
        return Err(Refusal::SeqTooLow { seq }.into());
    }
    if seq.0 - acked_below.0.max(1) >= MAX_WINDOW {
        return Err(Refusal::WindowFull { seq }.into());
    }
    Ok(Place::New(Session { acked_below, ..session }))
}

/// Keeps a reply and the session's mark.
pub(crate) fn answer(out: &mut Overlay<'_>, caller: &Caller, session: &Session, reply: &Result<Outcome, Refusal>) {
    let stored = StoredReply { seq: caller.seq, reply: codec::encode_reply(reply) };
    out.put(reply_key(caller), codec::encode(&stored));
    out.put(keys::session(caller.space, caller.client), codec::encode(session));
}

/// Whether a refusal says nothing about the request itself, so that the same request may yet be done.
pub(crate) fn is_passing(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::CutPending { .. }
            | Refusal::Leased { .. }
            | Refusal::Busy { .. }
            | Refusal::NoSession { .. }
            | Refusal::SessionEnded { .. }
            | Refusal::SeqTooLow { .. }
            | Refusal::WindowFull { .. }
    )
}

/// Whether a user may ask in a session.
pub(crate) fn is_of(session: &Session, user: PrincipalId) -> bool {
    session.owner.0 == 0 || session.owner == user
}

/// What is said to whom it is not.
pub(crate) fn another() -> Refusal {
    Refusal::NotTrusted { why: "the session is another user's".into() }
}

/// Makes a session known. One that has ended stays ended.
pub(crate) fn open(
    out: &mut Overlay<'_>,
    client: ClientId,
    space: SpaceId,
    owner: PrincipalId,
) -> Result<Outcome, Fail> {
    match find(out, client, space)? {
        Some(session) if !is_of(&session, owner) => return Err(another().into()),
        Some(session) if session.ended => return Err(Refusal::SessionEnded { client, space }.into()),
        Some(_) => return Ok(Outcome::Done),
        None => {}
    }
    if records::get::<bool>(out, &keys::space(space))?.is_none() {
        return Err(Refusal::NotServed { what: format!("space {space}") }.into());
    }
    out.put(keys::session(space, client), codec::encode(&Session { owner, ..Session::default() }));
    Ok(Outcome::Done)
}

/// Ends a session: its replies go, a tombstone stays. One that was never open is ended too, so that it can't be
/// opened late.
pub(crate) fn end(out: &mut Overlay<'_>, client: ClientId, space: SpaceId) -> Result<Outcome, Fail> {
    let session = find(out, client, space)?.unwrap_or_default();
    if session.ended {
        return Ok(Outcome::Done);
    }
    let mut places = Vec::new();
    records::scan(out, keys::replies(space, client), |key, _| {
        places.push(bytes::Bytes::copy_from_slice(key));
        Ok(ControlFlow::Continue(()))
    })?;
    lease::end_of(out, client, space)?;
    for key in places {
        out.remove(key);
    }
    out.put(keys::session(space, client), codec::encode(&Session { ended: true, ..session }));
    Ok(Outcome::Done)
}

/// A client names no chunk below `counter` for the first time any more. Never taken back.
pub(crate) fn name_none_below(
    out: &mut Overlay<'_>,
    client: ClientId,
    space: SpaceId,
    counter: u64,
) -> Result<Outcome, Fail> {
    let Some(session) = find(out, client, space)? else {
        return Err(Refusal::NoSession { client, space }.into());
    };
    if counter > session.named_below {
        out.put(keys::session(space, client), codec::encode(&Session { named_below: counter, ..session }));
    }
    Ok(Outcome::Done)
}

/// The lowest counter of a chunk that a session may still name for the first time; all are below it once it has ended.
/// `None` if the session is not known.
pub(crate) fn nameable_from(view: &dyn View, client: ClientId, space: SpaceId) -> Result<Option<u64>, ViewError> {
    Ok(find(view, client, space)?.map(|session| if session.ended { u64::MAX } else { session.named_below }))
}

fn find(view: &dyn View, client: ClientId, space: SpaceId) -> Result<Option<Session>, ViewError> {
    records::get(view, &keys::session(space, client))
}

fn reply_key(caller: &Caller) -> bytes::Bytes {
    keys::reply(caller.space, caller.client, (caller.seq.0 % MAX_WINDOW) as u16)
}
