//! One node down, any: reads and writes go on without an error, and it catches up when it comes back.

use std::fs;

use weft_tests::{Fabric, wait_for};

#[test]
fn any_one_node_may_be_down() {
    let mut fabric = Fabric::start(3);
    let mut mount = fabric.mount();
    let root = mount.path.clone();
    // Some at the root, at the server one by one; some in directories that the mount makes and leases.
    let place = |round: usize, n: usize| match n % 2 {
        0 => root.join(format!("r{round}-{n}")),
        _ => root.join(format!("d{round}/{n}")),
    };
    let content = |round: usize, n: usize| vec![(round * 50 + n) as u8; 3000 + n * 1500];
    let write = |round: usize| {
        fs::create_dir(root.join(format!("d{round}"))).expect("make a directory");
        for n in 0..40 {
            let path = place(round, n);
            fs::write(&path, content(round, n)).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        }
    };
    let check = |round: usize| {
        for n in 0..40 {
            let path = place(round, n);
            let found = fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
            assert!(found == content(round, n), "{} differs", path.display());
        }
    };
    write(0);
    for node in 0..3 {
        fabric.nodes[node].kill();
        // What the kernel has cached proves nothing.
        fs::write("/proc/sys/vm/drop_caches", "3").expect("drop the caches");
        for round in 0..=node {
            check(round);
        }
        write(node + 1);
        check(node + 1);
        fabric.nodes[node].start();
        fabric.wait_whole();
        let id = node as u64 + 1;
        wait_for("the node to catch up with its groups", || {
            let Some(status) = fabric.status() else { return false };
            let groups = status["groups"].as_array().expect("groups").clone();
            groups.iter().all(|group| {
                let replicas = group["members"].as_array().expect("members");
                let applied = |of: u64| replicas.iter().find(|r| r["node"] == of).and_then(|r| r["applied"].as_u64());
                let most = replicas.iter().filter_map(|r| r["applied"].as_u64()).max();
                applied(id).is_some() && applied(id) == most
            })
        });
    }
    for round in 0..=3 {
        check(round);
    }
    mount.unmount();
}
