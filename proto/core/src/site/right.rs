//! The right to acknowledge a chunk, as a function of values.
//!
//! A member loses its place in one of two ways. Who is silent is called away or taken out after its lease has run out:
//! what it may still believe, it acknowledges nothing. Who is there is first called leaving, at an epoch at which it has
//! no right; once it says that it has adopted that epoch, it is taken out. Until it says so, it may acknowledge at the
//! epoch before, and may be asked to: its place among the members is not gone yet.

use super::{MemberState, Pg, PgMember, SiteMap};
use crate::broken::{self, Variant};
use crate::ids::{PgEpoch, PgId, ReplicaId};
use crate::refusal::Refusal;

/// What a chunk server holds from the leader of the system group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Whether its lease still runs.
    pub runs: bool,
    /// The site map that the lease was given for: its holder must know this one or a newer.
    pub map_version: u64,
}

/// The placement group at the named epoch, if this server may say "stored" for it: only while its lease runs, only as a
/// member that is not called away, and only at the epoch that the caller named.
///
/// # Errors
/// `StalePlacement`: the caller or this server must learn a newer map. `MayNotAcknowledge`.
pub fn may_acknowledge(map: &SiteMap, server: ReplicaId, held: Held, pg: PgId, epoch: PgEpoch) -> Result<&Pg, Refusal> {
    let Some(found) = map.pgs.iter().find(|found| found.id == pg) else {
        return Err(Refusal::StalePlacement { pg, epoch: PgEpoch(0) });
    };
    if found.epoch != epoch {
        return Err(Refusal::StalePlacement { pg, epoch: found.epoch });
    }
    let no = |why: String| Err(Refusal::MayNotAcknowledge { why });
    match found.members.iter().find(|member| member.replica == server) {
        None => return no(format!("{server} is no member of placement group {pg}")),
        Some(PgMember { state: MemberState::Away, .. }) => {
            return no(format!("{server} is called away in placement group {pg}"));
        }
        Some(PgMember { state: MemberState::Leaving, .. }) => {
            return no(format!("{server} is leaving placement group {pg}"));
        }
        Some(_) => {}
    }
    if !held.runs && !broken::is(Variant::RemovedAcknowledges) {
        return no("the lease ran out".into());
    }
    if map.version < held.map_version {
        return no(format!("the lease is for site map {}, this is {}", held.map_version, map.version));
    }
    Ok(found)
}
