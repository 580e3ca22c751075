//! What tests do to the files of a node, and look up of its process.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rand::Rng;
use rand::rngs::SmallRng;

/// Flips so many bits among what was written to the files below a folder.
///
/// # Panics
/// A file can't be read or written, or there is none with anything in it.
pub fn flip(folder: &Path, times: usize, rng: &mut SmallRng) {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("list a folder") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => folders.push(path),
                false => files.push(path),
            }
        }
    }
    // The order of a folder is by chance.
    files.sort();
    let mut flipped = 0;
    for _ in 0..times * 10_000 {
        let file = File::options().read(true).write(true).open(&files[rng.random_range(0..files.len())]);
        let file = file.expect("open a file");
        let len = file.metadata().expect("its length").len();
        if len == 0 {
            continue;
        }
        let at = rng.random_range(0..len);
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("read a byte");
        // Where nothing was written nothing rots.
        if byte[0] != 0 {
            byte[0] ^= 1 << rng.random_range(0..8);
            file.write_all_at(&byte, at).expect("flip a bit");
            flipped += 1;
            if flipped == times {
                return;
            }
        }
    }
    panic!("{} of {times} bits flipped below {}: too little was written there", flipped, folder.display());
}

/// What a process takes of memory, and what it took at the most, in bytes.
///
/// # Panics
/// There is no such process.
pub fn resident(pid: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel tells it");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    };
    (field("VmRSS:"), field("VmHWM:"))
}
