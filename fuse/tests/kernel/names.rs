//! Directories, links, junctions and attributes of one mount.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use weft_client::{Cred, Ino, Name, SlotRef};

use crate::Rig;

fn listed(path: &Path) -> Vec<String> {
    let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn rename2(from: &Path, to: &Path, flags: u32) -> std::io::Result<()> {
    let (from, to) = (c(from), c(to));
    // SAFETY: both are strings ended by NUL that live through the call.
    match unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_is_whole_while_what_it_lists_is_removed() {
    let Some(rig) = Rig::start(1).await else { return };
    let dir = rig.path(0).join("dir");
    fs::create_dir(&dir).unwrap();
    let names: Vec<String> = (0..2500).map(|number| format!("file{number:05}")).collect();
    for name in &names {
        File::create(dir.join(name)).unwrap();
    }
    assert_eq!(listed(&dir), names);
    let mut seen = Vec::new();
    for (number, entry) in fs::read_dir(&dir).unwrap().enumerate() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if number % 7 == 0 {
            fs::remove_file(dir.join(&name)).unwrap();
        }
        seen.push(name);
    }
    seen.sort();
    assert_eq!(seen, names);
    fs::remove_dir_all(&dir).unwrap();
    assert_eq!(listed(&rig.path(0)), [""; 0]);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_in_a_listing_can_be_returned_to() {
    let Some(rig) = Rig::start(1).await else { return };
    for number in 0..1500 {
        File::create(rig.path(0).join(format!("file{number:05}"))).unwrap();
    }
    let path = c(&rig.path(0));
    // SAFETY: a string ended by NUL; the stream is closed below and its entries are copied before the next call.
    unsafe {
        let stream = libc::opendir(path.as_ptr());
        assert!(!stream.is_null());
        let next = || {
            let entry = libc::readdir(stream);
            (!entry.is_null()).then(|| std::ffi::CStr::from_ptr((*entry).d_name.as_ptr()).to_owned())
        };
        let mut places = Vec::new();
        loop {
            let place = libc::telldir(stream);
            let Some(name) = next() else { break };
            places.push((place, name));
        }
        assert_eq!(places.len(), 1502);
        for (place, name) in places.iter().rev().step_by(97) {
            libc::seekdir(stream, *place);
            assert_eq!(next().as_ref(), Some(name));
        }
        libc::rewinddir(stream);
        assert_eq!(next().as_ref(), Some(&places[0].1));
        libc::closedir(stream);
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_and_renames_do_as_posix_says() {
    let Some(rig) = Rig::start(1).await else { return };
    let at = |name: &str| rig.path(0).join(name);
    fs::write(at("a"), b"a").unwrap();
    fs::hard_link(at("a"), at("b")).unwrap();
    assert_eq!((at("a").metadata().unwrap().nlink(), at("b").metadata().unwrap().nlink()), (2, 2));
    assert_eq!(at("a").metadata().unwrap().ino(), at("b").metadata().unwrap().ino());
    fs::write(at("c"), b"c").unwrap();
    let taken = rename2(&at("c"), &at("b"), libc::RENAME_NOREPLACE).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
    rename2(&at("c"), &at("b"), libc::RENAME_EXCHANGE).unwrap();
    assert_eq!((fs::read(at("b")).unwrap(), fs::read(at("c")).unwrap()), (b"c".to_vec(), b"a".to_vec()));
    fs::rename(at("b"), at("c")).unwrap();
    assert_eq!((fs::read(at("c")).unwrap(), at("a").metadata().unwrap().nlink()), (b"c".to_vec(), 1));
    fs::create_dir_all(at("d/e")).unwrap();
    assert_eq!(fs::rename(at("d"), at("d/e/f")).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    assert_eq!(fs::remove_dir(at("d")).unwrap_err().raw_os_error(), Some(libc::ENOTEMPTY));
    symlink("c", at("link")).unwrap();
    assert_eq!(fs::read(at("link")).unwrap(), b"c");
    let long = "x".repeat(256);
    assert_eq!(File::create(at(&long)).unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
    File::create(at(&long[..255])).unwrap();
    assert_eq!(listed(&rig.path(0)).len(), 5);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_junction_leads_to_another_volume() {
    let Some(rig) = Rig::start(1).await else { return };
    let client = &rig.clients[0];
    let (root, other) = (client.volume("root").await.unwrap(), client.volume("other").await.unwrap());
    fs::create_dir(rig.path(0).join("dir")).unwrap();
    let dir = client.resolve(&Cred::root(), b"/dir").await.unwrap().found.ino;
    let slot = SlotRef { space: other.info().space, slot: other.info().slot };
    root.make_junction(&Cred::root(), dir, Name::parse("there").unwrap(), slot).await.unwrap();
    let gone = SlotRef { slot: weft_client::SlotId(99), ..slot };
    root.make_junction(&Cred::root(), dir, Name::parse("gone").unwrap(), gone).await.unwrap();

    let there = rig.path(0).join("dir/there");
    fs::write(there.join("file"), b"in the other volume").unwrap();
    assert_eq!(fs::read(there.join("file")).unwrap(), b"in the other volume");
    assert_eq!(there.metadata().unwrap().ino(), (2 << 40) | Ino::ROOT.0);
    assert_eq!(there.join("..").metadata().unwrap().ino(), (1 << 40) | dir.0);
    // A junction that leads nowhere is listed, and harms nobody else.
    assert_eq!(listed(&rig.path(0).join("dir")), ["gone", "there"]);
    assert!(rig.path(0).join("dir/gone").metadata().is_err());
    let output = std::process::Command::new("find").arg(rig.path(0)).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("dir/there/file"));
    let moved = fs::rename(there.join("file"), rig.path(0).join("file")).unwrap_err();
    assert_eq!(moved.raw_os_error(), Some(libc::EXDEV));
    assert_eq!(fs::remove_dir(&there).unwrap_err().raw_os_error(), Some(libc::EBUSY));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn extended_attributes_are_kept() {
    let Some(rig) = Rig::start(1).await else { return };
    let path = rig.path(0).join("file");
    File::create(&path).unwrap();
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new(arguments[0]).args(&arguments[1..]).arg(&path).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert!(run(&["setfattr", "-n", "user.comment", "-v", "hello"]).0);
    assert!(run(&["setfattr", "-n", "user.other", "-v", "there"]).0);
    let (_, listed) = run(&["getfattr", "-d", "--absolute-names"]);
    assert!(listed.contains("user.comment=\"hello\"") && listed.contains("user.other=\"there\""), "{listed}");
    assert!(run(&["setfattr", "-x", "user.comment"]).0);
    assert!(!run(&["setfattr", "-x", "user.comment"]).0);
    assert!(!run(&["getfattr", "-n", "user.comment"]).0);
    rig.stop().await;
}
