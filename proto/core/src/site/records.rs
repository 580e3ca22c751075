//! The records of the system group, and the map made of them.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::{Group, Node, Pg, PgPast, SiteMap, Volume};
use crate::codec;
use crate::codec::wire::Code;
use crate::ids::{GroupId, NodeId, PgId, SiteId, VolumeId};
use crate::keys;
use crate::view::{View, ViewError};

/// The site's own record: its name and the next of every number it hands out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SiteHead {
    /// As in [`SiteMap::version`].
    pub(crate) version: u64,
    pub(crate) site: SiteId,
    pub(crate) name: String,
    pub(crate) next_node: u32,
    pub(crate) next_volume: u64,
    pub(crate) next_space: u64,
    pub(crate) next_slot: u64,
    pub(crate) next_view: u32,
    pub(crate) next_client: u64,
}

/// The whole of what the system group keeps. Empty, with version 0, before the site is made.
///
/// # Errors
/// The store failed, or a record does not decode.
pub fn map(view: &dyn View) -> Result<SiteMap, ViewError> {
    let Some(head) = head(view)? else { return Ok(SiteMap::default()) };
    Ok(SiteMap {
        version: head.version,
        site: head.site,
        name: head.name,
        nodes: table(view, &keys::site_node(NodeId(0)))?,
        groups: table(view, &keys::site_group(GroupId(0)))?,
        volumes: table(view, &keys::site_volume(VolumeId(0)))?,
        pgs: table(view, &keys::site_pg(PgId(0)))?,
        pasts: table(view, &keys::site_past(PgId(0)))?,
    })
}

pub(super) fn head(view: &dyn View) -> Result<Option<SiteHead>, ViewError> {
    get(view, &keys::site())
}

pub(super) fn node(view: &dyn View, id: NodeId) -> Result<Option<Node>, ViewError> {
    get(view, &keys::site_node(id))
}

pub(super) fn nodes(view: &dyn View) -> Result<Vec<Node>, ViewError> {
    table(view, &keys::site_node(NodeId(0)))
}

pub(super) fn group(view: &dyn View, id: GroupId) -> Result<Option<Group>, ViewError> {
    get(view, &keys::site_group(id))
}

pub(super) fn groups(view: &dyn View) -> Result<Vec<Group>, ViewError> {
    table(view, &keys::site_group(GroupId(0)))
}

pub(super) fn volume(view: &dyn View, id: VolumeId) -> Result<Option<Volume>, ViewError> {
    get(view, &keys::site_volume(id))
}

pub(super) fn volumes(view: &dyn View) -> Result<Vec<Volume>, ViewError> {
    table(view, &keys::site_volume(VolumeId(0)))
}

pub(super) fn pg(view: &dyn View, id: PgId) -> Result<Option<Pg>, ViewError> {
    get(view, &keys::site_pg(id))
}

pub(super) fn pgs(view: &dyn View) -> Result<Vec<Pg>, ViewError> {
    table(view, &keys::site_pg(PgId(0)))
}

pub(super) fn past(view: &dyn View, id: PgId) -> Result<Option<PgPast>, ViewError> {
    get(view, &keys::site_past(id))
}

pub(super) fn get<T: Code>(view: &dyn View, key: &[u8]) -> Result<Option<T>, ViewError> {
    view.get(key)?.map(|bytes| decode(key, &bytes)).transpose()
}

pub(super) fn table<T: Code>(view: &dyn View, sample: &[u8]) -> Result<Vec<T>, ViewError> {
    let (from, to) = keys::site_table(sample);
    let mut found = Ok(Vec::new());
    view.scan(&from, &to, &mut |key, bytes| {
        let Ok(records) = &mut found else { return ControlFlow::Break(()) };
        match decode(key, bytes) {
            Ok(record) => records.push(record),
            Err(err) => found = Err(err),
        }
        ControlFlow::Continue(())
    })?;
    found
}

fn decode<T: Code>(key: &[u8], bytes: &Bytes) -> Result<T, ViewError> {
    codec::decode(bytes).map_err(|err| ViewError(format!("record {key:02x?}: {err}")))
}
