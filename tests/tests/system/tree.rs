//! A source tree goes in through the mount and comes out equal, whatever happens to the nodes between.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

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

/// A name, and what its file holds.
type Promise = (String, Vec<u8>);

/// Writers note down what they closed or fsynced; after `kill -9` of everything at once all of it is there.
#[test]
fn what_was_closed_or_fsynced_survives_kill_9_of_all_nodes_at_once() {
    let mut fabric = Fabric::start(3);
    let mut mount = fabric.mount();
    let promised: Arc<Mutex<Vec<Promise>>> = Arc::default();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (root, promised, stop) = (mount.path.clone(), promised.clone(), stop.clone());
            std::thread::spawn(move || {
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let name = format!("w{writer}-{n}");
                    let bytes = vec![(writer * 31 + n) as u8; 100 + (n * 7919) % 30_000];
                    let done = (|| {
                        let mut file = File::create(root.join(&name))?;
                        file.write_all(&bytes)?;
                        if n % 2 == 0 {
                            file.sync_all()?;
                            return Ok(());
                        }
                        close(file)
                    })();
                    match done {
                        Ok(()) => promised.lock().expect("promises").push((name, bytes)),
                        // The servers are gone: nothing was promised of this one.
                        Err(_) => return,
                    }
                }
            })
        })
        .collect();
    std::thread::sleep(Duration::from_secs(4));
    for node in &mut fabric.nodes {
        node.kill();
    }
    stop.store(true, Ordering::Relaxed);
    for node in &mut fabric.nodes {
        node.start();
    }
    fabric.wait_whole();
    for writer in writers {
        writer.join().expect("a writer");
    }
    mount.unmount();
    let mut mount = fabric.mount();
    let promised = promised.lock().expect("promises");
    assert!(promised.len() > 50, "only {} files were written in four seconds", promised.len());
    for (name, bytes) in promised.iter() {
        let found = fs::read(mount.path.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(&found == bytes, "{name} differs: {} bytes, {} expected", found.len(), bytes.len());
    }
    mount.unmount();
}

/// Dropping a `File` would swallow the error that close reports.
fn close(file: File) -> std::io::Result<()> {
    use std::os::fd::IntoRawFd;
    // SAFETY: the descriptor is ours alone and not used again.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
