//! Every stored value begins with a sum over its key and bytes, so that damage below a store is an error and never an
//! answer: some stores open garbled files without a word.

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

/// A value as it is stored.
pub(super) fn seal(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(SUM + value.len());
    out.extend_from_slice(&sum(key, value));
    out.extend_from_slice(value);
    out
}

/// The value of what was stored under `key`.
pub(super) fn unseal(key: &[u8], stored: &[u8]) -> Result<Bytes, ViewError> {
    match stored.split_first_chunk::<SUM>() {
        Some((found, value)) if *found == sum(key, value) => Ok(Bytes::copy_from_slice(value)),
        _ => Err(ViewError(format!("the record of key {} is damaged", key.escape_ascii()))),
    }
}
