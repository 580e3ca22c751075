//! Is everything that is promised there? A check of a running site that changes nothing and holds nobody up.
//!
//! The records of every group are recounted by its leader; deep, the replicas' records are compared at one place of the
//! log. Every chunk that a record names must be held by every server that serves its placement group; deep, every copy is
//! reread. Because the site goes on meanwhile, whatever looks wrong is asked again before it is told.

mod ask;
mod chunks;
mod cursor;
mod groups;
mod report;
mod suspects;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_core::ids::{GroupId, SpaceId};
use weft_core::refusal::Refusal;

pub use report::{
    DamagedChunk, DamagedFile, Degraded, DigestReport, FsckReport, GroupAudit, ReplicaDigest, Surplus, Verdict,
    WhatIsWrong,
};

use crate::client::Client;
use crate::error::{Error, Result};
use ask::Asker;

/// What to look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsckOptions {
    /// Names of the volumes; all if none is named.
    pub volumes: Vec<String>,
    /// Reread every chunk, and compare the replicas of the records.
    pub deep: bool,
    /// Bytes a second that each server rereads at the most; 0: as many as it can.
    pub bytes_per_s: u64,
}

/// How far a check has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsckProgress {
    /// What is being looked at.
    pub what: String,
    /// Records read, or chunks looked at.
    pub done: u64,
    /// Bytes of the chunks looked at.
    pub bytes: u64,
}

/// Whom to tell how far a check has come.
pub type Watch<'a> = &'a (dyn Fn(FsckProgress) + Send + Sync);

/// Which groups and spaces a check is about.
struct Scope {
    /// The group of each space.
    spaces: BTreeMap<SpaceId, GroupId>,
    groups: BTreeSet<GroupId>,
    /// Not the whole site.
    part: bool,
}

impl Client {
    /// Checks a site while it runs. What could not be looked at is in the report.
    ///
    /// # Errors
    /// There is no such volume, or no node answered at all.
    pub async fn fsck(&self, options: &FsckOptions, watch: Watch<'_>) -> Result<FsckReport> {
        self.shared.open()?;
        let map = self.refresh_map().await?;
        let part = !options.volumes.is_empty();
        if let Some(missing) = options.volumes.iter().find(|name| !map.volumes.iter().any(|v| v.name == **name)) {
            return Err(Error::Refused(Refusal::NoVolume { what: missing.clone() }));
        }
        let mut scope = Scope { spaces: BTreeMap::new(), groups: BTreeSet::new(), part };
        for volume in map.volumes.iter().filter(|volume| volume.ready) {
            if !part || options.volumes.contains(&volume.name) {
                scope.spaces.insert(volume.space, volume.group);
                scope.groups.insert(volume.group);
            }
        }
        if !part {
            scope.groups.extend(map.groups.iter().map(|group| group.id));
        }
        let asker = Asker::new(Arc::clone(&self.shared));
        let mut report = FsckReport { deep: options.deep, ..FsckReport::default() };
        for group in &scope.groups {
            groups::audit(&asker, *group, &scope, &mut report, watch).await;
            if options.deep {
                groups::compare(&asker, *group, &mut report, watch).await;
            }
        }
        let suspects = chunks::check(&asker, &scope, options, &mut report, watch).await?;
        suspects::settle(&asker, &scope, suspects, &mut report, watch).await?;
        Ok(report)
    }
}
