//! Members come, go, and come back as another life.

use weft_core::ids::NodeId;
use weft_core::refusal::Refusal;

use super::cluster::{Cluster, GROUP, eventually, quick};
use crate::settings::RaftSettings;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go() {
    let cluster = Cluster::new(4, quick()).await;
    cluster.begin().await;
    cluster.take(1).await;
    cluster.members(&[0, 1, 2]).await;
    cluster.take(1).await;
    cluster.members(&[1, 2, 3]).await;
    let leader = eventually("who was removed to lead no more", || async {
        let leader = cluster.leader().await;
        (leader != 0).then_some(leader)
    })
    .await;
    cluster.take(1).await;
    let status = cluster.group(leader).status();
    assert_eq!(status.voters, [1, 2, 3].map(|at| cluster.replica(at)));
    assert_eq!(status.learners, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_comes_back_as_another_member() {
    for raft in [quick(), RaftSettings { snapshot_every: 20, keep_logs: 2, ..quick() }] {
        let mut cluster = Cluster::three(raft).await;
        for _ in 0..60 {
            cluster.take(1).await;
        }
        let wiped = (cluster.leader().await + 1) % 3;
        let former = cluster.replica(wiped);
        cluster.wipe(wiped).await;
        cluster.start(wiped).await;
        cluster.take(1).await;
        assert!(cluster.groups(wiped).group(GROUP).is_none(), "nobody takes it for its former life");
        cluster.members(&[0, 1, 2]).await;
        cluster.take(1).await;
        cluster.settle().await;
        let status = cluster.group(cluster.leader().await).status();
        assert!(!status.voters.contains(&former) && status.voters.len() == 3);
        assert_eq!(status.learners, []);
        let other = (wiped + 1) % 3;
        cluster.stop(other).await;
        cluster.take(1).await;
        cluster.settle().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_seen_when_it_changes() {
    let mut cluster = Cluster::three(quick()).await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let mut seen = cluster.group(leader).watch_leading();
    assert!(*seen.borrow_and_update());
    cluster.stop(leader).await;
    eventually("the end of leadership to be seen", || {
        let seen = !*seen.borrow();
        async move { seen.then_some(()) }
    })
    .await;
    cluster.start(leader).await;
    cluster.take(1).await;
    let mut applied = cluster.group(follower).watch_applied();
    let before = *applied.borrow_and_update();
    cluster.take(1).await;
    applied.wait_for(|now| *now > before).await.expect("the group is open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lead_is_handed_over_to_who_votes_and_to_nobody_else() {
    let cluster = Cluster::three(quick()).await;
    cluster.take(1).await;
    let (leader, next) = (cluster.leader().await, (cluster.leader().await + 1) % 3);
    let to = cluster.replica(next).node;
    let elsewhere = cluster.group(next).transfer_lead(to).await;
    assert!(matches!(elsewhere, Err(Refusal::NotLeader { .. })), "{elsewhere:?}");
    let nobody = cluster.group(leader).transfer_lead(NodeId(77)).await;
    assert!(matches!(nobody, Err(Refusal::Invalid { .. })), "{nobody:?}");
    // To itself is to nobody: it goes on.
    let itself = cluster.replica(leader).node;
    let asked = cluster.group(leader).transfer_lead(itself).await;
    assert!(matches!(asked, Ok(()) | Err(Refusal::NotLeader { .. })), "{asked:?}");
    cluster.take(1).await;
    eventually("the other one to lead", || async {
        // An election at the same time may bring back the first.
        if let Some(leading) = (0..3).find(|at| *at != next && cluster.group(*at).leading()) {
            let asked = cluster.group(leading).transfer_lead(to).await;
            assert!(matches!(asked, Ok(()) | Err(Refusal::NotLeader { .. })), "{asked:?}");
        }
        cluster.group(next).leading().then_some(())
    })
    .await;
    cluster.take(1).await;
}
