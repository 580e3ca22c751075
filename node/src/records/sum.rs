//! Every stored value carries a CRC-32 over its key and itself, so that rot, and a value under another's key, is found
//! by whoever reads it.

use bytes::Bytes;
use weft_core::view::ViewError;

const SUM: usize = 4;

fn sum(key: &[u8], value: &[u8]) -> [u8; SUM] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(key.len() as u64).to_be_bytes());
    hasher.update(key);
    hasher.update(value);
    hasher.finalize().to_be_bytes()
}

/// The value as it is stored.
pub(super) fn seal(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(SUM + value.len());
    sealed.extend_from_slice(&sum(key, value));
    sealed.extend_from_slice(value);
    sealed
}

/// The value as it was given.
pub(super) fn open(key: &[u8], stored: &[u8]) -> Result<Bytes, ViewError> {
    match stored.split_first_chunk::<SUM>() {
        Some((found, value)) if *found == sum(key, value) => Ok(Bytes::copy_from_slice(value)),
        _ => Err(ViewError(format!("the value of key {} does not match its sum", Hex(key)))),
    }
}

struct Hex<'a>(&'a [u8]);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
