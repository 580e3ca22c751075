//! Bytes flip at many places of a node's Raft log, of another node's records, and of a third one's chunks while it runs:
//! every read is right, the nodes mend themselves, and what happened is counted and shown.

use std::fs;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use weft_tests::{Fabric, Mount, flip, wait_for};

const FILES: usize = 60;
/// Rereads at once and without rest, compares often.
const QUICK: &str = "[chunks]\nscrub_mib_s = 256\nscrub_pause_s = 0\ncompare_s = 2\nmissing_s = 1\n";

fn content(n: usize) -> Vec<u8> {
    (0..3000 + n * 2003).map(|at| (at * (n + 3) / 7) as u8 | 1).collect()
}

fn check(mount: &Mount) {
    for n in 0..FILES {
        assert!(fs::read(mount.path.join(format!("f{n}"))).expect("read") == content(n), "f{n} differs");
    }
}

/// The node that leads the system group: whose damage is felt most.
fn leader(fabric: &Fabric) -> usize {
    let mut found = 0;
    wait_for("a leader", || {
        let Some(status) = fabric.status() else { return false };
        let Some(id) = status["groups"][0]["leader"].as_u64() else { return false };
        let addr = status["nodes"].as_array().into_iter().flatten().find(|node| node["id"] == id);
        let Some(addr) = addr.and_then(|node| node["addr"].as_str()) else { return false };
        found = fabric.nodes.iter().position(|node| node.addr == addr).expect("it is one of ours");
        true
    });
    found
}

fn number(fabric: &Fabric, node: usize, pointer: &str) -> u64 {
    let report = fabric.report(node).expect("the node answers");
    report.pointer(pointer).and_then(|value| value.as_u64()).expect("a number")
}

#[test]
fn a_node_with_flipped_bytes_mends_itself() {
    let mut fabric = Fabric::start(3);
    let mut mount = fabric.mount();
    for n in 0..FILES {
        fs::write(mount.path.join(format!("f{n}")), content(n)).expect("write");
    }
    let mut rng = SmallRng::seed_from_u64(3);

    // The log of the one that leads: what it voted for and what it acknowledged can't be trusted any more.
    let hurt = leader(&fabric);
    fabric.nodes[hurt].stop();
    flip(&fabric.nodes[hurt].folder.join("data/raft"), 20, &mut rng);
    fabric.nodes[hurt].start();
    check(&mount);
    fabric.wait_whole();
    assert_eq!(number(&fabric, hurt, "/lost_logs"), 1, "{}", fabric.nodes[hurt].log());
    let text = fabric.weft(&["cluster", "status"]);
    assert!(text.contains("gave up a damaged Raft log once"), "{text}");
    fs::write(mount.path.join("after"), "the log").expect("write");

    // The records of another one: they come back from its log or from the leader.
    let hurt = (hurt + 1) % 3;
    fabric.nodes[hurt].stop();
    flip(&fabric.nodes[hurt].folder.join("data/records"), 60, &mut rng);
    fabric.nodes[hurt].start();
    check(&mount);
    fabric.wait_whole();
    assert!(number(&fabric, hurt, "/lost_records") > 0, "{}", fabric.nodes[hurt].log());
    assert_eq!(number(&fabric, hurt, "/lost_logs"), 0);
    assert!(fabric.weft(&["cluster", "status"]).contains("found records of a group damaged"));

    // The chunks of the third, while it runs.
    let hurt = (hurt + 1) % 3;
    fabric.nodes[hurt].configure(QUICK);
    fabric.nodes[hurt].stop();
    fabric.nodes[hurt].start();
    fabric.wait_whole();
    flip(&fabric.nodes[hurt].folder.join("data/chunks/segments"), 40, &mut rng);
    let mut fresh = fabric.mount();
    check(&fresh);
    wait_for("the chunks to be healed", || {
        let Some(report) = fabric.report(hurt) else { return false };
        let health = &report["chunk_health"];
        health["healed"].as_u64() > Some(5) && health["waiting"] == 0
    });
    fabric.wait_whole();
    check(&fresh);
    assert_eq!(fs::read(fresh.path.join("after")).expect("read"), b"the log");
    fresh.unmount();
    mount.unmount();
}
