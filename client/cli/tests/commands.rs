//! The real binary against a site in memory: files in and out, what is printed, exit codes, and what an interrupted
//! command leaves behind.

#[allow(dead_code)]
#[path = "../../../fuse/tests/kernel/site.rs"]
mod site;

use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A site, and the runtime that serves it beside the test.
struct Fabric {
    site: site::Site,
    _runtime: tokio::runtime::Runtime,
}

impl Fabric {
    fn start() -> Fabric {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Fabric { site: runtime.block_on(site::Site::start()), _runtime: runtime }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
        command.args(args).env("WEFT_CONNECT", self.site.addr()).env_remove("WEFT_LOG").stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("run weft")
    }

    /// What a command that must succeed prints.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "weft {args:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).expect("JSON")
    }

    /// The exit code and the words of a command that must fail.
    fn refused(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(args);
        assert!(!output.status.success(), "weft {args:?} should fail: {output:?}");
        (output.status.code().expect("an exit code"), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).take(len).collect()
}

#[test]
fn a_tree_goes_in_and_comes_out_equal() {
    let fabric = Fabric::start();
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    std::fs::create_dir_all(tree.join("deep/er")).unwrap();
    for n in 0..40 {
        std::fs::write(tree.join(format!("deep/file{n:02}")), pattern(n * 331)).unwrap();
    }
    std::fs::write(tree.join("deep/er/long"), pattern((9 << 20) + 77)).unwrap();
    std::fs::write(tree.join("empty"), b"").unwrap();
    std::fs::set_permissions(tree.join("deep/file01"), std::fs::Permissions::from_mode(0o755)).unwrap();
    symlink("deep/file01", tree.join("link")).unwrap();

    let put = fabric.json(&["put", "-rp", "--json", text(&tree), "/"]);
    assert_eq!((&put["files"], &put["directories"], &put["symlinks"]), (&42.into(), &3.into(), &1.into()));

    assert_eq!(fabric.ok(&["ls", "/tree"]), "deep\nempty\nlink\n");
    let listed = fabric.json(&["ls", "--json", "/tree/deep"]);
    assert_eq!(listed.as_array().unwrap().len(), 41);
    assert_eq!(
        (&listed[2]["name"], &listed[2]["mode"], &listed[2]["size"]),
        (&"file01".into(), &"0755".into(), &331.into())
    );
    let long = fabric.ok(&["ls", "-l", "/tree"]);
    assert!(long.contains(" link -> deep/file01\n") && long.starts_with("drwx"), "{long}");
    let stat = fabric.json(&["stat", "--json", "/tree/link"]);
    assert_eq!((&stat["kind"], &stat["target"]), (&"symlink".into(), &"deep/file01".into()));
    assert_eq!(fabric.json(&["stat", "-L", "--json", "/tree/link"])["size"], 331);
    let cat = fabric.run(&["cat", "/tree/deep/file03", "/tree/deep/file04"]);
    assert_eq!(cat.stdout, [pattern(3 * 331), pattern(4 * 331)].concat());

    let back = folder.path().join("back");
    fabric.ok(&["get", "-rp", "/tree", text(&back)]);
    let diff = Command::new("diff").args(["-r", "--no-dereference", text(&tree), text(&back)]).output().unwrap();
    assert!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));
    let times = |path: &Path| std::fs::metadata(path.join("deep/er/long")).unwrap().modified().unwrap();
    assert_eq!(times(&tree), times(&back));
    assert_eq!(std::fs::metadata(back.join("deep/file01")).unwrap().permissions().mode() & 0o7777, 0o755);

    // Again over what is there: replaced, not doubled.
    fabric.ok(&["put", "-r", text(&tree), "/"]);
    assert_eq!(fabric.ok(&["ls", "/tree/deep"]).lines().count(), 41);

    let (code, said) = fabric.refused(&["rm", "/tree"]);
    assert_eq!(code, 1);
    assert!(said.contains("-r removes it"), "{said}");
    fabric.ok(&["rm", "-r", "/tree"]);
    assert_eq!(fabric.ok(&["ls"]), "");
}

#[test]
fn names_and_targets_are_taken_as_cp_takes_them() {
    let fabric = Fabric::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.txt");
    std::fs::write(&file, b"one").unwrap();
    fabric.ok(&["mkdir", "-p", "/dir/sub", "/dir/sub"]);
    fabric.ok(&["put", text(&file), "/dir"]);
    fabric.ok(&["put", text(&file), "/dir/other"]);
    assert_eq!(fabric.ok(&["ls", "/dir"]), "a.txt\nother\nsub\n");
    let (code, said) = fabric.refused(&["put", text(&file), "/new/"]);
    assert_eq!(code, 1);
    assert!(said.contains("weft mkdir -p /new"), "{said}");
    assert!(fabric.refused(&["put", text(folder.path()), "/dir"]).1.contains("-r copies it"));
    assert!(fabric.refused(&["put", text(&file), text(&file), "/dir/other"]).1.contains("not a directory"));

    fabric.ok(&["get", "/dir/a.txt", text(folder.path())]);
    fabric.ok(&["get", "/dir/a.txt", text(&folder.path().join("b.txt"))]);
    assert_eq!(std::fs::read(folder.path().join("b.txt")).unwrap(), b"one");
    assert!(fabric.refused(&["get", "/dir", text(folder.path())]).1.contains("-r copies it"));
    let nowhere = folder.path().join("no/where");
    assert!(fabric.refused(&["get", "/dir/a.txt", text(&nowhere)]).1.contains("mkdir -p"));

    // One that fails does not keep the others.
    let (code, said) = fabric.refused(&["rm", "/none", "/dir/other"]);
    assert_eq!(code, 1);
    assert!(said.contains("remove /none: no such entry"), "{said}");
    assert_eq!(fabric.ok(&["ls", "/dir"]), "a.txt\nsub\n");
    fabric.ok(&["rm", "-f", "/none"]);
}

#[test]
fn pipes_go_in_and_out() {
    let fabric = Fabric::start();
    let bytes = pattern((5 << 20) + 3);
    let mut put = fabric.command(&["put", "-", "/piped"]).stdin(Stdio::piped()).spawn().unwrap();
    put.stdin.take().unwrap().write_all(&bytes).unwrap();
    assert!(put.wait().unwrap().success());
    assert_eq!(fabric.run(&["get", "/piped", "-"]).stdout, bytes);
    assert!(fabric.refused(&["put", "-", "/"]).1.contains("PATH/NAME"));

    // A reader that has seen enough is no failure.
    let mut cat = fabric.command(&["cat", "/piped"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 10];
    cat.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(first, bytes[..10]);
    assert!(ended(&mut cat).success());
}

#[test]
fn an_interrupted_put_leaves_nothing_behind() {
    let fabric = Fabric::start();
    let mut put = fabric.command(&["put", "-", "/half"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = put.stdin.take().unwrap();
    input.write_all(&pattern(6 << 20)).unwrap();
    let half = || fabric.ok(&["ls"]);
    let since = Instant::now();
    while !half().starts_with(".weft-put-") {
        assert!(since.elapsed() < Duration::from_secs(30), "the file under its temporary name");
    }
    // SAFETY: kill takes and gives numbers; the child was not waited for.
    unsafe { libc::kill(put.id() as i32, libc::SIGINT) };
    assert_eq!(ended(&mut put).code(), Some(130));
    assert_eq!(half(), "");
}

#[test]
fn errors_say_what_to_do_and_codes_tell_them_apart() {
    let fabric = Fabric::start();
    let (code, said) = fabric.refused(&["mkdir", &format!("/{}", "x".repeat(256))]);
    assert_eq!(code, 1);
    assert!(said.contains("longer than 255"), "{said}");
    let (code, said) = fabric.refused(&["ls", "no/slash"]);
    assert_eq!(code, 2);
    assert!(said.contains("begin with `/`"), "{said}");
    let (code, said) = fabric.refused(&["volume", "info", "none"]);
    assert_eq!(code, 1);
    assert!(said.contains("no such volume") && said.contains("weft volume list"), "{said}");
    let (code, _) = fabric.refused(&["frobnicate"]);
    assert_eq!(code, 2);
    let (code, said) = fabric.refused(&["ls", "/none"]);
    assert_eq!((code, said.as_str()), (1, "error: list /none: no such entry\n"));
}

#[test]
fn volumes_and_completions() {
    let fabric = Fabric::start();
    let volumes = fabric.json(&["volume", "list", "--json"]);
    assert_eq!((&volumes[0]["name"], &volumes[1]["name"]), (&"root".into(), &"other".into()));
    let info = fabric.json(&["volume", "info", "root", "--json"]);
    assert_eq!((&info["replication"], &info["used"]["max_bytes"]), (&1.into(), &Value::Null));
    assert!(fabric.ok(&["volume", "info", "root"]).contains("no limit"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(fabric.ok(&["completions", shell]).contains("weft"), "{shell}");
    }
    assert!(fabric.ok(&["--help"]).contains("Try it:"));
}

fn ended(child: &mut Child) -> std::process::ExitStatus {
    let since = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(since.elapsed() < Duration::from_secs(60), "the command does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}
