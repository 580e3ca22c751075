//! What is lost comes back: from the log, from a snapshot, or not at all with the reason said.

use bytes::Bytes;
use tonic::Code;
use weft_proto::pb::raft_client::RaftClient;
use weft_proto::pb::{RaftMessage, Replica};
use weft_proto::{PROTOCOL, link};

use super::cluster::{Cluster, GROUP, eventually, quick};
use crate::settings::RaftSettings;

/// Snapshot points every few entries, almost no log kept.
fn short_log() -> RaftSettings {
    RaftSettings { snapshot_every: 50, keep_logs: 5, ..quick() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_stopped_at_once_is_there_again() {
    let mut cluster = Cluster::three(quick()).await;
    let first = cluster.take(10).await;
    for at in 0..3 {
        cluster.stop(at).await;
    }
    for at in 0..3 {
        cluster.start(at).await;
    }
    assert!(cluster.take(1).await >= first + 10);
    cluster.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_records_are_replayed_from_the_log() {
    let mut cluster = Cluster::three(quick()).await;
    cluster.take(10).await;
    let lost = (cluster.leader().await + 1) % 3;
    cluster.stop(lost).await;
    cluster.nodes[lost].stores.lose(GROUP);
    cluster.start(lost).await;
    cluster.take(1).await;
    cluster.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_given_back_and_who_lags_gets_a_snapshot() {
    let mut cluster = Cluster::three(short_log()).await;
    let behind = (cluster.leader().await + 1) % 3;
    cluster.stop(behind).await;
    for _ in 0..300 {
        cluster.take(1).await;
    }
    let leader = cluster.leader().await;
    let purged = eventually("the log to be given back", || async {
        Some(cluster.group(leader).status().purged).filter(|purged| *purged > 100)
    })
    .await;
    cluster.start(behind).await;
    cluster.settle().await;
    assert!(cluster.group(behind).status().purged >= purged, "it came by a snapshot");
    cluster.stop(behind).await;
    cluster.start(behind).await;
    cluster.take(1).await;
    cluster.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_lost_beyond_the_log_are_asked_for() {
    let mut cluster = Cluster::three(short_log()).await;
    for _ in 0..200 {
        cluster.take(1).await;
    }
    cluster.settle().await;
    let lost = (cluster.leader().await + 1) % 3;
    cluster.stop(lost).await;
    cluster.nodes[lost].stores.lose(GROUP);
    cluster.start(lost).await;
    assert!(cluster.group(lost).status().rebuilding);
    cluster.take(1).await;
    cluster.settle().await;
    assert!(!cluster.group(lost).status().rebuilding);
    // It is a member like the others again: with one of them it makes a majority.
    let other = (0..3).find(|at| *at != lost).expect("there are three");
    cluster.stop(other).await;
    cluster.take(1).await;
    cluster.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_without_records_does_not_lead() {
    let mut cluster = Cluster::three(short_log()).await;
    for _ in 0..200 {
        cluster.take(1).await;
    }
    cluster.settle().await;
    for at in 0..3 {
        cluster.stop(at).await;
    }
    cluster.nodes[0].stores.lose(GROUP);
    cluster.start(0).await;
    cluster.start(1).await;
    let leader = cluster.leader().await;
    assert_eq!(leader, 1);
    cluster.take(1).await;
    cluster.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_for_others_are_refused_with_the_reason() {
    let cluster = Cluster::three(quick()).await;
    let replica = cluster.replica(0);
    let wire = Replica { node: replica.node.0, incarnation: replica.incarnation.0 };
    let good = RaftMessage {
        protocol: PROTOCOL,
        site: 1,
        group: 0,
        from: Some(Replica { node: 2, incarnation: 2 }),
        to: Some(wire),
        kind: 1,
        body: Bytes::from_static(b"garbage"),
    };
    let addr = cluster.addr(0);
    let channel = link::channel(std::sync::Arc::new(link::Tcp), &addr).expect("an address");
    let mut client = RaftClient::new(channel);
    let cases = [
        (RaftMessage { protocol: 99, ..good.clone() }, "protocol version 99"),
        (RaftMessage { site: 7, ..good.clone() }, "this is site 1, not 7"),
        (RaftMessage { to: Some(Replica { incarnation: 3, ..wire }), ..good.clone() }, "this is replica"),
        (RaftMessage { to: None, ..good.clone() }, "a message to nobody"),
        (RaftMessage { group: 9, ..good.clone() }, "does not serve group 9"),
        (RaftMessage { kind: 77, ..good.clone() }, "raft message kind 77"),
        (good, "garbled vote request"),
    ];
    for (message, expected) in cases {
        let status = client.call(message).await.expect_err("it is refused");
        assert!(status.message().contains(expected), "{status}");
        assert_ne!(status.code(), Code::Ok);
    }
    cluster.take(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_disk_failed_for_a_while_comes_back() {
    for leads in [false, true] {
        let cluster = Cluster::three(quick()).await;
        cluster.take(1).await;
        let leader = cluster.leader().await;
        let sick = if leads { leader } else { (leader + 1) % 3 };
        cluster.nodes[sick].disk.fail_writes(Some(std::io::ErrorKind::StorageFull));
        for _ in 0..10 {
            cluster.take(1).await;
        }
        cluster.nodes[sick].disk.fail_writes(None);
        cluster.take(1).await;
        cluster.settle().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_replica_starts_on_a_log_that_failed() {
    let cluster = Cluster::three(quick()).await;
    cluster.take(1).await;
    let sick = (cluster.leader().await + 1) % 3;
    cluster.nodes[sick].disk.fail_writes(Some(std::io::ErrorKind::StorageFull));
    cluster.take(1).await;
    // What the log has taken meanwhile is in memory alone.
    eventually("the replica to be taken away", || async { cluster.groups(sick).group(GROUP).is_none().then_some(()) })
        .await;
    let opened = cluster.groups(sick).ensure(GROUP).await;
    assert!(opened.is_err(), "a message from the leader must not open it");
    cluster.nodes[sick].disk.fail_writes(None);
    cluster.groups(sick).ensure(GROUP).await.expect("on the log as it is on media");
    cluster.take(1).await;
    cluster.settle().await;
}
