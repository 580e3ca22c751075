//! Doors for tests that feed bytes to what is private here. Not part of the interface.
//!
//! They are always built: behind a feature, what is tested would be another build than what ships, and a door that
//! nobody calls leaves nothing in a binary.

use bytes::Bytes;

use crate::codec::wire::Code;
use crate::codec::{self, ChunkRef, Head, Session, StoredReply};
use crate::entry::Entry;
use crate::ids::Epoch;
use crate::keys;
use crate::namespace::inode::{Dirent, Extent, Inode};
use crate::namespace::outcome::Outcome;
use crate::refusal::Refusal;
use crate::site::records::SiteHead;
use crate::site::{Group, Node, Pg, SiteMap, Volume};

/// Everything that the bytes decode as, with the bytes that it encodes to.
pub fn again(bytes: &[u8]) -> Vec<(&'static str, Bytes)> {
    let found = [
        one::<Entry>("entry", bytes),
        one::<Result<Outcome, Refusal>>("reply", bytes),
        one::<Refusal>("refusal", bytes),
        one::<SiteMap>("site map", bytes),
        one::<Head>("head", bytes),
        one::<Session>("session", bytes),
        one::<StoredReply>("stored reply", bytes),
        one::<ChunkRef>("chunk reference", bytes),
        one::<SiteHead>("site head", bytes),
        one::<Node>("node", bytes),
        one::<Group>("group", bytes),
        one::<Volume>("volume", bytes),
        one::<Pg>("placement group", bytes),
        one::<Inode>("inode, bare", bytes),
        one::<Dirent>("name, bare", bytes),
        one::<Extent>("extent, bare", bytes),
        born::<Inode>("inode", bytes),
        born::<Dirent>("name", bytes),
        born::<Extent>("extent", bytes),
        born::<Bytes>("attribute", bytes),
    ];
    found.into_iter().flatten().collect()
}

fn one<T: Code>(what: &'static str, bytes: &[u8]) -> Option<(&'static str, Bytes)> {
    let value: T = codec::decode(bytes).ok()?;
    Some((what, codec::encode(&value)))
}

fn born<T: Code>(what: &'static str, bytes: &[u8]) -> Option<(&'static str, Bytes)> {
    let (epoch, value): (Epoch, T) = codec::decode_born(bytes).ok()?;
    Some((what, codec::encode_born(epoch, &value)))
}

/// Takes the bytes for a key in every way that keys are taken apart.
pub fn take_key_apart(key: &[u8]) {
    // What comes of it says nothing; that it comes back does.
    let _ = keys::two_ids(key);
    let _ = keys::head_volume(key);
    let _ = keys::space_chunk(key);
    if let Ok((_, rest)) = keys::ino_and_rest(key) {
        let _ = keys::extent_rest(rest);
        let _ = keys::name_rest(rest);
    }
}
