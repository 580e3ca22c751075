//! The records of groups: recounted by their leaders, and compared between replicas.

use futures::future::join_all;
use weft_core::ids::{GroupId, NodeId};
use weft_core::refusal::Refusal;
use weft_proto::pb;

use super::ask::{Asker, LONG, answered, piece};
use super::report::{DigestReport, FsckReport, GroupAudit, MOST, ReplicaDigest};
use super::{FsckProgress, Scope, Watch};
use crate::error::{Error, Result};

/// How often something is begun anew that broke off.
const TRIES: u32 = 3;

/// Lets the leader recount.
pub(super) async fn audit(asker: &Asker, group: GroupId, scope: &Scope, report: &mut FsckReport, watch: Watch<'_>) {
    let mut last = None;
    for _ in 0..TRIES {
        match audit_once(asker, group, scope, watch).await {
            Ok(audit) => {
                report.audits.push(audit);
                return;
            }
            Err(error) => last = Some(error),
        }
    }
    if let Some(error) = last {
        report.unseen(format!("the records of group {group}: {error}"));
    }
}

async fn audit_once(asker: &Asker, group: GroupId, scope: &Scope, watch: Watch<'_>) -> Result<GroupAudit> {
    let spaces: Vec<u64> = match scope.part {
        true => scope.spaces.iter().filter(|(_, at)| **at == group).map(|(space, _)| space.0).collect(),
        false => Vec::new(),
    };
    let mut pieces = asker
        .leader(group, |mut client, envelope| {
            let request = pb::AuditRequest { envelope, group: group.0, spaces: spaces.clone() };
            async move { client.audit(request).await }
        })
        .await?;
    let mut audit = GroupAudit { group, ..GroupAudit::default() };
    loop {
        let piece = piece(&mut pieces).await?;
        audit.records = piece.records;
        audit.wrong.extend(piece.wrong);
        audit.wrong.truncate(MOST);
        watch(FsckProgress { what: format!("records of group {group}"), done: audit.records, bytes: 0 });
        if piece.end {
            return Ok(audit);
        }
    }
}

/// Compares what the replicas of a group hold at a mark in its log.
pub(super) async fn compare(asker: &Asker, group: GroupId, report: &mut FsckReport, watch: Watch<'_>) {
    let mut missing = Vec::new();
    for _ in 0..TRIES {
        asker.refresh().await;
        match compare_once(asker, group, watch).await {
            Ok((digests, silent)) => {
                missing = silent;
                if missing.is_empty() || !digests.agree() {
                    report.digests.push(digests);
                    return;
                }
                report.digests.retain(|known| known.group != group);
                report.digests.push(digests);
            }
            Err(error) => missing = vec![format!("the replicas of group {group}: {error}")],
        }
    }
    missing.into_iter().for_each(|what| report.unseen(what));
}

async fn compare_once(asker: &Asker, group: GroupId, watch: Watch<'_>) -> Result<(DigestReport, Vec<String>)> {
    let mark = asker.shared.parts.dice.roll();
    asker
        .leader(group, |mut client, envelope| {
            let request = pb::MarkRequest { envelope, group: group.0, mark };
            async move { client.mark(request).await }
        })
        .await?;
    watch(FsckProgress { what: format!("replicas of group {group}"), done: 0, bytes: 0 });
    let nodes = asker.shared.topology.replicas(group);
    let digests = join_all(nodes.iter().map(|node| digest(asker, group, mark, *node))).await;
    let mut silent = Vec::new();
    let mut replicas = Vec::new();
    for (node, digest) in nodes.iter().zip(digests) {
        match digest {
            Ok(digest) => replicas.push(digest),
            Err(error) => silent.push(format!("the replica of group {group} on node {node}: {error}")),
        }
    }
    Ok((DigestReport { group, replicas }, silent))
}

async fn digest(asker: &Asker, group: GroupId, mark: u64, node: NodeId) -> Result<ReplicaDigest> {
    let none = || Error::Refused(Refusal::NotServed { what: format!("node {node}") });
    let mut client = asker.fsck(&asker.node(node).ok_or_else(none)?)?;
    let wait = LONG / 3;
    let request = pb::ReplicaDigestRequest { envelope: asker.envelope(wait), group: group.0, mark };
    let mut pieces = answered(wait * 2, client.digest(request)).await?;
    loop {
        let piece = piece(&mut pieces).await?;
        if piece.end {
            return Ok(ReplicaDigest { node, records: piece.records, bytes: piece.bytes, sum: piece.sum });
        }
    }
}
