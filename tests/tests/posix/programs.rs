//! Programs that people use, on the mount.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use weft_tests::{Fabric, is_mount, make_tree, run, signal, wait_for};

use crate::{number, text};

const FILES: usize = 200;

/// By the eyes of rsync: contents by their sums, times, modes, owners, hard links, access lists, attributes.
fn assert_same(a: &Path, b: &Path) {
    let (from, to) = (format!("{}/", a.display()), format!("{}/", b.display()));
    let differences = run("rsync", &["-aHAXn", "--checksum", "--delete", "--itemize-changes", &from, &to]);
    assert_eq!(differences, "", "{from} and {to} differ");
}

fn shell(command: &str) {
    run("sh", &["-c", command]);
}

#[test]
fn copies_in_and_out_are_the_same() {
    let mut fabric = Fabric::start(3);
    let mut mount = fabric.mount();
    let source = fabric.folder().join("source");
    make_tree(&source, FILES, 6).expect("make the tree");
    let some: Vec<_> = fs::read_dir(&source).expect("list").map(|entry| entry.expect("an entry").path()).collect();
    for path in some.iter().filter(|path| !path.is_symlink()).take(20) {
        run("setfattr", &["-n", "user.origin", "-v", "a test", text(path)]);
        run("setfacl", &["-m", "u:daemon:r-x,g:nogroup:r--", text(path)]);
    }
    shell(&format!("mkfifo {0}/pipe; touch -d @1.000000005 {0}/pipe", source.display()));
    let inside = |name: &str| mount.path.join(name);
    let (from, by_rsync) = (format!("{}/", source.display()), inside("rsync"));
    run("rsync", &["-aHAX", "--checksum", &from, text(&by_rsync)]);
    assert_same(&source, &by_rsync);
    let back = fabric.folder().join("back");
    run("rsync", &["-aHAX", "--checksum", &format!("{}/", by_rsync.display()), text(&back)]);
    assert_same(&source, &back);
    run("cp", &["-a", text(&source), text(&inside("cp"))]);
    assert_same(&source, &inside("cp"));
    let by_tar = inside("tar");
    fs::create_dir(&by_tar).expect("a folder");
    let options = "--acls --xattrs --xattrs-include='*'";
    shell(&format!("tar {options} -C {} -cf - . | tar {options} -C {} -xpf -", source.display(), by_tar.display()));
    assert_same(&source, &by_tar);
    let count = |root: &Path| run("find", &[text(root), "-type", "f", "-size", "+4k"]).lines().count();
    assert_eq!(count(&source), count(&by_tar));
    mount.unmount();
}

#[test]
fn git_works_on_the_mount() {
    let mut fabric = Fabric::start(3);
    let mut mount = fabric.mount();
    let (origin, clone) = (fabric.folder().join("origin"), mount.path.join("clone"));
    make_tree(&origin, FILES, 7).expect("make the tree");
    // Git keeps no empty folders.
    run("find", &[text(&origin), "-type", "d", "-empty", "-delete"]);
    let git = "git -c user.name=test -c user.email=test@localhost -c safe.directory='*'";
    shell(&format!("cd {} && git init -q && git add . && {git} commit -qm first", origin.display()));
    shell(&format!("git clone -q file://{} {}", origin.display(), clone.display()));
    shell(&format!("cd {} && test -z \"$(git status --porcelain)\"", clone.display()));
    shell(&format!(
        "cd {} && for n in 1 2 3; do echo $n > change && git add . && {git} commit -qm change$n; done && git gc -q && \
         git fsck --full --strict && test -z \"$(git status --porcelain)\"",
        clone.display()
    ));
    shell(&format!("cd {} && git checkout -q HEAD~3 && git checkout -q - && git log --oneline", clone.display()));
    run("diff", &["-r", "--exclude=.git", "--exclude=change", text(&origin), text(&clone)]);
    mount.unmount();
}

/// The mount's process is killed in the middle; what the database acknowledged is there, and it is whole.
/// `WEFT_TRANSACTIONS=1000` for more of them.
#[test]
fn a_database_survives_a_kill_of_the_mount() {
    let transactions = number("WEFT_TRANSACTIONS", 200) as usize;
    let mut fabric = Fabric::start(3);
    let mut mount = fabric.mount();
    let inserts = |from: usize, to: usize| {
        let mut script = String::from(".bail on\nPRAGMA synchronous = FULL;\n");
        for n in from..to {
            script += &format!("INSERT INTO t VALUES ({n}, hex(zeroblob(200)));\nSELECT 'done', {n};\n");
        }
        script
    };
    let sqlite = |path: &Path| {
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "sqlite3"]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.spawn().expect("run sqlite3")
    };
    let base = mount.path.join("base.db");
    run("sqlite3", &[text(&base), "CREATE TABLE t (n INTEGER PRIMARY KEY, text TEXT);"]);
    let mut writer = sqlite(&base);
    let mut input = writer.stdin.take().expect("its input");
    let script = inserts(0, transactions);
    let feeder = std::thread::spawn(move || {
        // It ends early when the mount is gone.
        let _ = input.write_all(script.as_bytes());
    });
    let mut done = 0;
    for line in BufReader::new(writer.stdout.take().expect("its output")).lines().map_while(Result::ok) {
        let Some(n) = line.strip_prefix("done|") else { continue };
        done = n.parse::<usize>().expect("a number") + 1;
        if done == transactions / 2 {
            signal(mount.child().expect("a process").id(), libc::SIGKILL);
        }
    }
    writer.wait().expect("its end");
    feeder.join().expect("the feeder");
    assert!(done >= transactions / 2);
    mount.forget();
    shell(&format!("umount -l {}", mount.path.display()));
    wait_for("the end of the mount", || !is_mount(&mount.path));
    let mut mount = fabric.mount();
    let base = mount.path.join("base.db");
    assert_eq!(run("sqlite3", &[text(&base), "PRAGMA integrity_check;"]), "ok\n");
    let rows = |base: &Path| run("sqlite3", &[text(base), "SELECT count(*) FROM t;"]).trim().parse::<usize>();
    let found = rows(&base).expect("a number");
    assert!(found == done || found == done + 1, "{done} were acknowledged, {found} are there");
    let mut rest = sqlite(&base);
    let script = inserts(found, transactions);
    rest.stdin.take().expect("its input").write_all(script.as_bytes()).expect("feed sqlite3");
    assert!(rest.wait_with_output().expect("its end").status.success());
    assert_eq!(rows(&base).expect("a number"), transactions);
    assert_eq!(run("sqlite3", &[text(&base), "PRAGMA integrity_check;"]), "ok\n");
    mount.unmount();
}
