//! pjdfstest and fsx.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use weft_tests::tools::tool;
use weft_tests::{Fabric, say};

use crate::{number, text};

/// What passes on ext4 passes here, but for what ext4 is asked more of: the C library knows no limit of links for FUSE
/// (`link_count_max` is skipped; `proto/core/tests/machine/posix.rs` tries it), and a FUSE mount can't be remounted by mount(8)
/// (`erofs`).
const PASSED: usize = 384;

const PJDFSTEST: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.01
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

const FSX: &str = r#"
flen = 1048576
[opsize]
max = 65536
[weights]
close_open = 1
invalidate = 1
truncate = 10
read = 10
write = 10
mapread = 10
mapwrite = 10
fsync = 0.5
fdatasync = 0.5
posix_fallocate = 5
punch_hole = 5
sendfile = 1
posix_fadvise = 1
copy_file_range = 5
"#;

/// Other users must be able to walk to the mount.
fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
}

#[test]
fn pjdfstest_finds_no_fault() {
    let program = tool("pjdfstest", "0.2.2");
    let mut fabric = Fabric::start(3);
    let mut mount = fabric.mount();
    open_to_all(fabric.folder());
    let config = fabric.folder().join("pjdfstest.toml");
    fs::write(&config, PJDFSTEST).expect("write the configuration");
    let other = fabric.folder().join("other-file-system");
    fs::create_dir(&other).expect("a folder");
    open_to_all(&other);
    let inside = mount.path.join("pjdfstest");
    fs::create_dir(&inside).expect("a folder");
    let output = Command::new(program)
        .args(["-c", text(&config), "-s", text(&other), "-p", text(&inside)])
        .stdin(Stdio::null())
        .output()
        .expect("run pjdfstest");
    let said = String::from_utf8_lossy(&output.stdout);
    let faults: Vec<&str> = said.split("\n\n").filter(|part| part.contains("FAILED")).collect();
    assert!(output.status.success() && faults.is_empty(), "{}\n{}", faults.join("\n"), fabric.mount_log());
    let summary = said.lines().find(|line| line.starts_with("Summary:")).expect("a summary");
    say(summary);
    let passed = summary.split(", ").find_map(|part| part.strip_suffix(" passed")).expect("how many passed");
    assert!(passed.parse::<usize>().expect("a number") >= PASSED, "{summary}: at least {PASSED} before");
    mount.unmount();
}

/// `WEFT_FSX_SEEDS=10 WEFT_FSX_OPS=100000 cargo test -p weft-tests --release --test posix fsx -- --nocapture` for hours.
#[test]
fn fsx_finds_no_fault() {
    let program = tool("fsx", "0.3.2");
    let (seeds, ops) = (number("WEFT_FSX_SEEDS", 1), number("WEFT_FSX_OPS", 1000).to_string());
    let mut fabric = Fabric::start(3);
    let mut mount = fabric.mount();
    let config = fabric.folder().join("fsx.toml");
    fs::write(&config, FSX).expect("write the configuration");
    for seed in 1..=seeds {
        let file = mount.path.join(format!("fsx{seed}"));
        let output = Command::new(&program)
            .args(["-f", text(&config), "-S", &seed.to_string(), "-N", &ops, "-P", text(fabric.folder())])
            .arg(&file)
            .stdin(Stdio::null())
            .output()
            .expect("run fsx");
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let log = fabric.mount_log();
        assert!(output.status.success(), "seed {seed}, {ops} operations:\n{said}\n{errors}\n{log}");
        say(&format!("fsx: seed {seed}, {ops} operations without a fault"));
        fs::remove_file(&file).expect("remove the file");
    }
    mount.unmount();
}
