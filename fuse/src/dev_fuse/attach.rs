//! Mounting: by the system call where that is allowed, by the set-user-id helper `fusermount3` where it is not.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::mount::MountFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// The helper's descriptor for its answer is its standard input, so that no other one need be handed down.
const ANSWER_FD: &str = "0";

/// How a mount shows itself, and who may use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AttachOptions {
    /// Source in `/proc/mounts`, and type behind `fuse.`.
    pub(crate) name: &'static str,
    /// Other users than the one who mounts may use it.
    pub(crate) allow_other: bool,
    /// Nothing can be changed through it.
    pub(crate) read_only: bool,
}

/// Mounts on a directory: set-user-id programs and devices of the mount mean nothing to the kernel. Returns the device
/// through which the kernel asks.
pub(crate) fn attach(path: &Path, options: &AttachOptions, root: bool) -> io::Result<File> {
    if !root {
        return by_helper(path, options);
    }
    match by_call(path, options) {
        // The superuser of a container that may not mount by itself.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => by_helper(path, options),
        other => other,
    }
}

fn by_call(path: &Path, options: &AttachOptions) -> io::Result<File> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
    let kind = std::fs::metadata(path)?.mode() & libc::S_IFMT;
    let mut data = format!(
        "fd={},rootmode={kind:o},user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    flags.set(MountFlags::RDONLY, options.read_only);
    let target = CString::new(path.as_os_str().as_bytes())?;
    let kind = format!("fuse.{}", options.name);
    rustix::mount::mount(options.name, target.as_c_str(), kind.as_str(), flags, CString::new(data)?.as_c_str())?;
    Ok(device)
}

fn by_helper(path: &Path, options: &AttachOptions) -> io::Result<File> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut said = format!("fsname={0},subtype={0},default_permissions", options.name);
    if options.allow_other {
        said.push_str(",allow_other");
    }
    if options.read_only {
        said.push_str(",ro");
    }
    let child = Command::new("fusermount3")
        .args(["-o", &said, "--"])
        .arg(path)
        .env("_FUSE_COMMFD", ANSWER_FD)
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let device = receive(&ours);
    let output = child.wait_with_output()?;
    match device {
        Ok(Some(device)) => Ok(File::from(device)),
        Ok(None) => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_string())),
        Err(error) => Err(error),
    }
}

/// The descriptor that the helper sends; `None`: it ended without.
fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0; 1];
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut sent = RecvAncillaryBuffer::new(&mut room);
    rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut sent, RecvFlags::CMSG_CLOEXEC)
    })?;
    for message in sent.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            return Ok(descriptors.next());
        }
    }
    Ok(None)
}
