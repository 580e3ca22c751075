//! One file under random operations, against an array of bytes: what fsx does.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use crate::Rig;

/// A shared mapping of a file.
pub(crate) struct Mapped {
    at: *mut libc::c_void,
    len: usize,
}

impl Mapped {
    pub(crate) fn new(file: &File, len: usize) -> Mapped {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping of an open descriptor, at an address that the kernel chooses.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, access, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        assert_ne!(at, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        Mapped { at, len }
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping has `len` bytes, lives as long as `self`, and nobody else has a reference into it.
        unsafe { std::slice::from_raw_parts_mut(self.at.cast(), self.len) }
    }

    pub(crate) fn sync(&mut self) {
        // SAFETY: the mapping is ours.
        assert_eq!(unsafe { libc::msync(self.at, self.len, libc::MS_SYNC) }, 0);
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.at, self.len) };
    }
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.roll() % limit as u64) as usize
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.roll().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

fn fallocate(file: &File, mode: i32, at: usize, len: usize) {
    // SAFETY: the descriptor is open; the call touches no memory of ours.
    let done = unsafe { libc::fallocate(file.as_raw_fd(), mode, at as i64, len as i64) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

fn grow(model: &mut Vec<u8>, len: usize) {
    if model.len() < len {
        model.resize(len, 0);
    }
}

fn check(file: &File, model: &[u8], after: &str) {
    let mut found = vec![0; model.len() + 1];
    let mut len = 0;
    while let Ok(more @ 1..) = file.read_at(&mut found[len..], len as u64) {
        len += more;
    }
    assert_eq!(file.metadata().unwrap().len(), model.len() as u64, "{after}");
    assert_eq!(len, model.len(), "{after}");
    if let Some(at) = (0..len).find(|at| found[*at] != model[*at]) {
        panic!("{after}: byte {at} of {len} is {} instead of {}", found[at], model[at]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_an_array_of_bytes() {
    let Some(rig) = Rig::start(1).await else { return };
    let path = rig.path(0).join("file");
    let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
    for seed in 0..12 {
        let mut dice = Dice(seed);
        let most = [20_000, 300_000, 9 << 20][seed as usize % 3];
        let mut file = open();
        file.set_len(0).unwrap();
        let mut model: Vec<u8> = Vec::new();
        for step in 0..120 {
            let at = dice.below(most);
            let largest = [100, 5000, 70_000, 2 << 20][dice.below(4)].min(most / 4);
            let len = 1 + dice.below(largest);
            let kind = dice.below(14);
            let after = format!("seed {seed} step {step} kind {kind} at {at} len {len}");
            match kind {
                0..=2 => {
                    let bytes = dice.bytes(len);
                    grow(&mut model, at + len);
                    model[at..at + len].copy_from_slice(&bytes);
                    file.write_all_at(&bytes, at as u64).unwrap();
                }
                3 | 4 => {
                    let mut bytes = vec![0; len];
                    let got = file.read_at(&mut bytes, at as u64).unwrap();
                    let wanted = &model[at.min(model.len())..(at + len).min(model.len())];
                    assert!(bytes[..got] == *wanted, "{after}");
                }
                5 => {
                    model.resize(at, 0);
                    file.set_len(at as u64).unwrap();
                }
                6 if !model.is_empty() => {
                    let at = at % model.len();
                    let end = (at + len).min(model.len());
                    let bytes = dice.bytes(end - at);
                    let mut mapped = Mapped::new(&file, model.len());
                    assert!(mapped.bytes()[at..end] == model[at..end], "{after}");
                    mapped.bytes()[at..end].copy_from_slice(&bytes);
                    model[at..end].copy_from_slice(&bytes);
                    if dice.below(2) == 0 {
                        mapped.sync();
                    }
                }
                7 => {
                    let end = (at + len).min(model.len());
                    if at < end {
                        model[at..end].fill(0);
                    }
                    fallocate(&file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, at, len);
                }
                8 => {
                    grow(&mut model, at + len);
                    model[at..at + len].fill(0);
                    fallocate(&file, libc::FALLOC_FL_ZERO_RANGE, at, len);
                }
                9 => {
                    grow(&mut model, at + len);
                    fallocate(&file, 0, at, len);
                }
                10 => file.sync_all().unwrap(),
                11 => {
                    drop(file);
                    file = open();
                }
                12 => {
                    let bytes = dice.bytes(len.min(1000));
                    let mut appending = OpenOptions::new().append(true).open(&path).unwrap();
                    appending.write_all(&bytes).unwrap();
                    model.extend_from_slice(&bytes);
                }
                _ => check(&file, &model, &after),
            }
        }
        check(&file, &model, &format!("seed {seed}, at the end"));
        drop(file);
        check(&open(), &model, &format!("seed {seed}, opened again"));
    }
    rig.stop().await;
}
