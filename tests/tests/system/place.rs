//! Nodes that are emptied and taken away, and nodes that die for good: others take over what they held.

use std::fs;
use std::path::Path;

use serde_json::Value;
use weft_tests::{Fabric, make_tree, run, wait_for};

fn write_tree(fabric: &mut Fabric) -> (std::path::PathBuf, weft_tests::Mount) {
    let source = fabric.folder().join("source");
    make_tree(&source, 120, 7).expect("make a tree");
    let mount = fabric.mount();
    run("cp", &["-a", text(&source), text(&mount.path.join("copy"))]);
    fabric.weft(&["sync", text(&mount.path.join("copy"))]);
    (source, mount)
}

fn compare(source: &Path, mount: &weft_tests::Mount) {
    // What the kernel has cached proves nothing.
    fs::write("/proc/sys/vm/drop_caches", "3").expect("drop the caches");
    run("diff", &["-r", text(source), text(&mount.path.join("copy"))]);
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// Members of all placement groups, by state, on a node.
fn members_on(status: &Value, node: u64) -> usize {
    let groups = status["placement"].as_array().expect("placement groups").iter();
    groups.filter(|pg| pg["members"].as_array().expect("members").iter().any(|member| member["node"] == node)).count()
}

#[test]
fn a_drained_node_can_be_taken_away() {
    let mut fabric = Fabric::start(4);
    let (source, mut mount) = write_tree(&mut fabric);
    let said: Value = serde_json::from_str(&fabric.weft(&["node", "drain", "2", "--json"])).expect("JSON");
    assert_eq!((&said["safe"], &said["pgs"]), (&Value::from(true), &Value::from(0)), "{said}");
    let status = fabric.status().expect("status");
    assert_eq!(members_on(&status, 2), 0, "{status}");
    fabric.nodes[1].kill();
    compare(&source, &mount);
    fabric.wait_whole();
    wait_for("the site to forget the node", || fabric.try_weft(&["node", "remove", "2"]).status.success());
    let nodes: Value = serde_json::from_str(&fabric.weft(&["node", "list", "--json"])).expect("JSON");
    assert_eq!(nodes.as_array().expect("nodes").len(), 3, "{nodes}");
    // Three nodes are left, and three copies: from here on a drain leads nowhere, and says so.
    let stuck: Value =
        serde_json::from_str(&fabric.weft(&["node", "drain", "3", "--no-wait", "--json"])).expect("JSON");
    assert_eq!(stuck["safe"], false, "{stuck}");
    assert!(stuck["stalls"].to_string().contains("3 other chunk nodes with room are needed, there are 2"), "{stuck}");
    fabric.weft(&["node", "undrain", "3"]);
    // Who was removed and comes back is told so, and does no harm.
    fabric.nodes[1].start();
    let node = &fabric.nodes[1];
    wait_for("the removed node to be told so", || node.log().contains("was removed from this site"));
    compare(&source, &mount);
    mount.unmount();
}

#[test]
fn a_node_that_dies_for_good_is_replaced() {
    let mut fabric = Fabric::start(4);
    for node in &mut fabric.nodes {
        node.configure("repair_after_s = 2");
        node.stop();
        node.start();
    }
    fabric.wait_whole();
    let (source, mut mount) = write_tree(&mut fabric);
    fabric.nodes[3].kill();
    wait_for("others to take the place of the dead node", || {
        let Some(status) = fabric.status() else { return false };
        let pgs = status["placement"].as_array().expect("placement groups").iter();
        let many = |pg: &Value| pg["factor"].as_u64() > Some(1);
        let mut replicated = pgs.filter(|pg| many(pg));
        replicated.all(|pg| {
            let members = pg["members"].as_array().expect("members").iter();
            pg["healthy"] == true && members.into_iter().all(|m| m["node"] != 4 && m["state"] == "serving")
        })
    });
    compare(&source, &mount);
    fabric.weft(&["node", "remove", "4", "--force"]);
    fabric.wait_whole();
    compare(&source, &mount);
    mount.unmount();
}
