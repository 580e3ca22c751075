//! New members where some are missing: the placement groups with the fewest copies first.
//!
//! What always holds: nobody joins a group that nobody serves, since there is nothing to copy from. No server gets more
//! to copy at a time than it can carry, nor the site.

use super::Look;
use super::choice::{Loads, moving, stay};
use crate::limits::MOVES_PER_SITE;
use crate::site::{MemberState, Pg, PgMember};

pub(super) fn add_members(look: &Look<'_>, pgs: &mut [Pg], loads: &mut Loads) {
    let serves = |member: &&PgMember| member.state == MemberState::Serving && !look.is_silent(member.replica);
    let serving = |pg: &Pg| pg.members.iter().filter(serves).count();
    let mut short: Vec<&mut Pg> =
        pgs.iter_mut().filter(|pg| serving(pg) > 0 && stay(look, pg).len() < usize::from(pg.factor)).collect();
    if short.is_empty() {
        return;
    }
    short.sort_by_key(|pg| (serving(pg), pg.id));
    let mut room = MOVES_PER_SITE.saturating_sub(moving(look, &look.map.pgs));
    for pg in short {
        let mut kept = stay(look, pg);
        while kept.len() < usize::from(pg.factor) && room > 0 {
            let Some(node) = loads.candidate(look, pg, &kept).and_then(|node| look.node(node)) else { break };
            pg.members.push(PgMember { replica: node.replica(), state: MemberState::Behind });
            loads.add(pg.factor, node.id);
            *loads.coming.entry(node.id).or_default() += 1;
            kept.push(node.id);
            room -= 1;
        }
    }
}
