//! `weft dev` with real nodes: what it leaves in its folder, a node that dies, stopping, and finding everything again.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A `weft dev` in a folder of its own.
struct Dev {
    dir: PathBuf,
    process: Child,
}

impl Dev {
    fn start(dir: &Path, args: &[&str]) -> Dev {
        let log = std::fs::File::options().create(true).append(true).open(dir.with_extension("out")).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_weft"))
            .arg("dev")
            .arg("--dir")
            .arg(dir)
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut dev = Dev { dir: dir.to_path_buf(), process };
        dev.wait_for("everything to stand", |dev| {
            dev.record().is_some_and(|record| record["state"] == "ready" && record["pid"] == dev.process.id())
        });
        dev
    }

    fn record(&self) -> Option<Value> {
        serde_json::from_slice(&std::fs::read(self.dir.join("dev.json")).ok()?).ok()
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.dir.with_extension("out")).unwrap_or_default()
    }

    fn wait_for(&mut self, what: &str, done: impl Fn(&Dev) -> bool) {
        let since = Instant::now();
        while !done(self) {
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none(), "weft dev ended while waiting for {what}: {}", self.said());
            assert!(since.elapsed() < Duration::from_secs(120), "waited for {what}: {}", self.said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn weft(&self, args: &[&str]) -> Output {
        let record = self.record().expect("a record");
        let addrs: Vec<&str> =
            record["nodes"].as_array().unwrap().iter().filter_map(|node| node["addr"].as_str()).collect();
        let output = Command::new(env!("CARGO_BIN_EXE_weft")).args(args).env("WEFT_CONNECT", addrs.join(",")).output();
        output.unwrap()
    }

    fn ok(&self, args: &[&str]) -> Vec<u8> {
        let output = self.weft(args);
        assert!(output.status.success(), "weft {args:?}: {output:?}");
        output.stdout
    }

    fn pid_of(&self, node: usize) -> Option<i64> {
        self.record()?["nodes"][node - 1]["pid"].as_i64()
    }

    /// SIGTERM, and everything is gone.
    fn stop(mut self) {
        let pids: Vec<i64> = (1..=3).filter_map(|node| self.pid_of(node)).collect();
        signal(i64::from(self.process.id()), libc::SIGTERM);
        let since = Instant::now();
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            assert!(since.elapsed() < Duration::from_secs(60), "weft dev does not stop: {}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(status.success(), "{status}: {}", self.said());
        for pid in pids {
            assert!(!Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is left behind");
        }
        let record = self.record().unwrap();
        assert_eq!((&record["state"], &record["pid"]), (&"stopped".into(), &Value::Null));
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // It has ended already after a test that went well. Its nodes end with it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn signal(pid: i64, signal: i32) {
    // SAFETY: kill takes and gives numbers; the pid is that of a process of this test.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

#[test]
fn one_node_stops_and_finds_its_files_again() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("one");
    let file = folder.path().join("file");
    let bytes: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&file, &bytes).unwrap();

    let dev = Dev::start(&dir, &["--port", "0"]);
    dev.ok(&["put", file.to_str().unwrap(), "/file"]);
    dev.ok(&["mkdir", "/dir"]);
    let again = Command::new(env!("CARGO_BIN_EXE_weft")).args(["dev", "--dir"]).arg(&dir).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("another weft dev runs"));
    let addr = dev.record().unwrap()["nodes"][0]["addr"].clone();
    let port = addr.as_str().unwrap().rsplit_once(':').unwrap().1;
    let other = folder.path().join("other");
    let taken = Command::new(env!("CARGO_BIN_EXE_weft")).args(["dev", "--port", port, "--dir"]).arg(&other).output();
    let taken = taken.unwrap();
    assert_eq!(taken.status.code(), Some(1));
    let said = String::from_utf8_lossy(&taken.stderr).into_owned();
    assert!(said.contains(&format!("127.0.0.1:{port} is taken")) && said.contains("--port"), "{said}");
    assert!(!other.join("dev.json").exists(), "other ports can still be chosen");
    dev.stop();

    let dev = Dev::start(&dir, &[]);
    assert_eq!(dev.record().unwrap()["nodes"][0]["addr"], addr);
    assert_eq!(dev.ok(&["cat", "/file"]), bytes);
    assert_eq!(dev.ok(&["ls"]), b"dir\nfile\n");
    // Killed, not stopped: what was acknowledged is there all the same.
    dev.ok(&["mkdir", "/late"]);
    signal(i64::from(dev.process.id()), libc::SIGKILL);
    drop(dev);
    let dev = Dev::start(&dir, &[]);
    assert_eq!(dev.ok(&["ls"]), b"dir\nfile\nlate\n");
    dev.stop();
}

#[test]
fn three_nodes_outlive_one_and_stop_together() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("three");
    let mut dev = Dev::start(&dir, &["--port", "0", "--nodes", "3"]);
    dev.ok(&["volume", "create", "team"]);
    dev.ok(&["mkdir", "/team/dir"]);
    let status: Value = serde_json::from_slice(&dev.ok(&["cluster", "status", "--json"])).unwrap();
    assert_eq!(status["healthy"], true, "{status}");
    assert_eq!(status["volumes"][1]["replication"], 3);

    let pid = dev.pid_of(3).expect("a process");
    assert_eq!(std::fs::read_to_string(dir.join("n3/pid")).unwrap().trim(), pid.to_string());
    signal(pid, libc::SIGKILL);
    dev.wait_for("word of the death", |dev| dev.said().contains("node 3 was killed (signal 9); the others go on"));
    assert!(dev.said().contains("weft node --config"), "{}", dev.said());
    assert_eq!(dev.pid_of(3), None);
    dev.ok(&["mkdir", "/team/without"]);
    dev.stop();

    let dev = Dev::start(&dir, &["--nodes", "3"]);
    assert_eq!(dev.ok(&["ls", "/team"]), b"dir\nwithout\n");
    // Killed outright: its nodes notice and end by themselves.
    let pids: Vec<i64> = (1..=3).filter_map(|node| dev.pid_of(node)).collect();
    assert_eq!(pids.len(), 3);
    drop(dev);
    let since = Instant::now();
    while pids.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
        assert!(since.elapsed() < Duration::from_secs(30), "nodes are left behind");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn it_stops_though_its_mount_was_taken_away() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, mount) = (folder.path().join("one"), folder.path().join("mnt"));
    std::fs::create_dir(&mount).unwrap();
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } != 0 || !Path::new("/dev/fuse").exists() {
        // Nothing can be mounted here.
        return;
    }
    let mut dev = Dev::start(&dir, &["--port", "0", "--mount", mount.to_str().unwrap()]);
    std::fs::create_dir(mount.join("dir")).unwrap();
    std::fs::write(mount.join("dir/file"), b"held back").unwrap();
    assert!(Command::new("umount").arg(&mount).status().unwrap().success());
    dev.wait_for("word of the mount", |dev| dev.said().contains("the mount was taken away"));
    assert_eq!(dev.ok(&["cat", "/dir/file"]), b"held back");
    dev.stop();
}
