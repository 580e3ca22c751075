//! Small harm to bytes, by a seed.

use rand::Rng;
use rand::rngs::SmallRng;

/// Longest bytes made.
const MOST: usize = 16 << 10;

/// Harms `bytes` in one to four ways; `other` is something to splice in.
pub fn mutate(rng: &mut SmallRng, bytes: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..rng.random_range(1..=4) {
        let at = rng.random_range(0..=bytes.len());
        let end = (at + rng.random_range(0..=16usize)).min(bytes.len());
        match rng.random_range(0..9u32) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.random_range(0..5)],
            2 if at < bytes.len() => bytes[at] = rng.random(),
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..end)),
            5 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            6 => {
                let from = rng.random_range(0..=other.len());
                let to = (from + rng.random_range(0..=64usize)).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            7 => {
                // A number where one may be, at the ends of its range.
                let number = [0u64, 1, u64::MAX, 1 << 31, 1 << 40, 1 << 50, 4096, 1 << 22][rng.random_range(0..8)];
                let width = [2, 4, 8][rng.random_range(0..3usize)];
                let end = (at + width).min(bytes.len());
                bytes.splice(at..end, number.to_be_bytes()[8 - width..].iter().copied());
            }
            _ => bytes.push(rng.random()),
        }
    }
    bytes.truncate(MOST);
}
