//! A source tree goes in through the mount and comes out equal, whatever happens to the nodes between.

use std::fs;
use std::path::Path;

use weft_tests::{Fabric, make_tree, run};

const FILES: usize = 3000;

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// Contents by `diff -r`; modes, owners, times, links and sizes by what `find` prints.
fn assert_equal_trees(expected: &Path, found: &Path) {
    run("diff", &["-r", "--no-dereference", text(expected), text(found)]);
    let listing = |root: &Path| {
        let format = "%P %y %m %U %G %n %s %T@ %l\\n";
        let all = run("find", &[text(root), "-mindepth", "1", "-not", "-type", "d", "-printf", format]);
        let mut lines: Vec<String> = all.lines().map(str::to_string).collect();
        lines.sort();
        lines
    };
    let (expected, found) = (listing(expected), listing(found));
    for (a, b) in expected.iter().zip(&found) {
        assert_eq!(a, b);
    }
    assert_eq!(expected.len(), found.len());
}

#[test]
fn a_tree_survives_a_restart_of_everything() {
    let mut fabric = Fabric::start(3);
    let source = fabric.folder().join("source");
    make_tree(&source, FILES, 1).expect("make the tree");
    let mut mount = fabric.mount();
    let target = mount.path.join("tree");
    run("cp", &["-a", text(&source), text(&target)]);
    assert_equal_trees(&source, &target);
    mount.unmount();
    for node in &mut fabric.nodes {
        node.stop();
    }
    for node in &mut fabric.nodes {
        node.start();
    }
    fabric.wait_whole();
    let mut mount = fabric.mount();
    assert_equal_trees(&source, &mount.path.join("tree"));
    run("rm", &["-rf", text(&mount.path.join("tree"))]);
    assert_eq!(fs::read_dir(&mount.path).expect("list").count(), 0);
    mount.unmount();
}
