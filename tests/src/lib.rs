//! A real fabric for tests: real `weft` processes on loopback, each node with a folder and configuration of its own, and
//! a real mount. Everything is ended and unmounted when the value is dropped, also after a failed test.

use std::fs::File;
use std::io::{self, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

mod harm;

pub use harm::{flip, resident};

#[path = "../fuzz/bodies/mod.rs"]
pub mod fuzz;
pub mod tools;

/// Nothing here takes longer on a slow and busy machine; whatever does, hangs. A disk that stalled for most of two minutes
/// has been seen.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// The `weft` binary beside the running test, built if it is not there or not current.
pub fn weft() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build.args(["build", "--quiet", "--locked", "--package", "weft", "--manifest-path"]).arg(manifest);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        assert!(build.status().expect("run cargo").success(), "build the weft binary");
        let test = std::env::current_exe().expect("path of the test");
        let folder = test.ancestors().nth(2).expect("target folder");
        folder.join("weft")
    })
}

/// Says how far a long test is.
pub fn say(text: &str) {
    // Nobody may be listening.
    let _ = writeln!(io::stderr(), "{text}");
}

/// One fabric at a time: the machine has two cores, and mounts and disks are shared.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port()
}

/// Waits until `done` is true.
///
/// # Panics
/// It takes longer than [`PATIENCE`].
pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let since = Instant::now();
    while !done() {
        assert!(since.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// One node: its configuration and its process, if it runs.
pub struct NodeProcess {
    /// `host:port` of its gRPC services.
    pub addr: String,
    /// `host:port` of its metrics.
    pub http: String,
    /// Its folder, with `node.toml`, `data/` and `log`.
    pub folder: PathBuf,
    child: Option<Child>,
}

impl NodeProcess {
    fn new(folder: PathBuf) -> NodeProcess {
        std::fs::create_dir_all(&folder).expect("make the node's folder");
        let addr = format!("127.0.0.1:{}", free_port());
        let http = format!("127.0.0.1:{}", free_port());
        let node = NodeProcess { addr, http, folder, child: None };
        node.configure("");
        node
    }

    /// Writes the configuration, with more lines at its end.
    pub fn configure(&self, more: &str) {
        let data = self.folder.join("data");
        let text = format!("data = {data:?}\nlisten = {:?}\nhttp = {:?}\n{more}\n", self.addr, self.http);
        std::fs::write(self.config(), text).expect("write the configuration");
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("node.toml")
    }

    /// What it printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Starts it.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "the node runs already");
        let log = File::options().create(true).append(true).open(self.folder.join("log")).expect("open the log");
        let child = Command::new(weft())
            .arg("node")
            .arg("--config")
            .arg(self.config())
            .env("WEFT_LOG", "info")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("share the log"))
            .stderr(log)
            .spawn()
            .expect("start weft node");
        self.child = Some(child);
    }

    /// Its process, if it was started.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether its process runs.
    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().expect("ask for the process").is_none())
    }

    /// Sends it a signal.
    pub fn signal(&self, number: i32) {
        if let Some(child) = &self.child {
            signal(child.id(), number);
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill the node");
            child.wait().expect("reap the node");
        }
    }

    /// Asks it to end and waits.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            signal(child.id(), libc::SIGTERM);
            assert!(ends(&mut child), "the node did not end on SIGTERM:\n{}", self.log());
        }
    }
}

/// Sends a signal to a process of ours.
pub fn signal(pid: u32, signal: i32) {
    // SAFETY: kill has no memory effects; the pid is of a child that was not waited for.
    unsafe { libc::kill(pid as i32, signal) };
}

/// Waits for a process to end by itself; kills it when it does not.
pub fn ends(child: &mut Child) -> bool {
    let since = Instant::now();
    while since.elapsed() < PATIENCE {
        if child.try_wait().expect("ask for the process").is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().expect("kill the process");
    child.wait().expect("reap the process");
    false
}

/// A mount and its process.
pub struct Mount {
    /// Where.
    pub path: PathBuf,
    child: Option<Child>,
}

impl Mount {
    /// Unmounts by SIGTERM to the process, as Ctrl-C does, and waits.
    pub fn unmount(&mut self) {
        if let Some(mut child) = self.child.take() {
            signal(child.id(), libc::SIGTERM);
            assert!(ends(&mut child), "weft mount did not end on SIGTERM");
            assert!(!is_mount(&self.path), "{} is still mounted", self.path.display());
        }
    }

    /// The process.
    pub fn child(&mut self) -> Option<&mut Child> {
        self.child.as_mut()
    }

    /// The process was ended by other means: forget it.
    pub fn forget(&mut self) {
        if let Some(mut child) = self.child.take() {
            assert!(ends(&mut child), "weft mount did not end");
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            lazily_unmount(&self.path);
            // Both may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn lazily_unmount(path: &Path) {
    let mut unmount = Command::new("umount");
    unmount.arg("-l").arg(path).stdout(Stdio::null()).stderr(Stdio::null());
    // Nothing may be mounted there any more.
    let _ = unmount.status();
}

/// Whether something is mounted at a path.
pub fn is_mount(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("read the mounts");
    let path = path.display().to_string();
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(&path))
}

/// A fabric of real processes.
pub struct Fabric {
    /// From 0; stopped ones too.
    pub nodes: Vec<NodeProcess>,
    folder: tempfile::TempDir,
    mounts: usize,
    /// File systems made for nodes.
    disks: Vec<PathBuf>,
    /// The administrator's credential, where the fabric has certificates.
    credential: Option<PathBuf>,
    _alone: MutexGuard<'static, ()>,
}

impl Fabric {
    /// Formats and starts so many nodes, and waits until all groups have that many voters and placement is there.
    pub fn start(nodes: usize) -> Fabric {
        Fabric::start_on(&vec![None; nodes], "")
    }

    /// The same, each node on a file system of its own with so many MiB, or else on that of the temporary folder; `more`
    /// are further lines of their configuration.
    pub fn start_on(disks: &[Option<u64>], more: &str) -> Fabric {
        Fabric::make(disks, more, false)
    }

    /// The same with certificates: every connection is mutual TLS, and [`Fabric::weft`] asks as the administrator.
    pub fn start_secure(nodes: usize) -> Fabric {
        Fabric::make(&vec![None; nodes], "", true)
    }

    fn make(disks: &[Option<u64>], more: &str, secure: bool) -> Fabric {
        let _alone = alone();
        let folder = tempfile::Builder::new().prefix("weft-test-").tempdir().expect("a folder");
        let mut fabric = Fabric { nodes: Vec::new(), folder, mounts: 0, disks: Vec::new(), credential: None, _alone };
        if secure {
            fabric.credential = Some(fabric.folder.path().join("admin.credential"));
        }
        for (n, mib) in disks.iter().enumerate() {
            let folder = fabric.folder.path().join(format!("n{}", n + 1));
            if let Some(mib) = mib {
                std::fs::create_dir(&folder).expect("make the node's folder");
                let size = format!("size={mib}m");
                run("mount", &["-t", "tmpfs", "-o", &size, "weft-test", folder.to_str().expect("a plain path")]);
                fabric.disks.push(folder.clone());
            }
            let node = NodeProcess::new(folder);
            node.configure(more);
            fabric.nodes.push(node);
        }
        let replication = fabric.nodes.len().min(3).to_string();
        let config = fabric.nodes[0].config();
        let config = config.to_str().expect("a plain path");
        let mut init = vec!["cluster", "init", "--config", config, "--name", "test", "--replication", &replication];
        if !secure {
            init.push("--plain");
        }
        fabric.weft(&init);
        fabric.nodes[0].start();
        for node in 1..fabric.nodes.len() {
            fabric.join(node);
            fabric.nodes[node].start();
        }
        fabric.wait_whole();
        fabric
    }

    /// Makes a node's folder, as a member of the fabric of which another node runs.
    pub fn join(&self, node: usize) {
        let config = self.nodes[node].config();
        let config = config.to_str().expect("a plain path");
        let peer = &self.nodes[if node == 0 { 1 } else { 0 }].addr;
        wait_for("a join", || {
            let mut join = vec!["cluster", "join", "--config", config, "--peer", peer];
            let token;
            if self.credential.is_some() {
                let made = self.try_weft(&["cluster", "token", "--expires", "600"]);
                token = String::from_utf8_lossy(&made.stdout).trim().to_string();
                if !made.status.success() {
                    return false;
                }
                join.extend(["--token", &token]);
            }
            self.try_weft(&join).status.success()
        });
    }

    /// A folder for what the test needs besides.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Addresses of all nodes, as `--connect` takes them.
    pub fn connect(&self) -> String {
        let addrs: Vec<&str> = self.nodes.iter().map(|node| node.addr.as_str()).collect();
        addrs.join(",")
    }

    /// `weft` as the administrator, who is somebody only where the fabric has certificates.
    fn command(&self) -> Command {
        let mut command = Command::new(weft());
        command.env("WEFT_CONNECT", self.connect()).env("XDG_CONFIG_HOME", self.folder.path().join("none"));
        match &self.credential {
            Some(credential) => command.env("WEFT_CREDENTIAL", credential),
            None => command.env_remove("WEFT_CREDENTIAL"),
        };
        command.stdin(Stdio::null());
        command
    }

    /// Runs `weft` with arguments.
    pub fn try_weft(&self, args: &[&str]) -> Output {
        self.command().args(args).output().expect("run weft")
    }

    /// The administrator's credential.
    pub fn credential(&self) -> Option<&Path> {
        self.credential.as_deref()
    }

    /// Runs `weft` with arguments as whom a credential says; `None`: as nobody.
    pub fn try_weft_as(&self, credential: Option<&Path>, args: &[&str]) -> Output {
        let mut command = self.command();
        match credential {
            Some(credential) => command.env("WEFT_CREDENTIAL", credential),
            None => command.env_remove("WEFT_CREDENTIAL"),
        };
        command.args(args).output().expect("run weft")
    }

    /// Runs `weft` with arguments; what it printed.
    ///
    /// # Panics
    /// It failed.
    pub fn weft(&self, args: &[&str]) -> String {
        let output = self.try_weft(args);
        let errors = String::from_utf8_lossy(&output.stderr);
        let said = String::from_utf8(output.stdout).expect("UTF-8 from weft");
        assert!(output.status.success(), "{}\nweft {args:?}: {errors}\n{said}", self.logs());
        said
    }

    /// `weft cluster status --json`, if it answers.
    pub fn status(&self) -> Option<serde_json::Value> {
        let output = self.try_weft(&["cluster", "status", "--json"]);
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("JSON from weft"))
    }

    /// Waits until every node is up, every group has all its voters, and placement groups are served by all members.
    pub fn wait_whole(&self) {
        let mut last = String::new();
        let since = Instant::now();
        while since.elapsed() < PATIENCE {
            if let Some(status) = self.status() {
                if status["healthy"] == true {
                    return;
                }
                last = status.to_string();
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        panic!("the fabric did not become whole: {last}\n{}", self.logs());
    }

    /// The ends of all nodes' logs.
    pub fn logs(&self) -> String {
        let tail = |node: &NodeProcess| {
            let log = node.log();
            let lines: Vec<&str> = log.lines().collect();
            format!("--- {}\n{}", node.folder.display(), lines[lines.len().saturating_sub(30)..].join("\n"))
        };
        self.nodes.iter().map(tail).collect::<Vec<_>>().join("\n")
    }

    /// What a node says of itself in `weft cluster status --json`, if it answers.
    pub fn report(&self, node: usize) -> Option<serde_json::Value> {
        let status = self.status()?;
        let shown = status["nodes"].as_array()?.iter().find(|shown| shown["addr"] == self.nodes[node].addr.as_str())?;
        Some(shown["report"].clone()).filter(|report| !report.is_null())
    }

    /// Robs a node of its folder and takes it in again.
    pub fn wipe(&mut self, node: usize) {
        self.nodes[node].kill();
        std::fs::remove_dir_all(self.nodes[node].folder.join("data")).expect("remove the folder");
        self.join(node);
        self.nodes[node].start();
    }

    /// Mounts the root volume in a fresh folder.
    pub fn mount(&mut self) -> Mount {
        self.mounts += 1;
        let path = self.folder.path().join(format!("mnt{}", self.mounts));
        std::fs::create_dir_all(&path).expect("make the mount point");
        let log = File::create(self.folder.path().join(format!("mount{}.log", self.mounts))).expect("make a log");
        let child = self
            .command()
            .arg("mount")
            .arg(&path)
            .env("WEFT_LOG", "info")
            .stdout(log.try_clone().expect("share the log"))
            .stderr(log)
            .spawn()
            .expect("start weft mount");
        let mut mount = Mount { path, child: Some(child) };
        wait_for("the mount", || {
            let ended = mount.child().is_some_and(|child| child.try_wait().expect("ask").is_some());
            assert!(!ended, "weft mount ended: {}", self.mount_log());
            is_mount(&mount.path)
        });
        mount
    }

    /// What the newest mount printed.
    pub fn mount_log(&self) -> String {
        let path = self.folder.path().join(format!("mount{}.log", self.mounts));
        std::fs::read_to_string(path).unwrap_or_default()
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What the nodes said goes with the folder otherwise.
            say(&self.logs());
        }
        for node in &mut self.nodes {
            node.kill();
        }
        for n in 1..=self.mounts {
            let path = self.folder.path().join(format!("mnt{n}"));
            if is_mount(&path) {
                lazily_unmount(&path);
            }
        }
        self.disks.iter().for_each(|disk| lazily_unmount(disk));
    }
}

/// Runs a command; its output as text.
///
/// # Panics
/// It can't be run or fails.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error: io::Error| panic!("run {program}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// Makes a tree like that of a source repository: nested folders, many small files, a few large ones, links, modes.
/// The same seed makes the same tree.
pub fn make_tree(root: &Path, files: usize, seed: u64) -> io::Result<()> {
    use rand::{Rng, SeedableRng};
    use std::os::unix::fs::{PermissionsExt, symlink};
    let mut rng = rand::rngs::SmallRng::seed_from_u64(seed);
    let mut folders = vec![root.to_path_buf()];
    std::fs::create_dir_all(root)?;
    for n in 0..files {
        if n % 12 == 0 {
            let parent = &folders[rng.random_range(0..folders.len())];
            let folder = parent.join(format!("dir{n}"));
            std::fs::create_dir(&folder)?;
            folders.push(folder);
        }
        let folder = &folders[rng.random_range(0..folders.len())];
        let len = match rng.random_range(0..100) {
            0..5 => 0,
            5..50 => rng.random_range(1..4096),
            50..97 => rng.random_range(4096..40_000),
            97..99 => rng.random_range(40_000..400_000),
            _ => rng.random_range(400_000..6_000_000),
        };
        let mut bytes = vec![0u8; len];
        rng.fill(&mut bytes[..]);
        let path = folder.join(format!("file{n}.src"));
        std::fs::write(&path, bytes)?;
        if n % 17 == 0 {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        }
        if n % 40 == 0 {
            symlink(format!("file{n}.src"), folder.join(format!("link{n}")))?;
        }
        if n % 60 == 0 {
            std::fs::hard_link(&path, folder.join(format!("hard{n}")))?;
        }
    }
    Ok(())
}
