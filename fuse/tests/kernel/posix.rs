//! What programs of Linux expect beyond the plain calls, asked of the real kernel.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::Rig;

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn check(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn errno(result: io::Result<()>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap_or(0)
}

fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Whether a process ends; long before the patience is over, unless it hangs.
fn ends(child: &mut Child) -> bool {
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(60) {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_frees_a_call_that_hangs_and_others_go_on() {
    let Some(rig) = Rig::start(1).await else { return };
    let dir = rig.path(0);
    fs::write(dir.join("file"), b"there").unwrap();
    // Each in a folder of its own: the kernel keeps a folder locked for who changes it, and that wait knows no signals.
    fs::create_dir(dir.join("one")).unwrap();
    fs::create_dir(dir.join("two")).unwrap();
    let hung = rig.site.hang().await;
    let mut freed = Command::new("mkdir").arg(dir.join("one/freed")).spawn().unwrap();
    let mut patient = Command::new("mkdir").arg(dir.join("two/patient")).spawn().unwrap();
    while rig.site.waiting() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // SAFETY: the pid is of a child that was not waited for.
    unsafe { libc::kill(freed.id() as i32, libc::SIGINT) };
    let ended = tokio::task::spawn_blocking(move || ends(&mut freed)).await.unwrap();
    assert!(ended, "a signal frees who waits");
    assert!(patient.try_wait().unwrap().is_none(), "nobody answers yet");
    drop(hung);
    let ended = tokio::task::spawn_blocking(move || ends(&mut patient) && patient.wait().unwrap().success());
    assert!(ended.await.unwrap(), "who waited on is served once the site wakes");
    assert!(dir.join("two/patient").is_dir());
    assert_eq!(fs::read(dir.join("file")).unwrap(), b"there");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_without_a_name_is_written_and_then_named() {
    let Some(rig) = Rig::start(1).await else { return };
    let dir = rig.path(0);
    let mut open = OpenOptions::new();
    let mut file = open.read(true).write(true).mode(0o640).custom_flags(libc::O_TMPFILE).open(&dir).unwrap();
    file.write_all(b"made without a name").unwrap();
    assert_eq!((file.metadata().unwrap().nlink(), fs::read_dir(&dir).unwrap().count()), (0, 0));
    // Longer than the site takes to ask whether it is still open.
    tokio::time::sleep(Duration::from_millis(700)).await;
    let from = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    let to = c(&dir.join("named"));
    // SAFETY: both are strings ended by NUL that live through the call.
    check(unsafe { libc::linkat(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::AT_SYMLINK_FOLLOW) })
        .unwrap();
    drop(file);
    assert_eq!(fs::read(dir.join("named")).unwrap(), b"made without a name");
    assert_eq!(fs::metadata(dir.join("named")).unwrap().mode() & 0o7777, 0o640 & !umask());
    rig.stop().await;
}

fn umask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:")).unwrap();
    u32::from_str_radix(line.trim(), 8).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_of_birth_is_told_and_stays() {
    let Some(rig) = Rig::start(1).await else { return };
    let path = rig.path(0).join("file");
    fs::write(&path, b"x").unwrap();
    let born = fs::metadata(&path).unwrap().created().unwrap();
    assert!(born.elapsed().unwrap() < Duration::from_secs(600));
    File::options().append(true).open(&path).unwrap().write_all(b"more").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().created().unwrap(), born);
    rig.stop().await;
}

fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(rights.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    let (path, name) = (c(path), CString::new(name).unwrap());
    // SAFETY: strings ended by NUL, and a value of the length given; all live through the call.
    check(unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) })
}

fn get_xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let (path, name) = (c(path), CString::new(name).unwrap());
    let mut value = vec![0u8; 70_000];
    // SAFETY: strings ended by NUL, and room of the length given; all live through the call.
    let len = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    usize::try_from(len).ok().map(|len| value[..len].to_vec())
}

const ANY: u32 = u32::MAX;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn access_lists_are_honoured_and_inherited() {
    let Some(rig) = Rig::start(1).await else { return };
    let file = rig.path(0).join("file");
    fs::write(&file, b"secret").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let as_4000 = |command: &str| {
        let status = Command::new("setpriv")
            .args(["--reuid=4000", "--regid=4000", "--clear-groups", "sh", "-c", command])
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .status();
        status.unwrap().success()
    };
    let cat = format!("cat {}", file.display());
    assert!(!as_4000(&cat));
    let list = acl(&[(1, 6, ANY), (2, 4, 4000), (4, 0, ANY), (16, 4, ANY), (32, 0, ANY)]);
    set_xattr(&file, "system.posix_acl_access", &list).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);
    assert!(as_4000(&cat), "the list names user 4000");
    assert!(!as_4000(&format!("echo x >> {}", file.display())));
    assert_eq!(get_xattr(&file, "system.posix_acl_access"), Some(list));
    // `cp -a` takes the list along.
    let copy = rig.path(0).join("copy");
    sh(&format!("cp -a {} {}", file.display(), copy.display()));
    assert_eq!(get_xattr(&copy, "system.posix_acl_access"), get_xattr(&file, "system.posix_acl_access"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(!as_4000(&cat), "chmod took the mask away");

    let dir = rig.path(0).join("dir");
    fs::create_dir(&dir).unwrap();
    let default = acl(&[(1, 7, ANY), (2, 6, 4000), (4, 5, ANY), (16, 7, ANY), (32, 0, ANY)]);
    set_xattr(&dir, "system.posix_acl_default", &default).unwrap();
    sh(&format!("umask 077; echo x > {0}/made; mkdir {0}/below", dir.display()));
    assert_eq!(fs::metadata(dir.join("made")).unwrap().mode() & 0o777, 0o660, "the umask does not count");
    assert!(as_4000(&format!("echo more >> {}/made", dir.display())) || !as_4000(&format!("cd {}", dir.display())));
    assert_eq!(get_xattr(&dir.join("below"), "system.posix_acl_default"), Some(default));
    sh(&format!("umask 027; echo x > {}/plain", rig.path(0).display()));
    assert_eq!(fs::metadata(rig.path(0).join("plain")).unwrap().mode() & 0o777, 0o640);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attributes_keep_the_limits_of_linux() {
    let Some(rig) = Rig::start(1).await else { return };
    let file = rig.path(0).join("file");
    fs::write(&file, b"x").unwrap();
    let long = format!("user.{}", "n".repeat(250));
    for (name, len) in [("user.large", 65_536), ("trusted.of-root", 3), ("security.label", 3), (&long, 0)] {
        set_xattr(&file, name, &vec![7; len]).unwrap();
        assert_eq!(get_xattr(&file, name), Some(vec![7; len]), "{name}");
    }
    assert_eq!(errno(set_xattr(&file, "user.larger", &vec![7; 65_537])), libc::E2BIG);
    assert_eq!(errno(set_xattr(&file, &format!("{long}n"), b"")), libc::ERANGE);
    assert_eq!(errno(set_xattr(&file, "other.space", b"")), libc::EOPNOTSUPP);
    assert_eq!(get_xattr(&file, "user.none"), None);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_offsets_long_names_and_deep_paths_work() {
    let Some(rig) = Rig::start(1).await else { return };
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(rig.path(0).join("sparse")).unwrap();
    let end = 16u64 << 40;
    file.write_all_at(b"the end", end - 7).unwrap();
    file.sync_all().unwrap();
    let mut found = [0; 7];
    file.read_exact_at(&mut found, end - 7).unwrap();
    assert_eq!((&found, file.metadata().unwrap().len()), (b"the end", end));
    assert!(file.metadata().unwrap().blocks() < 100);
    drop(file);
    let long = rig.path(0).join("n".repeat(255));
    fs::write(&long, b"x").unwrap();
    let longer = rig.path(0).join("n".repeat(256));
    assert_eq!(fs::write(longer, b"x").unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
    // As long a path as the kernel takes: 4095 bytes, walked from inside.
    let mut path = rig.path(0);
    while path.as_os_str().len() + 101 < 4095 {
        path = path.join("d".repeat(100));
    }
    fs::create_dir_all(&path).unwrap();
    let last = path.join("f".repeat(4094 - path.as_os_str().len()));
    fs::write(&last, b"deep").unwrap();
    assert_eq!((last.as_os_str().len(), fs::read(&last).unwrap()), (4095, b"deep".to_vec()));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn allocation_keeps_its_modes_apart() {
    let Some(rig) = Rig::start(1).await else { return };
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(rig.path(0).join("file")).unwrap();
    let allocate = |mode, offset, len| {
        // SAFETY: the descriptor is open; the call touches no memory of ours.
        check(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) })
    };
    let shape = || (file.metadata().unwrap().len(), file.metadata().unwrap().blocks() * 512);
    allocate(libc::FALLOC_FL_KEEP_SIZE, 0, 1 << 20).unwrap();
    assert_eq!(shape(), (0, 1 << 20));
    allocate(0, 0, 2 << 20).unwrap();
    assert_eq!(shape(), (2 << 20, 2 << 20));
    file.write_all_at(&[7; 8192], 0).unwrap();
    allocate(libc::FALLOC_FL_ZERO_RANGE, 4096, 4096).unwrap();
    allocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 1 << 20, 1 << 20).unwrap();
    assert_eq!(shape(), (2 << 20, 1 << 20));
    let mut bytes = vec![9; 3 << 20];
    let mut reader = &file;
    assert_eq!(reader.read(&mut bytes[..8192]).unwrap(), 8192);
    assert!(bytes[..4096].iter().all(|byte| *byte == 7) && bytes[4096..8192].iter().all(|byte| *byte == 0));
    assert_eq!(errno(allocate(libc::FALLOC_FL_COLLAPSE_RANGE, 0, 4096)), libc::EOPNOTSUPP);
    assert_eq!(errno(allocate(libc::FALLOC_FL_INSERT_RANGE, 0, 4096)), libc::EOPNOTSUPP);
    drop(file);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renames_keep_their_flags_apart() {
    let Some(rig) = Rig::start(1).await else { return };
    let (a, b) = (rig.path(0).join("a"), rig.path(0).join("b"));
    fs::write(&a, b"a").unwrap();
    fs::write(&b, b"b").unwrap();
    let rename = |flags| {
        let (from, to) = (c(&a), c(&b));
        // SAFETY: both are strings ended by NUL that live through the call.
        check(unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) })
    };
    assert_eq!(errno(rename(libc::RENAME_NOREPLACE)), libc::EEXIST);
    rename(libc::RENAME_EXCHANGE).unwrap();
    assert_eq!((fs::read(&a).unwrap(), fs::read(&b).unwrap()), (b"b".to_vec(), b"a".to_vec()));
    assert_eq!(errno(rename(libc::RENAME_WHITEOUT)), libc::EINVAL);
    rename(0).unwrap();
    assert_eq!((a.exists(), fs::read(&b).unwrap()), (false, b"b".to_vec()));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_stays_in_step_while_others_change_the_directory() {
    let Some(rig) = Rig::start(1).await else { return };
    let dir = rig.path(0).join("dir");
    fs::create_dir(&dir).unwrap();
    for n in 0..5000 {
        File::create(dir.join(format!("kept{n:04}"))).unwrap();
    }
    let mut seen = std::collections::BTreeMap::new();
    for (n, entry) in fs::read_dir(&dir).unwrap().enumerate() {
        *seen.entry(entry.unwrap().file_name()).or_insert(0) += 1;
        if n % 50 == 0 {
            File::create(dir.join(format!("new{n}"))).unwrap();
            fs::remove_file(dir.join(format!("new{n}"))).unwrap();
        }
    }
    let kept: Vec<_> = seen.iter().filter(|(name, _)| name.as_bytes().starts_with(b"kept")).collect();
    assert_eq!(kept.len(), 5000, "what is there all the time is listed");
    assert!(kept.iter().all(|(_, times)| **times == 1), "once");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_of_both_kinds_keep_others_out_and_are_freed_with_their_holder() {
    let Some(rig) = Rig::start(1).await else { return };
    let path = rig.path(0).join("file");
    fs::write(&path, b"x").unwrap();
    let holder = File::options().read(true).write(true).open(&path).unwrap();
    // SAFETY: the descriptor is open; the call touches no memory of ours.
    check(unsafe { libc::flock(holder.as_raw_fd(), libc::LOCK_EX) }).unwrap();
    let flock = |how: &str| Command::new("flock").arg(how).arg(&path).arg("true").status().unwrap().success();
    assert!(!flock("--nonblock"), "another open of the file waits");
    let script = format!(
        "import fcntl; f = open({:?}, 'r+'); fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        path.display().to_string()
    );
    let fcntl = || Command::new("python3").args(["-c", &script]).stderr(std::process::Stdio::null()).status();
    assert!(fcntl().unwrap().success(), "fcntl locks are apart from those of flock");
    // SAFETY: a plain structure; zeroes mean the whole file.
    let mut whole: libc::flock = unsafe { std::mem::zeroed() };
    whole.l_type = libc::F_WRLCK as i16;
    // SAFETY: the descriptor is open and the structure lives through the call.
    check(unsafe { libc::fcntl(holder.as_raw_fd(), libc::F_SETLK, &whole) }).unwrap();
    assert!(!fcntl().unwrap().success());
    drop(holder);
    assert!(flock("--nonblock") && fcntl().unwrap().success());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_of_access_changes_when_it_is_set_and_not_by_reading() {
    let Some(rig) = Rig::start(1).await else { return };
    let path = rig.path(0).join("file");
    fs::write(&path, b"x").unwrap();
    let before = fs::metadata(&path).unwrap();
    fs::read(&path).unwrap();
    let after = fs::metadata(&path).unwrap();
    assert_eq!((before.atime(), before.mtime(), before.ctime()), (after.atime(), after.mtime(), after.ctime()));
    sh(&format!("touch -a -d @1000000000.123456789 {}", path.display()));
    let set = fs::metadata(&path).unwrap();
    assert_eq!((set.atime(), set.atime_nsec()), (1_000_000_000, 123_456_789));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statfs_shows_limits_and_use() {
    let Some(rig) = Rig::start(1).await else { return };
    let shown = || sh(&format!("stat -f -c '%T %l %s %S' {}", rig.path(0).display()));
    assert_eq!(shown().split_once(' ').unwrap().1, "255 4096 4096\n");
    let used = || {
        let text = sh(&format!("stat -f -c '%b %f' {}", rig.path(0).display()));
        let (all, free) = text.trim().split_once(' ').unwrap();
        all.parse::<u64>().unwrap() - free.parse::<u64>().unwrap()
    };
    let before = used();
    fs::write(rig.path(0).join("file"), vec![7; 1 << 20]).unwrap();
    assert_eq!(used() - before, 256);
    rig.stop().await;
}
