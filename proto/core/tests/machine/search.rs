//! From chunks to paths.

use std::collections::BTreeSet;

use weft_core::ids::Ino;
use weft_core::namespace::op::Op;
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::search::{FoundFile, Search};

use crate::group::{CLIENT, Group, SPACE, VOLUME, chunk, commit, name, piece};

fn search(group: &Group, counters: &[u64], limit: usize) -> (Vec<FoundFile>, bool) {
    let wanted: BTreeSet<_> = counters.iter().map(|counter| chunk(CLIENT, *counter)).collect();
    let mut search = Search::new(&group.records, SPACE, wanted).expect("a map in memory does not fail");
    for _ in 0..10_000 {
        if !search.step(&group.records, limit).expect("a map in memory does not fail") {
            return search.into_found();
        }
    }
    panic!("no end of it")
}

#[test]
fn a_chunk_leads_to_every_path_of_every_file_that_names_it() {
    let mut group = Group::new();
    let mut dir = Ino::ROOT;
    for part in ["a", "b", "c"] {
        let op = Op::Mkdir { parent: dir, name: name(part), mode: 0o755 };
        let Ok(Outcome::Created { attr, .. }) = group.ask(op) else { panic!("no directory") };
        dir = attr.ino;
    }
    let deep = Op::Create { parent: dir, name: name("deep"), mode: 0o644, exclusive: true };
    let Ok(Outcome::Created { attr: deep, .. }) = group.ask(deep) else { panic!("no file") };
    let (top, gone, other) = (group.create("top").ino, group.create("gone").ino, group.create("other").ino);
    assert!(group.ask(Op::Link { ino: deep.ino, parent: Ino::ROOT, name: name("second") }).is_ok());
    for (ino, counter) in [(deep.ino, 1), (top, 2), (gone, 3), (other, 4)] {
        assert!(group.ask(commit(ino, vec![piece(0, chunk(CLIENT, counter), 100)])).is_ok());
    }
    assert!(group.ask(commit(top, vec![piece(200, chunk(CLIENT, 1), 100)])).is_ok(), "in two files");
    assert!(group.ask(Op::Unlink { parent: Ino::ROOT, name: name("gone") }).is_ok());

    let file = |ino, counters: &[u64], paths: &[&str]| FoundFile {
        volume: VOLUME,
        ino,
        chunks: counters.iter().map(|counter| chunk(CLIENT, *counter)).collect(),
        paths: paths.iter().map(|path| path.as_bytes().to_vec()).collect(),
    };
    let expected =
        vec![file(deep.ino, &[1], &["/second", "/a/b/c/deep"]), file(top, &[1, 2], &["/top"]), file(gone, &[3], &[])];
    for limit in [1, 3, 1000] {
        assert_eq!(search(&group, &[1, 2, 3, 9], limit), (expected.clone(), false), "in pieces of {limit}");
    }
    assert_eq!(search(&group, &[9], 10), (Vec::new(), false));
}
