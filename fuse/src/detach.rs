//! Taking a mount away: by the system call where that is allowed, by `fusermount3` where it is not.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

/// What became of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detach {
    /// It is gone.
    Gone,
    /// It is gone from the tree, but files of it are open.
    InUse,
}

/// Unmounts; where files are open, detaches. What is not mounted is gone.
pub(crate) fn detach(path: &Path) -> io::Result<Detach> {
    match unmount(path, false) {
        Ok(()) => Ok(Detach::Gone),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(Detach::Gone),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            detach_lazily(path)?;
            Ok(Detach::InUse)
        }
        Err(error) => Err(error),
    }
}

/// Takes the mount out of the tree without asking who uses it.
pub(crate) fn detach_lazily(path: &Path) -> io::Result<()> {
    unmount(path, true)
}

fn unmount(path: &Path, lazy: bool) -> io::Result<()> {
    let target = CString::new(path.as_os_str().as_bytes())?;
    let flags = libc::UMOUNT_NOFOLLOW | if lazy { libc::MNT_DETACH } else { 0 };
    // SAFETY: `target` is a string ended by NUL that lives through the call.
    if unsafe { libc::umount2(target.as_ptr(), flags) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::EPERM) { by_helper(path, lazy) } else { Err(error) }
}

/// Ordinary users unmount by the set-user-id helper.
fn by_helper(path: &Path, lazy: bool) -> io::Result<()> {
    let mut command = Command::new("fusermount3");
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    let output = command.arg("--").arg(path).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
    if said.contains("busy") {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    if said.contains("not found") || said.contains("not mounted") {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Err(io::Error::other(said))
}
