//! Who may do what, asked by processes of other users.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use crate::Rig;

/// Runs a shell command as user and group 4000, with supplementary group 4321 if told so.
fn as_user(groups: &str, command: &str) -> bool {
    let groups = format!("--groups={groups}");
    let output = Command::new("setpriv")
        .args(["--reuid=4000", "--regid=4000", &groups, "sh", "-c", command])
        .output()
        .expect("run setpriv");
    output.status.success()
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mode_bits_and_supplementary_groups_decide() {
    let Some(rig) = Rig::start(1).await else { return };
    let dir = rig.path(0).join("dir");
    fs::create_dir(&dir).unwrap();
    chown(&dir, Some(0), Some(4321)).unwrap();
    set_mode(&dir, 0o770);
    let write = format!("echo x > {}/file && cat {0}/file", dir.display());
    assert!(!as_user("4000", &write));
    assert!(as_user("4321", &write));
    let file = dir.join("file");
    assert_eq!((file.metadata().unwrap().uid(), file.metadata().unwrap().gid()), (4000, 4000));
    set_mode(&file, 0o400);
    chown(&file, Some(0), Some(0)).unwrap();
    assert!(!as_user("4321", &format!("cat {}", file.display())));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_makes_a_read_only_file_may_write_what_it_has_open() {
    let Some(rig) = Rig::start(1).await else { return };
    let dir = rig.path(0).join("dir");
    fs::create_dir(&dir).unwrap();
    chown(&dir, Some(4000), Some(4000)).unwrap();
    let script = format!("cd {} && umask 333 && echo made > file && cat file", dir.display());
    assert!(as_user("4000", &script));
    assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "made\n");
    assert_eq!(mode(&dir.join("file")), 0o444);
    // Open for writing, then the right to write is taken away: what is open stays writable.
    let script = format!("cd {} && exec 5> other && chmod 0 other && echo late >&5", dir.display());
    assert!(as_user("4000", &script));
    assert_eq!(fs::read_to_string(dir.join("other")).unwrap(), "late\n");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn set_id_bits_end_with_a_write_of_somebody_else() {
    let Some(rig) = Rig::start(1).await else { return };
    let file = rig.path(0).join("file");
    for (change, left) in [("echo x >>", 0o777), ("truncate -s 3", 0o777)] {
        fs::write(&file, b"bytes").unwrap();
        set_mode(&file, 0o6777);
        assert!(as_user("4000", &format!("{change} {}", file.display())));
        assert_eq!(mode(&file), left, "{change}");
    }
    set_mode(&file, 0o6777);
    fs::write(&file, b"root may").unwrap();
    assert_eq!(mode(&file), 0o6777);
    chown(&file, Some(4000), Some(4000)).unwrap();
    assert_eq!(mode(&file), 0o777);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_runs_that_may_not_be_read() {
    let Some(rig) = Rig::start(1).await else { return };
    let program = rig.path(0).join("true");
    fs::copy("/bin/true", &program).unwrap();
    set_mode(&program, 0o711);
    assert!(as_user("4000", &program.display().to_string()));
    assert!(!as_user("4000", &format!("cat {}", program.display())));
    // A running program is not cut by who opens it with O_TRUNC.
    assert!(Command::new(&program).status().unwrap().success());
    rig.stop().await;
}
