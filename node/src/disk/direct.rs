//! Long writes past the page cache.
//!
//! A chunk of megabytes goes from the network to the disk and is seldom read at once. Through the page cache each of its
//! pages is taken, copied into, and written out again, which costs a node several times what all its other work on the
//! chunk does. So long runs are copied into one small buffer that is used again and again, and go to the device from
//! there. The file's other writes stay in the page cache; the kernel keeps both ways of one file in agreement.
//!
//! Nothing is durable by this alone: the device may still hold it in its own cache, and the file system may not have
//! recorded where it lies. A flush of the file follows, as after any other write.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

/// Where writes begin and end, and the buffer in memory: every common device takes this.
const ALIGN: usize = 4096;
/// Bytes of the buffer: it stays in the processor's cache.
const ROOM: usize = 1 << 20;
/// Shorter runs go through the page cache: they are cheap there, and what is small is often read soon.
const SHORTEST: u64 = 256 << 10;

/// The way past the page cache of one file, opened when it is first of use.
pub(super) enum Direct {
    /// Not tried yet.
    Untried,
    /// Open, with a buffer and where in it the aligned part begins.
    Open(File, Vec<u8>, usize),
    /// The file system or the device does not have it.
    No,
}

impl Direct {
    /// Whether a run should be written this way.
    pub(super) fn suits(&self, offset: u64, len: u64) -> bool {
        let aligned = |number: u64| number.is_multiple_of(ALIGN as u64);
        !matches!(self, Direct::No) && len >= SHORTEST && aligned(offset) && aligned(len)
    }

    /// Writes `parts` one behind the other from `at`, a run that [suits](Direct::suits). False: this way is closed, and
    /// the whole run must be written the other.
    ///
    /// # Errors
    /// The disk failed, or is full.
    pub(super) fn write<'a>(
        &mut self,
        file: &File,
        parts: impl Iterator<Item = &'a [u8]>,
        mut at: u64,
    ) -> io::Result<bool> {
        if matches!(self, Direct::Untried) {
            *self = Direct::open(file);
        }
        let Direct::Open(file, buffer, start) = self else { return Ok(false) };
        let room = &mut buffer[*start..*start + ROOM];
        let mut filled = 0;
        let mut put = |bytes: &[u8]| file.write_all_at(bytes, at).map(|()| at += bytes.len() as u64);
        let mut written = Ok(());
        'parts: for mut part in parts {
            while !part.is_empty() {
                let (now, later) = part.split_at(part.len().min(ROOM - filled));
                room[filled..filled + now.len()].copy_from_slice(now);
                (part, filled) = (later, filled + now.len());
                if filled == ROOM {
                    written = put(room);
                    filled = 0;
                    if written.is_err() {
                        break 'parts;
                    }
                }
            }
        }
        if written.is_ok() && filled > 0 {
            written = put(&room[..filled]);
        }
        match written {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
                tracing::debug!(%error, "no writes past the page cache");
                *self = Direct::No;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn open(file: &File) -> Direct {
        // By its descriptor, since the file may have another name by now.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        match OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path) {
            Ok(file) => {
                let buffer = vec![0; ROOM + ALIGN];
                let start = buffer.as_ptr().align_offset(ALIGN);
                Direct::Open(file, buffer, start.min(ALIGN))
            }
            Err(error) => {
                tracing::debug!(%error, "no writes past the page cache");
                Direct::No
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_and_aligned_runs_go_this_way() {
        let direct = Direct::Untried;
        assert!(direct.suits(0, SHORTEST) && direct.suits(8192, 5 << 20));
        assert!(!direct.suits(0, SHORTEST - 4096), "short");
        assert!(!direct.suits(512, SHORTEST) && !direct.suits(0, SHORTEST + 512), "not aligned");
        assert!(!Direct::No.suits(0, SHORTEST));
    }

    #[test]
    fn what_is_written_is_what_is_read_through_the_page_cache() {
        let folder = tempfile::tempdir().unwrap();
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(folder.path().join("f")).unwrap();
        let bytes: Vec<u8> = (0..ROOM * 2 + 8 * ALIGN).map(|at| (at / 7 % 251) as u8).collect();
        file.write_all_at(&[9; 3 * ALIGN], 0).unwrap();
        let mut direct = Direct::Untried;
        // Parts that begin and end anywhere.
        let parts = [&bytes[..1], &bytes[1..70_001], &[], &bytes[70_001..ROOM + 5], &bytes[ROOM + 5..]];
        if !direct.write(&file, parts.into_iter(), ALIGN as u64).unwrap() {
            return;
        }
        let mut read = vec![0; bytes.len() + ALIGN];
        file.read_exact_at(&mut read, 0).unwrap();
        assert!(read[..ALIGN].iter().all(|byte| *byte == 9), "what lies before stays");
        assert!(read[ALIGN..] == bytes[..]);
        let rest = file.metadata().unwrap().len();
        assert_eq!(rest, (bytes.len() + ALIGN) as u64, "nothing is written behind it");
    }

    #[test]
    fn a_file_that_cannot_be_opened_so_is_written_the_other_way() {
        let (_reader, pipe) = io::pipe().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(pipe));
        let mut direct = Direct::Untried;
        let bytes = vec![1; SHORTEST as usize];
        assert!(matches!(direct.write(&file, [&bytes[..]].into_iter(), 0), Ok(false) | Err(_)));
    }
}
