//! Nodes that go for good: emptied first, then forgotten.
//!
//! What always holds: no placement group of more than one copy loses the last member that has everything, and no meta
//! group its last replica.

use super::apply::invalid;
use super::plan::lacks_nothing;
use super::records::{self, SiteHead};
use super::{MemberState, NodeStatus, PgMember, SiteOutcome};
use crate::codec;
use crate::ids::NodeId;
use crate::keys;
use crate::namespace::fail::Fail;
use crate::refusal::Refusal;
use crate::view::{Overlay, View};

pub(super) fn drain(out: &mut Overlay<'_>, head: &mut SiteHead, id: NodeId, on: bool) -> Result<SiteOutcome, Fail> {
    let Some(mut node) = records::node(out, id)? else { return Err(unknown(id).into()) };
    if node.draining != on {
        node.draining = on;
        out.put(keys::site_node(id), codec::encode(&node));
        head.version += 1;
    }
    Ok(SiteOutcome::Done)
}

/// Asked again after it is done, it says that there is no such node.
pub(super) fn remove(out: &mut Overlay<'_>, head: &mut SiteHead, id: NodeId, force: bool) -> Result<SiteOutcome, Fail> {
    let Some(node) = records::node(out, id)? else { return Err(unknown(id).into()) };
    if force && node.status != NodeStatus::Away {
        return Err(
            invalid(&format!("node {id} is there: stop it first, or drain it and remove it without force")).into()
        );
    }
    if !node.draining && node.status != NodeStatus::Away {
        return Err(invalid(&format!("node {id} is in use: drain it first")).into());
    }
    if let Some(why) = holds(out, id, force)? {
        return Err(invalid(&why).into());
    }
    out.remove(keys::site_node(id));
    head.version += 1;
    Ok(SiteOutcome::Done)
}

/// What stands in the way of forgetting a node. With `force`, only what could not be made whole without it.
fn holds(view: &dyn View, id: NodeId, force: bool) -> Result<Option<String>, Fail> {
    for group in records::groups(view)? {
        let held = group.replicas.iter().any(|replica| replica.node == id);
        // A group without its majority can't even let go of a member.
        let majority_stays = 2 * (group.replicas.len().saturating_sub(1)) > group.replicas.len();
        if held && !(force && majority_stays) {
            return Ok(Some(format!("node {id} still holds a replica of metadata group {}", group.id)));
        }
    }
    let (mut held, mut needed) = (0, 0);
    for pg in records::pgs(view)? {
        let member = pg.members.iter().any(|member| member.replica.node == id);
        let past = records::past(view, pg.id)?.unwrap_or_default();
        let has_all = |other: &PgMember| other.state == MemberState::Serving || lacks_nothing(&past, other);
        let others = pg.members.iter().any(|other| other.replica.node != id && has_all(other));
        held += usize::from(member);
        needed += usize::from(member && !others && pg.factor > 1);
    }
    Ok(match (held, needed, force) {
        (0, ..) | (_, 0, true) => None,
        (_, 0, false) => Some(format!("node {id} is still a member of {held} placement groups")),
        (_, needed, _) => Some(format!("{needed} placement groups are served by node {id} alone: it must come back")),
    })
}

fn unknown(id: NodeId) -> Refusal {
    Refusal::Invalid { why: format!("this site has no node {id}") }
}
