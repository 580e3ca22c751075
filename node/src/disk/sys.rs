//! The system calls that std lacks, each in a safe wrapper.

use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::parts::Space;

/// Slices one vectored call may take (`IOV_MAX` on Linux).
pub(super) const MAX_SLICES: usize = 1024;

fn offset_of(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

fn counted(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Reads what is in the page cache, without waiting for the disk: `WouldBlock` if nothing of it is.
pub(super) fn read_cached(file: &File, buffer: &mut [MaybeUninit<u8>], offset: u64) -> io::Result<usize> {
    let slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: the one slice is `buffer`, valid and exclusively borrowed for the call; the kernel only writes into it.
    counted(unsafe { libc::preadv2(file.as_raw_fd(), &slice, 1, offset_of(offset)?, libc::RWF_NOWAIT) })
}

/// Reads once, waiting for the disk.
pub(super) fn read_once(file: &File, buffer: &mut [MaybeUninit<u8>], offset: u64) -> io::Result<usize> {
    // SAFETY: `buffer` is valid and exclusively borrowed for the call; the kernel only writes into it.
    counted(unsafe { libc::pread(file.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), offset_of(offset)?) })
}

/// Has the kernel begin to fetch a span into the page cache. Advice: where it can't, reading works as ever.
pub(super) fn will_read(file: &File, offset: u64, len: u64) {
    if let (Ok(offset), Ok(len)) = (offset_of(offset), offset_of(len)) {
        // SAFETY: plain integers and an open descriptor.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), offset, len, libc::POSIX_FADV_WILLNEED) };
    }
}

/// Writes once, at most [`MAX_SLICES`] slices; with `durable`, what was written is on media when it returns.
pub(super) fn write_once(file: &File, slices: &[IoSlice<'_>], offset: u64, durable: bool) -> io::Result<usize> {
    let count = slices.len().min(MAX_SLICES) as libc::c_int;
    let flags = if durable { libc::RWF_DSYNC } else { 0 };
    // SAFETY: `IoSlice` has the layout of `iovec`, and the slices borrow valid bytes for the whole call.
    counted(unsafe { libc::pwritev2(file.as_raw_fd(), slices.as_ptr().cast(), count, offset_of(offset)?, flags) })
}

/// Takes a span's room from the file system without writing it; the file is at least as long as its end then.
pub(super) fn reserve(file: &File, offset: u64, len: u64) -> io::Result<()> {
    // SAFETY: plain integers and an open descriptor.
    let result = unsafe { libc::fallocate(file.as_raw_fd(), 0, offset_of(offset)?, offset_of(len)?) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives a span's space back to the file system.
pub(super) fn punch(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: plain integers and an open descriptor.
    let result = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset_of(offset)?, offset_of(len)?) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Size and free bytes of the file system that holds `path`.
pub(super) fn space(path: &Path) -> io::Result<Space> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let mut stat = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: `path` ends with NUL and `stat` is large enough for what the call fills in.
    if unsafe { libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded and filled it; it was zeroed before, and every bit pattern is valid.
    let stat = unsafe { stat.assume_init() };
    Ok(Space { total_bytes: stat.f_blocks * stat.f_frsize, free_bytes: stat.f_bavail * stat.f_frsize })
}
