//! Bytes of records, commands and what is sent between replicas.
//!
//! Every encoded value opens with a version byte. Integers are big-endian and of fixed width, lists and byte strings
//! carry a 32-bit count, enums a tag byte that is never used again for something else. Decoding takes any bytes: it
//! answers with an error rather than panic, and reserves no more memory than the input could fill.
//!
//! One file per kind of value: `wire` the reader, the writer and the trait between them, `command`, `record`,
//! `reply`, `site` what is written with them.

mod command;
mod record;
mod reply;
mod site;
mod trust;
pub(crate) mod wire;

use bytes::Bytes;

pub(crate) use record::{ChunkRef, Head, Lease, Session, StoredReply};
pub use wire::CodecError;
use wire::{Code, Reader, Writer};

use crate::entry::Entry;
use crate::ids::Epoch;
use crate::namespace::lease::Held;
use crate::namespace::outcome::Outcome;
use crate::refusal::Refusal;
use crate::site::SiteMap;
use crate::site::trust::TrustNews;

/// The version that this code writes. Lower ones stay readable.
pub const VERSION: u8 = 1;

/// Bytes of a log entry.
pub fn encode_entry(entry: &Entry) -> Bytes {
    encode(entry)
}

/// A log entry from its bytes.
///
/// # Errors
/// [`CodecError`] for bytes that no [`encode_entry`] wrote.
pub fn decode_entry(bytes: &[u8]) -> Result<Entry, CodecError> {
    decode(bytes)
}

/// Bytes of what came of an entry.
pub fn encode_reply(reply: &Result<Outcome, Refusal>) -> Bytes {
    encode(reply)
}

/// What came of an entry, from its bytes.
///
/// # Errors
/// [`CodecError`] for bytes that no [`encode_reply`] wrote.
pub fn decode_reply(bytes: &[u8]) -> Result<Result<Outcome, Refusal>, CodecError> {
    decode(bytes)
}

/// Bytes of a refusal, for the details of a status.
pub fn encode_refusal(refusal: &Refusal) -> Bytes {
    encode(refusal)
}

/// A refusal from its bytes.
///
/// # Errors
/// [`CodecError`] for bytes that no [`encode_refusal`] wrote.
pub fn decode_refusal(bytes: &[u8]) -> Result<Refusal, CodecError> {
    decode(bytes)
}

/// Bytes of held-back changes.
pub fn encode_held(items: &Vec<Held>) -> Bytes {
    encode(items)
}

/// Held-back changes from their bytes.
///
/// # Errors
/// [`CodecError`] for bytes that no [`encode_held`] wrote.
pub fn decode_held(bytes: &[u8]) -> Result<Vec<Held>, CodecError> {
    decode(bytes)
}

/// Bytes of what was refused of held-back changes.
pub fn encode_refused(refused: &Vec<(u32, Refusal)>) -> Bytes {
    encode(refused)
}

/// What was refused of held-back changes, from its bytes.
///
/// # Errors
/// [`CodecError`] for bytes that no [`encode_refused`] wrote.
pub fn decode_refused(bytes: &[u8]) -> Result<Vec<(u32, Refusal)>, CodecError> {
    decode(bytes)
}

/// Bytes of a site map.
pub fn encode_sitemap(map: &SiteMap) -> Bytes {
    encode(map)
}

/// A site map from its bytes.
///
/// # Errors
/// [`CodecError`] for bytes that no [`encode_sitemap`] wrote.
pub fn decode_sitemap(bytes: &[u8]) -> Result<SiteMap, CodecError> {
    decode(bytes)
}

/// Bytes of what every node knows of trust.
pub fn encode_trust(news: &TrustNews) -> Bytes {
    encode(news)
}

/// What every node knows of trust, from its bytes.
///
/// # Errors
/// [`CodecError`] for bytes that no [`encode_trust`] wrote.
pub fn decode_trust(bytes: &[u8]) -> Result<TrustNews, CodecError> {
    decode(bytes)
}

/// Version byte and body.
pub(crate) fn encode<T: Code>(value: &T) -> Bytes {
    let mut out = Writer::new();
    out.u8(VERSION);
    value.put(&mut out);
    out.finish()
}

/// What [`encode`] wrote, and nothing after it.
pub(crate) fn decode<T: Code>(bytes: &[u8]) -> Result<T, CodecError> {
    let mut from = Reader::new(bytes);
    version(&mut from)?;
    let value = T::take(&mut from)?;
    from.end()?;
    Ok(value)
}

/// A record of a volume: version byte, birth epoch, body.
pub(crate) fn encode_born<T: Code>(born: Epoch, value: &T) -> Bytes {
    let mut out = Writer::new();
    out.u8(VERSION);
    born.put(&mut out);
    value.put(&mut out);
    out.finish()
}

/// What [`encode_born`] wrote.
pub(crate) fn decode_born<T: Code>(bytes: &[u8]) -> Result<(Epoch, T), CodecError> {
    let mut from = Reader::new(bytes);
    version(&mut from)?;
    let born = Epoch::take(&mut from)?;
    let value = T::take(&mut from)?;
    from.end()?;
    Ok((born, value))
}

fn version(from: &mut Reader<'_>) -> Result<(), CodecError> {
    match from.u8()? {
        VERSION => Ok(()),
        found => Err(CodecError::Version { found, known: VERSION }),
    }
}

#[cfg(test)]
mod tests;
