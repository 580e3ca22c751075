//! Entries go in, each once, and reads see them.

use std::collections::BTreeSet;
use std::time::Duration;

use weft_core::refusal::Refusal;

use super::cluster::{Cluster, GROUP, eventually, quick, take};
use crate::meta::raft::kind;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_node_leads_and_goes_on_after_a_restart() {
    let mut cluster = Cluster::new(1, quick()).await;
    cluster.begin().await;
    cluster.groups(0).bootstrap(GROUP).await.expect("repeating it changes nothing");
    let first = cluster.take(10).await;
    cluster.stop(0).await;
    cluster.start(0).await;
    assert_eq!(cluster.take(1).await, first + 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_proposals_at_once_are_each_applied_once() {
    let cluster = Cluster::three(quick()).await;
    let group = cluster.group(cluster.leader().await);
    let taken = futures::future::join_all((0..3000).map(|_| take(&group, 1))).await;
    let taken: BTreeSet<u64> = taken.into_iter().map(|taken| taken.expect("nothing is in the way")).collect();
    assert_eq!(taken.len(), 3000);
    assert_eq!(taken.last().expect("there are some") - taken.first().expect("there are some"), 2999);
    cluster.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_lead_says_who_does() {
    let cluster = Cluster::three(quick()).await;
    cluster.take(1).await;
    let leader = cluster.leader().await;
    let other = (leader + 1) % 3;
    let expected = Some(cluster.replica(leader).node);
    eventually("the other to know the leader", || async { (cluster.group(other).leader() == expected).then_some(()) })
        .await;
    let refused = take(&cluster.group(other), 1).await;
    assert_eq!(refused, Err(Refusal::NotLeader { group: GROUP, leader: expected }));
    let refused = cluster.group(other).linear_view().await.map(|_| ());
    assert_eq!(refused, Err(Refusal::NotLeader { group: GROUP, leader: expected }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_without_any_one_node_and_it_catches_up() {
    let mut cluster = Cluster::three(quick()).await;
    let mut next = cluster.take(1).await + 1;
    for down in 0..3 {
        cluster.stop(down).await;
        for _ in 0..20 {
            // A lost answer may cost numbers, never give one twice.
            let first = cluster.take(5).await;
            assert!(first >= next, "{first} was given before");
            next = first + 5;
        }
        cluster.start(down).await;
        cluster.settle().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_reads_what_the_old_one_answered() {
    let mut cluster = Cluster::three(quick()).await;
    for token in 0..3 {
        let name = format!("volume-{token}");
        cluster.create_volume(&name, token).await;
        let leader = cluster.leader().await;
        cluster.stop(leader).await;
        let map = eventually("a linearizable read", || async {
            let view = cluster.group(cluster.leader().await).linear_view().await.ok()?;
            Some(weft_core::site::map(&*view).expect("the records are whole"))
        })
        .await;
        assert!(map.volumes.iter().any(|volume| volume.name == name), "{name} is missing after it was answered");
        cluster.start(leader).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_off_leader_answers_no_reads() {
    let mut cluster = Cluster::three(quick()).await;
    cluster.take(1).await;
    let leader = cluster.leader().await;
    for at in (0..3).filter(|at| *at != leader) {
        cluster.stop(at).await;
    }
    let group = cluster.group(leader);
    assert!(group.linear_view().await.is_err());
    let late = tokio::time::timeout(Duration::from_secs(1), take(&group, 1)).await;
    assert!(!matches!(late, Ok(Ok(_))), "no majority can have it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_voted_for_another_confirms_the_old_leader_no_longer() {
    let mut cluster = Cluster::three(quick()).await;
    cluster.take(1).await;
    let leader = cluster.leader().await;
    let others: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
    let term = cluster.group(leader).status().term;
    let replica = cluster.replica(leader);
    let question =
        [&[1][..], &term.to_be_bytes(), &replica.node.0.to_be_bytes(), &replica.incarnation.0.to_be_bytes()].concat();
    let confirm = async |cluster: &Cluster, at: usize| {
        let answer = cluster.group(at).consensus().answer(kind::CONFIRM, question.clone().into()).await;
        answer.expect("the question is whole")[..] == [1, 1]
    };
    for other in &others {
        assert!(confirm(&cluster, *other).await, "its leader is this one");
    }
    cluster.stop(leader).await;
    cluster.take(1).await;
    // A majority of three elected the new leader, so both of these voted.
    for other in others {
        assert!(!confirm(&cluster, other).await, "it voted for another");
    }
}
