//! What becomes of the members of a placement group.
//!
//! **Who goes.** A member that must go, or that is one too many, goes only while as many others serve as there should be
//! copies. One that is away is dropped. One that is there is told to leave first, and dropped when it has said that it
//! has adopted the epoch that says so: see [`crate::site::right`].
//!
//! **Who is brought back.** When all who served are lost for good (their folders were made afresh, or the site has
//! forgotten them), others may still have everything: a chunk that was acknowledged at an epoch lies on every live member
//! of that epoch, and who served at an epoch has all that was acknowledged up to it. So a member that last served at an
//! epoch at or after the last one at which anything can have been acknowledged lacks nothing, and serves again. At the
//! epochs after that, fewer members were live than an acknowledgement needs: with a factor above one a member left alone
//! takes no chunks. Of any other member it can't be said what it lacks. Then the group stays as it is, so that people see
//! it and bring back one of those that served.

use super::Look;
use crate::ids::NodeId;
use crate::site::{MemberState, Pg, PgMember, PgPast};

/// Changes the members' states as they should be now; `kept` are those that should stay in the end.
pub(super) fn step(look: &Look<'_>, pg: &mut Pg, kept: &[NodeId]) {
    revive(look, pg);
    let serves_on = |member: &PgMember| member.state == MemberState::Serving && !look.is_silent(member.replica);
    let some_serve_on = pg.members.iter().any(serves_on);
    let key = (pg.id, pg.epoch);
    let is_done =
        |member: &PgMember| look.report(member.replica.node).is_some_and(|report| report.complete.contains(&key));
    for member in &mut pg.members {
        if look.is_lost(member.replica) {
            // Another life of the node begins with nothing, where others have what it had.
            if some_serve_on {
                let anew = look.node(member.replica.node).filter(|node| kept.contains(&node.id));
                member.replica = anew.map_or(member.replica, |node| node.replica());
                member.state = MemberState::Away;
            }
            continue;
        }
        let silent = look.is_silent(member.replica);
        member.state = match member.state {
            MemberState::Serving if silent && some_serve_on => MemberState::Away,
            MemberState::Behind if silent => MemberState::Away,
            MemberState::Behind if is_done(member) => MemberState::Serving,
            same => same,
        };
    }
    let copies = usize::from(pg.factor);
    let stays = |member: &PgMember| kept.contains(&member.replica.node) && member.state != MemberState::Leaving;
    let enough = pg.members.iter().filter(|member| stays(member) && serves_on(member)).count() >= copies;
    let replaced = kept.len() >= copies;
    let id = pg.id;
    pg.members.retain_mut(|member| {
        let alive = look.is_alive(member.replica.node) && !look.is_lost(member.replica);
        match member.state {
            MemberState::Away if stays(member) || !(replaced || enough) => {
                let gone = look.is_lost(member.replica);
                let useless = gone || (look.is_silent(member.replica) && !look.ever_served(id, member));
                if alive {
                    member.state = MemberState::Behind;
                }
                !(useless && some_serve_on)
            }
            MemberState::Away => {
                let useless = look.is_lost(member.replica) || !look.ever_served(id, member);
                !(enough || (useless && some_serve_on))
            }
            MemberState::Leaving if enough => !(look.is_silent(member.replica) || is_done(member)),
            // It is needed after all, since nobody else is there to take its place.
            MemberState::Leaving if look.is_silent(member.replica) => {
                member.state = MemberState::Away;
                true
            }
            MemberState::Leaving if !replaced && is_done(member) => {
                member.state = MemberState::Behind;
                true
            }
            MemberState::Serving if enough && !stays(member) => {
                member.state = MemberState::Leaving;
                true
            }
            MemberState::Behind if replaced && !stays(member) => {
                member.state = MemberState::Leaving;
                true
            }
            _ => true,
        }
    });
}

fn revive(look: &Look<'_>, pg: &mut Pg) {
    let serves = |member: &PgMember| member.state == MemberState::Serving && !look.is_lost(member.replica);
    if pg.members.iter().any(serves) {
        return;
    }
    let Some(past) = look.map.pasts.iter().find(|past| past.pg == pg.id) else { return };
    for member in &mut pg.members {
        if lacks_nothing(past, member) && !look.is_lost(member.replica) && look.is_alive(member.replica.node) {
            member.state = MemberState::Serving;
        }
    }
}

/// Whether a member has everything that was ever acknowledged.
pub(in crate::site) fn lacks_nothing(past: &PgPast, member: &PgMember) -> bool {
    past.served(member.replica).is_some_and(|served| served >= past.took)
}
