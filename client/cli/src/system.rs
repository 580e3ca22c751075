//! What is asked of the operating system directly: the only unsafe code of the binary.

use weft_client::Cred;

/// Tells glibc's allocator to keep big buffers. Messages of a megabyte and more come and go all the time; taking fresh
/// pages from the kernel for each costs more than copying their bytes (docs/decisions/0006).
pub(crate) fn keep_big_buffers() {
    #[cfg(target_env = "gnu")]
    {
        /// Blocks up to this come from the heap; where a version of the library thinks that too high, up to 32 MiB.
        const FROM_HEAP: i32 = 256 << 20;
        const FROM_HEAP_AT_LEAST: i32 = 32 << 20;
        /// Free memory at the heap's end that is kept.
        const KEPT: i32 = 256 << 20;
        const ARENAS: i32 = 2;
        // SAFETY: mallopt only sets numbers inside the allocator; no other thread runs yet.
        unsafe {
            if libc::mallopt(libc::M_MMAP_THRESHOLD, FROM_HEAP) == 0 {
                libc::mallopt(libc::M_MMAP_THRESHOLD, FROM_HEAP_AT_LEAST);
            }
            libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
            libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        }
    }
}

/// Raises the limit of open files as far as allowed without asking anybody: stores and connections need many.
pub(crate) fn raise_open_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live value of the right type, and both calls only read or fill it.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            // Refused only under odd policies; then the old limit holds.
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

/// Who runs this process: on whose behalf requests are made.
pub(crate) fn cred() -> Cred {
    let mut gids = vec![0; 1024];
    // SAFETY: getgroups fills at most as many groups as it is told there is room for; the others take and give numbers.
    let (uid, gid, held) =
        unsafe { (libc::geteuid(), libc::getegid(), libc::getgroups(gids.len() as libc::c_int, gids.as_mut_ptr())) };
    gids.truncate(usize::try_from(held).unwrap_or(0));
    Cred { uid, gid, gids, pid: std::process::id(), ..Cred::default() }
}

/// The bits that new files of this process must not have.
pub(crate) fn umask() -> u16 {
    // SAFETY: umask takes and gives numbers. Nobody else makes files at this moment: called once, at the start of a
    // command.
    let mask = unsafe {
        let mask = libc::umask(0o022);
        libc::umask(mask);
        mask
    };
    (mask & 0o777) as u16
}

/// Leaves the terminal's session, so that closing the terminal does not end this process.
pub(crate) fn leave_session() {
    // SAFETY: setsid takes nothing and gives a number. It fails only where this is done already.
    unsafe { libc::setsid() };
}

/// How many processors this process may use.
pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Asks a process to end (SIGTERM).
pub(crate) fn terminate(pid: u32) {
    // SAFETY: kill takes and gives numbers. The pid is of a child that was not waited for, so it names nobody else.
    unsafe { libc::kill(pid as libc::pid_t, libc::SIGTERM) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn knows_who_runs_it() {
        let cred = cred();
        let own = std::fs::metadata("/proc/self").unwrap();
        assert_eq!((cred.uid, cred.gid), (own.uid(), own.gid()));
        assert_eq!(cred.pid, std::process::id());
    }
}
