//! What is lost comes back: from the log, from a snapshot, or not at all with the reason said.

use std::path::Path;

use bytes::Bytes;
use tonic::Code;
use weft_core::ids::{NodeId, ReplicaId};
use weft_core::site::{Group, SiteMap};
use weft_proto::pb::raft_client::RaftClient;
use weft_proto::pb::{RaftMessage, Replica};
use weft_proto::{PROTOCOL, link};

use super::cluster::{Cluster, GROUP, TestNode, eventually, quick};
use crate::meta::forsake;
use crate::parts::Disk;
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

/// Flips a bit of the log, so many bytes before the end of what is written in its last segment.
async fn flip_in_log(node: &TestNode, before_end: usize) {
    let folder = Path::new(forsake::LOG_FOLDER);
    let names = node.disk.list(folder).await.expect("the log's folder");
    let ends = names.iter().filter_map(|name| {
        let path = folder.join(name);
        let end = node.disk.bytes(&path)[4096..].iter().rposition(|byte| *byte != 0)?;
        Some((path, 4096 + end))
    });
    let (path, end) = ends.max().expect("a segment with records");
    node.disk.rot(&path, end - before_end, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_given_up_with_its_votes_and_the_node_learns_and_votes_again() {
    let mut cluster = Cluster::three(quick()).await;
    for _ in 0..20 {
        cluster.take(1).await;
    }
    cluster.settle().await;
    let hurt = (cluster.leader().await + 1) % 3;
    let before = cluster.replica(hurt);
    cluster.stop(hurt).await;
    flip_in_log(&cluster.nodes[hurt], 600).await;
    cluster.start(hurt).await;
    assert_eq!(cluster.groups(hurt).lost_logs(), 1);
    let after = cluster.replica(hurt);
    assert_ne!(before, after, "nobody takes it for the one that voted");
    cluster.members(&[0, 1, 2]).await;
    cluster.take(1).await;
    cluster.settle().await;
    let status = cluster.group(cluster.leader().await).status();
    assert!(status.voters.contains(&after) && !status.voters.contains(&before), "{status:?}");
    // What is left of it is there to be looked at.
    let kept = cluster.nodes[hurt].disk.list(Path::new(forsake::DAMAGED_FOLDER)).await.expect("a folder");
    assert!(kept.iter().any(|name| name.starts_with("1-segment-")), "{kept:?}");
    // With one of the others it makes a majority; and it stays who it is.
    cluster.stop(hurt).await;
    cluster.start(hurt).await;
    assert_eq!((cluster.replica(hurt), cluster.groups(hurt).lost_logs()), (after, 1));
    let other = (0..3).find(|at| *at != hurt).expect("there are three");
    cluster.stop(other).await;
    cluster.take(1).await;
    cluster.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_rots_under_a_running_leader_is_given_up() {
    let mut cluster = Cluster::three(RaftSettings { cache_mib: 0, ..quick() }).await;
    cluster.take(1).await;
    cluster.settle().await;
    let leader = cluster.leader().await;
    let behind = (leader + 1) % 3;
    cluster.stop(behind).await;
    let first = cluster.take(1).await;
    for _ in 0..20 {
        cluster.take(1).await;
    }
    for before_end in [250, 400, 550, 700] {
        flip_in_log(&cluster.nodes[leader], before_end).await;
    }
    // Whoever needs the entry finds out.
    cluster.start(behind).await;
    eventually("the log to be given up", || async { (cluster.groups(leader).lost_logs() == 1).then_some(()) }).await;
    cluster.tell_map();
    cluster.members(&[0, 1, 2]).await;
    assert_eq!(cluster.take(1).await, first + 21, "nothing that was answered is lost");
    cluster.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_not_given_up_by_the_only_one_who_holds_a_group() {
    let mut cluster = Cluster::new(1, quick()).await;
    cluster.begin().await;
    for _ in 0..10 {
        cluster.take(1).await;
    }
    let me = cluster.replica(0);
    cluster.stop(0).await;
    flip_in_log(&cluster.nodes[0], 300).await;
    let node = &cluster.nodes[0];
    let map =
        |replicas: Vec<_>| SiteMap { version: 9, groups: vec![Group { id: GROUP, replicas }], ..SiteMap::default() };
    let other = ReplicaId { node: NodeId(2), ..me };
    for (map, why) in [
        (SiteMap::default(), "does not know who else holds"),
        (map(vec![me]), "no other node holds metadata group 0"),
        // It is to become a member, and is not yet.
        (map(vec![me, other]), "no other node holds metadata group 0"),
    ] {
        let opened = forsake::open(&node.parts(), &quick(), Path::new("records"), NodeId(1), &map).await;
        let error = opened.err().expect("the log is damaged").to_string();
        assert!(error.contains("log damaged") && error.contains(why), "{error}");
    }
    let damaged = node.disk.list(Path::new(forsake::DAMAGED_FOLDER)).await.expect("a folder");
    assert_eq!(damaged, Vec::<String>::new(), "it is left as it is");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_rot_under_a_running_replica_are_rebuilt() {
    let cluster = Cluster::three(short_log()).await;
    for _ in 0..200 {
        cluster.take(1).await;
    }
    cluster.settle().await;
    let leader = cluster.leader().await;
    assert_eq!(cluster.groups(leader).records_thrown_away(), 0);
    cluster.nodes[leader].stores.garble(GROUP);
    eventually("the records to be thrown away", || async {
        // Whoever asks may be refused, and never gets a wrong answer.
        if let Some(group) = cluster.groups(leader).group(GROUP)
            && let Ok(map) = group.read(weft_core::site::map).await
        {
            assert_eq!(map.name, "test");
        }
        (cluster.groups(leader).records_thrown_away() > 0).then_some(())
    })
    .await;
    cluster.take(1).await;
    cluster.settle().await;
}
