//! One node after the other loses its folder, each when all is whole again: in the end nothing is left of what was first
//! written, and everything is there.

use weft_tests::{Fabric, make_tree, run, say};

#[test]
fn a_tree_outlives_the_folders_of_all_nodes() {
    let mut fabric = Fabric::start(3);
    let source = fabric.folder().join("source");
    std::fs::create_dir(&source).expect("make a folder");
    make_tree(&source, 300, 5).expect("make a tree");
    let mut mount = fabric.mount();
    let (from, to) = (source.display().to_string(), mount.path.join("tree").display().to_string());
    run("cp", &["-a", &from, &to]);
    fabric.weft(&["sync", &mount.path.display().to_string()]);
    for node in 0..3 {
        fabric.wait_whole();
        say(&format!("node {} loses its folder", node + 1));
        fabric.wipe(node);
    }
    fabric.wait_whole();
    fabric.weft(&["fsck", "--deep"]);
    run("diff", &["-r", &from, &to]);
    // And without anything in a cache.
    let mut fresh = fabric.mount();
    run("diff", &["-r", &from, &fresh.path.join("tree").display().to_string()]);
    fresh.unmount();
    mount.unmount();
}
