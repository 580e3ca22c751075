//! `weft fsck` against real processes: clean, then bytes flipped in a node's segments, found and named.

use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use weft_tests::Fabric;

/// Flips a byte in the middle of the first `needle` near the beginning of each file of a folder. Says how often.
fn flip(folder: &Path, needle: &[u8]) -> usize {
    let mut flipped = 0;
    for entry in fs::read_dir(folder).expect("list the segments") {
        let path = entry.expect("an entry").path();
        let file = fs::File::options().read(true).write(true).open(path).expect("open a segment");
        let mut bytes = Vec::new();
        (&file).take(4 << 20).read_to_end(&mut bytes).expect("read a segment");
        let Some(at) = bytes.windows(needle.len()).position(|bytes| bytes == needle) else { continue };
        let at = at + needle.len() / 2;
        file.write_all_at(&[bytes[at] ^ 1], at as u64).expect("write into a segment");
        flipped += 1;
    }
    flipped
}

#[test]
fn rot_on_one_node_is_found_and_the_file_is_named() {
    let mut fabric = Fabric::start(3);
    let content: Vec<u8> = (0..200_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let file = fabric.folder().join("content");
    fs::write(&file, &content).expect("write a file");
    let file = file.to_str().expect("a plain path").to_string();
    fabric.weft(&["mkdir", "-p", "/some/where"]);
    for name in ["one", "two"] {
        fabric.weft(&["put", &file, &format!("/some/where/{name}")]);
    }
    let found: serde_json::Value = serde_json::from_str(&fabric.weft(&["fsck", "--deep", "--json"])).expect("JSON");
    assert_eq!((&found["verdict"], &found["chunks"], &found["copies"]), (&"clean".into(), &2.into(), &6.into()));
    assert!(found["groups"].as_array().expect("groups").iter().all(|group| group["equal"] == true), "{found}");
    assert!(fabric.weft(&["fsck"]).ends_with("clean\n"));
    assert_eq!(fabric.try_weft(&["fsck", "nothing"]).status.code(), Some(1), "no such volume");

    // While it runs: a node that was away would fetch what it no longer has.
    let config = fabric.nodes[1].config();
    let data = config.parent().expect("a folder");
    let segments = ["data/chunks/segments", "chunks/segments"].map(|below| data.join(below));
    let segments = segments.iter().find(|folder| folder.is_dir()).expect("the node's segments");
    assert_eq!(flip(segments, &content[100_000..100_064]), 1, "the first copy in the segment");
    let damaged = fabric.try_weft(&["fsck", "--deep", "--rate", "1000"]);
    let said = String::from_utf8_lossy(&damaged.stdout);
    assert_eq!(damaged.status.code(), Some(3), "{damaged:?}");
    let named = said.contains("in /some/where/one") || said.contains("in /some/where/two");
    assert!(named && said.contains("on node 2: rotten") && said.contains("another copy is whole"), "{said}");

    // A node that is away has copies that nobody can look at.
    fabric.nodes[1].kill();
    let away = fabric.try_weft(&["fsck", "--timeout", "10"]);
    assert_eq!(away.status.code(), Some(4), "{away:?}");
}
