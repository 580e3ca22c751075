//! What the system group keeps, its commands, and the site map.

use super::wire::{code_enum, code_struct};
use crate::site::records::SiteHead;
use crate::site::{
    Group, Labels, MemberState, Node, NodeJoin, NodeStatus, Pg, PgMember, PgPast, SiteCommand, SiteMap, SiteOutcome,
    Volume,
};

code_enum!(SiteCommand {
    1 => Init { site, name, groups, replication, first },
    2 => Join(join),
    3 => UpdateNode { replica, addr, labels, lost_logs },
    4 => NodeStatus { changes },
    5 => SetGroup { group, replicas },
    6 => SetPgs { pgs },
    7 => CreateVolume { name, replication, token, tenant },
    8 => VolumeReady { volume },
    9 => ClientIds { count },
    40 => DrainNode { node, on },
    41 => RemoveNode { node, force },
    50 => DeleteVolume { volume },
    51 => VolumeGone { volume },
    80 => Trust(command),
});
code_enum!(SiteOutcome {
    1 => Done,
    2 => Joined { node, site },
    3 => Volume(volume),
    4 => ClientIds { site, first, count },
    80 => Trust(outcome),
});
code_struct!(NodeJoin { incarnation, addr, meta, chunk });
code_struct!(Node { id, incarnation, addr, meta, chunk, status, labels, draining, lost_logs });
code_struct!(Labels { host, rack, zone });
code_enum!(NodeStatus { 1 => Up, 2 => Away, 3 => Full });
code_struct!(Group { id, replicas });
code_struct!(Volume { id, name, space, group, slot, view, replication, tenant, created, ready, token, deleting });
code_struct!(Pg { id, factor, epoch, members });
code_struct!(PgMember { replica, state });
code_enum!(MemberState { 1 => Serving, 2 => Away, 3 => Behind, 4 => Leaving });
code_struct!(PgPast { pg, took, served });
code_struct!(SiteMap { version, site, name, nodes, groups, volumes, pgs, pasts });
code_struct!(SiteHead { version, site, name, next_node, next_volume, next_space, next_slot, next_view, next_client });
