//! Applying a [`SiteCommand`]: the only way the site's records change.

use super::records::{self, SiteHead};
use super::removal;
use super::trust;
use super::{Group, Labels, Node, NodeJoin, NodeStatus, Pg, PgPast, ROOT_VOLUME, SiteCommand, SiteOutcome, Volume};
use crate::codec;
use crate::ids::{GroupId, NodeId, PgEpoch, ReplicaId, SiteId, SlotId, SpaceId, TenantId, ViewId, VolumeId};
use crate::keys;
use crate::limits::{MAX_CHANGES, MAX_CLIENT_IDS, MAX_REPLICATION};
use crate::name::Name;
use crate::namespace::fail::Fail;
use crate::refusal::Refusal;
use crate::time::Timestamp;
use crate::view::{Overlay, View};

/// Numbers of clients end here: 40 bits.
const CLIENTS_END: u64 = 1 << 40;
/// View numbers end here: 24 bits.
const VIEWS_END: u32 = 1 << 24;

/// Applies one command to the records of the system group. What is refused may leave changes in `out` that the caller
/// must throw away.
pub(crate) fn apply(out: &mut Overlay<'_>, now: Timestamp, command: &SiteCommand) -> Result<SiteOutcome, Fail> {
    let head = match (records::head(out)?, command) {
        (Some(head), SiteCommand::Init { site, first, .. }) => return init_again(out, &head, *site, first),
        (Some(head), _) => head,
        (None, SiteCommand::Init { site, name, groups, replication, first }) => {
            return init(out, now, *site, name, *groups, *replication, first);
        }
        (None, _) => return Err(Refusal::NotServed { what: "a site: none has been made here".into() }.into()),
    };
    let mut next = head.clone();
    let outcome = match command {
        SiteCommand::Init { .. } => return Err(invalid("the site exists").into()),
        SiteCommand::Join(join) => self::join(out, &mut next, join)?,
        SiteCommand::UpdateNode { replica, addr, labels, lost_logs } => {
            update_node(out, &mut next, *replica, addr, labels, *lost_logs)?
        }
        SiteCommand::NodeStatus { changes } => node_status(out, &mut next, changes)?,
        SiteCommand::SetGroup { group, replicas } => set_group(out, &mut next, *group, replicas)?,
        SiteCommand::SetPgs { pgs } => set_pgs(out, &mut next, pgs)?,
        SiteCommand::CreateVolume { name, replication, token, tenant } => {
            create_volume(out, &mut next, now, name, *replication, *token, *tenant)?
        }
        SiteCommand::VolumeReady { volume } => volume_ready(out, &mut next, *volume)?,
        SiteCommand::DeleteVolume { volume } => delete_volume(out, &mut next, *volume)?,
        SiteCommand::VolumeGone { volume } => volume_gone(out, &mut next, *volume)?,
        SiteCommand::ClientIds { count } => client_ids(&mut next, *count)?,
        SiteCommand::DrainNode { node, on } => removal::drain(out, &mut next, *node, *on)?,
        SiteCommand::RemoveNode { node, force } => removal::remove(out, &mut next, *node, *force)?,
        SiteCommand::Trust(command) => SiteOutcome::Trust(trust::apply(out, now, command)?),
    };
    if next != head {
        out.put(keys::site(), codec::encode(&next));
    }
    Ok(outcome)
}

fn init(
    out: &mut Overlay<'_>,
    now: Timestamp,
    site: SiteId,
    name: &str,
    groups: u32,
    replication: u8,
    first: &NodeJoin,
) -> Result<SiteOutcome, Fail> {
    if site.0 == 0 || site.0 >= 1 << 24 {
        return Err(invalid("a site id has 24 bits and is not zero").into());
    }
    if groups == 0 || groups > 1024 {
        return Err(invalid("a site has 1 to 1024 groups for volumes").into());
    }
    if !first.meta {
        return Err(invalid("the first node must hold meta replicas").into());
    }
    let mut head = SiteHead {
        version: 0,
        site,
        name: name.to_owned(),
        next_node: 1,
        next_volume: 1,
        next_space: 1,
        next_slot: 1,
        next_view: 1,
        next_client: 1,
    };
    let node = add_node(out, &mut head, first);
    let replica = ReplicaId { node, incarnation: first.incarnation };
    for id in (0..=groups).map(GroupId) {
        out.put(keys::site_group(id), codec::encode(&Group { id, replicas: vec![replica] }));
    }
    // The root volume is of the site itself; its token is never asked for.
    create_volume(out, &mut head, now, ROOT_VOLUME, replication, 0, TenantId(0))?;
    head.version = 1;
    out.put(keys::site(), codec::encode(&head));
    Ok(SiteOutcome::Joined { node, site })
}

fn init_again(view: &dyn View, head: &SiteHead, site: SiteId, first: &NodeJoin) -> Result<SiteOutcome, Fail> {
    let known = records::node(view, NodeId(1))?;
    match known {
        Some(node) if head.site == site && node.incarnation == first.incarnation => {
            Ok(SiteOutcome::Joined { node: node.id, site })
        }
        _ => Err(invalid("another site lives here").into()),
    }
}

/// The same life of a folder keeps its number. Another life at the address of a known node is that node after its
/// folder was lost: it keeps the number too, and the planner replaces what the old life held.
fn join(out: &mut Overlay<'_>, head: &mut SiteHead, join: &NodeJoin) -> Result<SiteOutcome, Fail> {
    let nodes = records::nodes(out)?;
    let known = nodes
        .iter()
        .find(|node| node.incarnation == join.incarnation)
        .or_else(|| nodes.iter().find(|node| node.addr == join.addr));
    let Some(known) = known else {
        let node = add_node(out, head, join);
        head.version += 1;
        return Ok(SiteOutcome::Joined { node, site: head.site });
    };
    let node = Node {
        id: known.id,
        incarnation: join.incarnation,
        addr: join.addr.clone(),
        meta: join.meta,
        chunk: join.chunk,
        status: if known.incarnation == join.incarnation { known.status } else { NodeStatus::Up },
        labels: known.labels.clone(),
        draining: known.draining,
        lost_logs: if known.incarnation == join.incarnation { known.lost_logs } else { 0 },
    };
    if node != *known {
        out.put(keys::site_node(node.id), codec::encode(&node));
        head.version += 1;
    }
    Ok(SiteOutcome::Joined { node: node.id, site: head.site })
}

fn add_node(out: &mut Overlay<'_>, head: &mut SiteHead, join: &NodeJoin) -> NodeId {
    let id = NodeId(head.next_node);
    head.next_node += 1;
    let node = Node {
        id,
        incarnation: join.incarnation,
        addr: join.addr.clone(),
        meta: join.meta,
        chunk: join.chunk,
        ..Node::default()
    };
    out.put(keys::site_node(id), codec::encode(&node));
    id
}

fn update_node(
    out: &mut Overlay<'_>,
    head: &mut SiteHead,
    replica: ReplicaId,
    addr: &str,
    labels: &Labels,
    lost_logs: u32,
) -> Result<SiteOutcome, Fail> {
    let Some(mut node) = records::node(out, replica.node)?.filter(|node| node.incarnation == replica.incarnation)
    else {
        return Err(Refusal::WrongRecipient { why: format!("{replica} is no node of this site") }.into());
    };
    if node.addr != addr || node.labels != *labels || node.lost_logs < lost_logs {
        node.addr = addr.to_owned();
        node.labels = labels.clone();
        node.lost_logs = node.lost_logs.max(lost_logs);
        out.put(keys::site_node(node.id), codec::encode(&node));
        head.version += 1;
    }
    Ok(SiteOutcome::Done)
}

fn node_status(
    out: &mut Overlay<'_>,
    head: &mut SiteHead,
    changes: &[(NodeId, NodeStatus)],
) -> Result<SiteOutcome, Fail> {
    few("changes of nodes", changes.len())?;
    for (id, status) in changes {
        let Some(mut node) = records::node(out, *id)? else {
            return Err(Refusal::WrongRecipient { why: format!("node {id} is not of this site") }.into());
        };
        if node.status != *status {
            node.status = *status;
            out.put(keys::site_node(*id), codec::encode(&node));
            head.version += 1;
        }
    }
    Ok(SiteOutcome::Done)
}

fn set_group(
    out: &mut Overlay<'_>,
    head: &mut SiteHead,
    id: GroupId,
    replicas: &[ReplicaId],
) -> Result<SiteOutcome, Fail> {
    let Some(known) = records::group(out, id)? else {
        return Err(Refusal::NotServed { what: format!("group {id}") }.into());
    };
    let mut nodes: Vec<NodeId> = replicas.iter().map(|replica| replica.node).collect();
    nodes.sort();
    nodes.dedup();
    if replicas.is_empty() || nodes.len() != replicas.len() {
        return Err(invalid("a group has at least one replica, and one per node").into());
    }
    if known.replicas != replicas {
        out.put(keys::site_group(id), codec::encode(&Group { id, replicas: replicas.to_vec() }));
        head.version += 1;
    }
    Ok(SiteOutcome::Done)
}

fn set_pgs(out: &mut Overlay<'_>, head: &mut SiteHead, pgs: &[Pg]) -> Result<SiteOutcome, Fail> {
    few("placement groups", pgs.len())?;
    for pg in pgs {
        let known = records::pg(out, pg.id)?;
        let epoch = known.as_ref().map_or(PgEpoch(0), |known| known.epoch);
        if pg.epoch.0 != epoch.0 + 1 {
            return Err(Refusal::StalePlacement { pg: pg.id, epoch }.into());
        }
        let mut nodes: Vec<NodeId> = pg.members.iter().map(|member| member.replica.node).collect();
        nodes.sort();
        nodes.dedup();
        if nodes.is_empty() || nodes.len() != pg.members.len() || !(1..=MAX_REPLICATION).contains(&pg.factor) {
            return Err(invalid("a placement group has a factor of 1 to 3 and each member once").into());
        }
        let past = records::past(out, pg.id)?.unwrap_or_else(|| PgPast { pg: pg.id, ..PgPast::default() });
        out.put(keys::site_past(pg.id), codec::encode(&past.then(pg)));
        out.put(keys::site_pg(pg.id), codec::encode(pg));
        head.version += 1;
    }
    Ok(SiteOutcome::Done)
}

fn create_volume(
    out: &mut Overlay<'_>,
    head: &mut SiteHead,
    now: Timestamp,
    name: &str,
    replication: u8,
    token: u64,
    tenant: TenantId,
) -> Result<SiteOutcome, Fail> {
    if !(1..=MAX_REPLICATION).contains(&replication) {
        return Err(invalid("a volume keeps 1 to 3 copies").into());
    }
    Name::parse(name.as_bytes().to_vec())?;
    let volumes = records::volumes(out)?;
    if let Some(known) = volumes.iter().find(|volume| volume.name == name && !volume.deleting) {
        return if known.token == token && name != ROOT_VOLUME {
            Ok(SiteOutcome::Volume(known.clone()))
        } else {
            Err(Refusal::VolumeExists { name: name.to_owned() }.into())
        };
    }
    if head.next_view >= VIEWS_END {
        return Err(Refusal::NoSpace { why: "all view numbers are used up".into() }.into());
    }
    let load = |group: GroupId| volumes.iter().filter(|volume| volume.group == group).count();
    let group = records::groups(out)?
        .into_iter()
        .map(|group| group.id)
        .filter(|group| *group != GroupId::SYSTEM)
        .min_by_key(|group| (load(*group), *group))
        .ok_or_else(|| Refusal::NotServed { what: "volumes: the site has no group for them".into() })?;
    let volume = Volume {
        id: VolumeId(head.next_volume),
        name: name.to_owned(),
        space: SpaceId(head.next_space),
        group,
        slot: SlotId(head.next_slot),
        view: ViewId(head.next_view),
        replication,
        tenant,
        created: now,
        ready: false,
        token,
        deleting: false,
    };
    head.next_volume += 1;
    head.next_space += 1;
    head.next_slot += 1;
    head.next_view += 1;
    head.version += 1;
    out.put(keys::site_volume(volume.id), codec::encode(&volume));
    Ok(SiteOutcome::Volume(volume))
}

fn volume_ready(out: &mut Overlay<'_>, head: &mut SiteHead, id: VolumeId) -> Result<SiteOutcome, Fail> {
    let Some(mut volume) = records::volume(out, id)? else {
        return Err(Refusal::NoVolume { what: id.to_string() }.into());
    };
    if !volume.ready {
        volume.ready = true;
        out.put(keys::site_volume(id), codec::encode(&volume));
        head.version += 1;
    }
    Ok(SiteOutcome::Done)
}

fn delete_volume(out: &mut Overlay<'_>, head: &mut SiteHead, id: VolumeId) -> Result<SiteOutcome, Fail> {
    let Some(mut volume) = records::volume(out, id)? else {
        return Err(Refusal::NoVolume { what: id.to_string() }.into());
    };
    if volume.name == ROOT_VOLUME && !volume.deleting {
        return Err(invalid("the root volume is not deleted").into());
    }
    if !volume.ready {
        // Its group may yet be making its records.
        return Err(Refusal::Busy { retry_after_ms: 200 }.into());
    }
    if !volume.deleting {
        volume.deleting = true;
        out.put(keys::site_volume(id), codec::encode(&volume));
        head.version += 1;
    }
    Ok(SiteOutcome::Done)
}

fn volume_gone(out: &mut Overlay<'_>, head: &mut SiteHead, id: VolumeId) -> Result<SiteOutcome, Fail> {
    if records::volume(out, id)?.is_some_and(|volume| volume.deleting) {
        out.remove(keys::site_volume(id));
        head.version += 1;
    }
    Ok(SiteOutcome::Done)
}

/// Client ids are no part of the map, so its version stays.
fn client_ids(head: &mut SiteHead, count: u32) -> Result<SiteOutcome, Fail> {
    if count == 0 || count > MAX_CLIENT_IDS {
        return Err(invalid("client ids are handed out 1 to 1024 at a time").into());
    }
    let first = head.next_client;
    if first + u64::from(count) > CLIENTS_END {
        return Err(Refusal::NoSpace { why: "all client ids are used up".into() }.into());
    }
    head.next_client += u64::from(count);
    Ok(SiteOutcome::ClientIds { site: head.site, first, count })
}

/// Bounds what one command changes.
fn few(what: &str, count: usize) -> Result<(), Refusal> {
    let limit = MAX_CHANGES / 2;
    if count <= limit {
        return Ok(());
    }
    Err(Refusal::TooLarge { what: what.to_owned(), size: count as u64, limit: limit as u64 })
}

pub(super) fn invalid(why: &str) -> Refusal {
    Refusal::Invalid { why: why.to_owned() }
}
