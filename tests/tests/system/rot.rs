//! Bytes flip at many places of one node's chunks while it is stopped: reads stay right, the damage is counted, healed
//! and shown, and in the end its copies are whole.

use std::fs;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use weft_tests::{Fabric, flip, wait_for};

/// Rereads at once and without rest, compares often.
const QUICK: &str = "[chunks]\nscrub_mib_s = 256\nscrub_pause_s = 0\ncompare_s = 2\nmissing_s = 1\n";

#[test]
fn rot_on_one_node_is_healed() {
    let mut fabric = Fabric::start(3);
    let mut mount = fabric.mount();
    let content = |n: usize| (0..100_000 + n * 7001).map(|at| (at * (n + 3) / 7) as u8 | 1).collect::<Vec<u8>>();
    let path = |n: usize| mount.path.join(format!("f{n}"));
    for n in 0..40 {
        fs::write(path(n), content(n)).expect("write");
    }
    fabric.nodes[1].stop();
    let mut rng = SmallRng::seed_from_u64(7);
    flip(&fabric.nodes[1].folder.join("data/chunks/segments"), 60, &mut rng);
    fabric.nodes[1].configure(QUICK);
    fabric.nodes[1].start();

    // Another mount has nothing in its cache.
    let mut fresh = fabric.mount();
    for n in 0..40 {
        let found = fs::read(fresh.path.join(format!("f{n}"))).expect("read");
        assert!(found == content(n), "f{n} differs");
    }
    let health = |fabric: &Fabric| {
        let status = fabric.status()?;
        let node = status["nodes"].as_array()?.iter().find(|node| node["addr"] == fabric.nodes[1].addr.as_str())?;
        Some((status["healthy"] == true, node["report"]["chunk_health"].clone()))
    };
    // Two more rounds over everything after the last chunk was healed.
    let mut calm = None;
    wait_for("the node to be whole", || {
        let Some((true, now)) = health(&fabric) else { return false };
        let number = |key: &str| now[key].as_u64().unwrap_or(0);
        let (ill, reread) = (number("damaged") + number("missing"), number("reread"));
        match calm {
            Some((seen, since)) if seen == ill => ill > 0 && reread > since + 200,
            _ => {
                calm = Some((ill, reread));
                false
            }
        }
    });
    let (_, now) = health(&fabric).expect("the status");
    assert_eq!((&now["waiting"], &now["unhealed"]), (&0.into(), &0.into()), "{now}");
    assert!(now["healed"].as_u64() > Some(10), "{now}");

    // Its copies are whole: with both others gone one after the other, each file is read from two nodes, then again.
    let damaged = now["damaged"].clone();
    for gone in [0, 2] {
        fabric.nodes[gone].stop();
        let mut alone = fabric.mount();
        for n in 0..40 {
            assert!(fs::read(alone.path.join(format!("f{n}"))).expect("read") == content(n), "f{n} differs");
        }
        alone.unmount();
        fabric.nodes[gone].start();
        fabric.wait_whole();
    }
    let (_, now) = health(&fabric).expect("the status");
    assert_eq!(now["damaged"], damaged, "nothing else was damaged");
    fresh.unmount();
    mount.unmount();
}
