//! The state machine of a group: one entry in, one reply and the changed records out.

use crate::entry::{Cred, Entry};
use crate::ids::{ClientId, GroupId, SpaceId, VolumeId};
use crate::namespace::outcome::Outcome;
use crate::namespace::query::{Answer, Query};
use crate::namespace::step::PendingSteps;
use crate::refusal::Refusal;
use crate::view::{Changes, View, ViewError};

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
    let _ = (view, group, entry);
    unimplemented!("replaced by the namespace work")
}

/// Answers a question about a volume of this group.
///
/// # Errors
/// The store failed; the replica must stop using it.
pub fn query(
    view: &dyn View,
    volume: VolumeId,
    cred: &Cred,
    query: &Query,
) -> Result<Result<Answer, Refusal>, ViewError> {
    let _ = (view, volume, cred, query);
    unimplemented!("replaced by the namespace work")
}

/// Whether a session is open in this group: `NoSession` or `SessionEnded` if not.
///
/// # Errors
/// The store failed; the replica must stop using it.
pub fn session(view: &dyn View, client: ClientId, space: SpaceId) -> Result<Result<(), Refusal>, ViewError> {
    let _ = (view, client, space);
    unimplemented!("replaced by the namespace work")
}

/// All open sessions of this group, in order.
///
/// # Errors
/// The store failed; the replica must stop using it.
pub fn sessions(view: &dyn View) -> Result<Vec<(ClientId, SpaceId)>, ViewError> {
    let _ = view;
    unimplemented!("replaced by the namespace work")
}

/// Background work that waits in this group, at most `limit` of each kind.
///
/// # Errors
/// The store failed; the replica must stop using it.
pub fn pending(view: &dyn View, limit: usize) -> Result<PendingSteps, ViewError> {
    let _ = (view, limit);
    unimplemented!("replaced by the namespace work")
}
