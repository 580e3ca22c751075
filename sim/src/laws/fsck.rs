//! A deep check is clean after the faults stopped: what `weft fsck --deep` asks of a site finds nothing
//! wrong: what rotted or went missing is healed by then.

use std::time::Duration;

use weft_client::fsck::{FsckOptions, FsckReport};
use weft_client::{Client, ConnectOptions, SiteMap};
use weft_core::site::MemberState;

use crate::run::Violation;
use crate::site::addrs;
use crate::world;

const LAW: &str = "a deep check is clean after the faults stopped";
/// Simulated time in which the site must come so far.
const QUIET: Duration = Duration::from_secs(20);

/// Checks the site as a client does. Call when the replicas of the groups are equal and copies are whole.
///
/// # Errors
/// Something is damaged, or cannot be looked at for good.
pub async fn check() -> Result<(), Violation> {
    let since = tokio::time::Instant::now();
    loop {
        match once().await {
            Ok(()) => return Ok(()),
            Err(what) if since.elapsed() > QUIET => return Err(Violation { law: LAW, what }),
            Err(what) => tracing::info!(what, "not clean yet"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn once() -> Result<(), String> {
    let client = Client::connect(ConnectOptions::new(addrs()), world::client_parts()).await;
    let client = client.map_err(|error| error.to_string())?;
    let options = FsckOptions { deep: true, ..FsckOptions::default() };
    let report = client.fsck(&options, &|_| ()).await.map_err(|error| error.to_string())?;
    let map = client.site_map();
    client.close().await.map_err(|error| error.to_string())?;
    judge(&report, &map)
}

/// What a report holds against the site.
fn judge(report: &FsckReport, map: &SiteMap) -> Result<(), String> {
    if let Some(wrong) = report.audits.iter().find_map(|audit| audit.wrong.first()) {
        return Err(wrong.clone());
    }
    if let Some(digest) = report.digests.iter().find(|digest| !digest.agree()) {
        return Err(format!("replicas differ: {digest:?}"));
    }
    // A group whose serving member lost its folder stays as it is until people decide.
    let lost = |pg| {
        let members = map.pgs.iter().filter(|known| known.id == pg).flat_map(|known| &known.members);
        let mut serving = members.filter(|member| member.state == MemberState::Serving);
        serving.any(|member| !map.nodes.iter().any(|node| node.replica() == member.replica))
    };
    let damage = report.damage.iter().find(|damaged| !lost(damaged.pg));
    if let Some(damaged) = damage {
        return Err(format!("{damaged:?}"));
    }
    let any_lost = map.pgs.iter().any(|pg| lost(pg.id));
    match report.unseen.first() {
        Some(unseen) if !any_lost => Err(format!("not looked at: {unseen}")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use weft_client::NodeId;
    use weft_client::fsck::{DigestReport, GroupAudit, ReplicaDigest};
    use weft_core::ids::GroupId;

    use super::*;

    #[test]
    fn every_kind_of_finding_breaks_the_law() {
        let judge = |report: FsckReport| judge(&report, &SiteMap::default());
        assert_eq!(judge(FsckReport::default()), Ok(()));
        let audit = GroupAudit { group: GroupId(1), records: 1, wrong: vec!["a count".into()] };
        assert!(judge(FsckReport { audits: vec![audit], ..FsckReport::default() }).is_err());
        let replica = |sum| ReplicaDigest { node: NodeId(1), records: 1, bytes: 1, sum };
        let digest = DigestReport { group: GroupId(1), replicas: vec![replica(1), replica(2)] };
        assert!(judge(FsckReport { digests: vec![digest], ..FsckReport::default() }).is_err());
        assert!(judge(FsckReport { unseen: vec!["a node".into()], ..FsckReport::default() }).is_err());
    }
}
