//! Round trips of every type with bytes, whatever bytes come in, and the fixtures of released versions.

use std::fmt::Debug;

use bytes::Bytes;
use proptest::prelude::*;

use super::wire::{Code, CodecError};
use super::{ChunkRef, Head, Lease, Session, StoredReply, VERSION, decode, decode_born, encode, encode_born};
use crate::entry::{Command, Entry};
use crate::ids::Epoch;
use crate::namespace::inode::{Dirent, Extent, ExtentBody, Inode};
use crate::namespace::op::Op;
use crate::namespace::outcome::Outcome;
use crate::namespace::step::Step;
use crate::refusal::Refusal;
use crate::site::records::SiteHead;
use crate::site::trust::{Token, TrustCommand, TrustNews, TrustRecord, User};
use crate::site::{Group, Node, Pg, PgPast, SiteCommand, SiteMap, Volume};

/// Numbers that follow from a seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Small, large and the ends of the range alike.
    pub(crate) fn number(&mut self) -> u64 {
        match self.below(5) {
            0 => 0,
            1 => u64::MAX,
            2 => self.below(256),
            _ => self.next(),
        }
    }

    pub(crate) fn bytes(&mut self, most: u64) -> Bytes {
        (0..self.below(most + 1)).map(|_| self.next() as u8).collect()
    }
}

/// Every entry: each command, each operation, step and site command.
fn entries(dice: &mut Dice) -> Vec<Entry> {
    let mut commands = Command::each(dice);
    commands.extend(Op::each(dice).into_iter().map(|op| Command::Op { volume: Code::any(dice), op }));
    commands.extend(Step::each(dice).into_iter().map(Command::Step));
    commands.extend(SiteCommand::each(dice).into_iter().map(Command::Site));
    commands.into_iter().map(|command| Entry { time: Code::any(dice), caller: Code::any(dice), command }).collect()
}

fn round_trips<T: Code + PartialEq + Debug>(values: &[T]) {
    for value in values {
        let bytes = encode(value);
        assert_eq!(decode::<T>(&bytes).as_ref(), Ok(value));
        for cut in 0..bytes.len() {
            assert!(decode::<T>(&bytes[..cut]).is_err(), "{value:?} decodes from its first {cut} bytes");
        }
        let more = [&bytes[..], &[0]].concat();
        assert_eq!(decode::<T>(&more), Err(CodecError::Trailing(1)));
    }
}

/// Whatever decodes is what its bytes say and nothing else, so no two byte strings mean the same.
fn is_canonical<T: Code>(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(value) = decode::<T>(bytes) {
        prop_assert_eq!(&encode(&value)[..], bytes);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_value_comes_back(seed: u64) {
        let dice = &mut Dice::new(seed);
        round_trips(&entries(dice));
        round_trips(&<Result<Outcome, Refusal>>::each(dice));
        round_trips(&Refusal::each(dice));
        round_trips(&[SiteMap::any(dice)]);
        round_trips(&TrustCommand::each(dice));
        round_trips(&[TrustNews::any(dice)]);
        round_trips(&[TrustRecord::any(dice)]);
        round_trips(&[User::any(dice)]);
        round_trips(&[Token::any(dice)]);
        round_trips(&[Head::any(dice)]);
        round_trips(&[Session::any(dice)]);
        round_trips(&[StoredReply::any(dice)]);
        round_trips(&[ChunkRef::any(dice)]);
        round_trips(&[Lease::any(dice)]);
        round_trips(&[SiteHead::any(dice)]);
        round_trips(&[Inode::any(dice)]);
        round_trips(&Dirent::each(dice));
        round_trips(&[Extent::any(dice)]);
        let (epoch, inode) = (Epoch::any(dice), Inode::any(dice));
        prop_assert_eq!(decode_born(&encode_born(epoch, &inode)), Ok((epoch, inode)));
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(seed: u64, flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let dice = &mut Dice::new(seed);
        let garble = |bytes: Bytes| {
            let mut bytes = bytes.to_vec();
            for (at, byte) in &flips {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            bytes
        };
        is_canonical::<Entry>(&garble(encode(&Entry::any(dice))))?;
        is_canonical::<SiteMap>(&garble(encode(&SiteMap::any(dice))))?;
        is_canonical::<Result<Outcome, Refusal>>(&garble(encode(&<Result<Outcome, Refusal>>::any(dice))))?;
        is_canonical::<Inode>(&garble(encode(&Inode::any(dice))))?;
        let versioned = [&[VERSION], &noise[..]].concat();
        is_canonical::<Entry>(&versioned)?;
        is_canonical::<Result<Outcome, Refusal>>(&versioned)?;
        is_canonical::<SiteMap>(&versioned)?;
        is_canonical::<Refusal>(&noise)?;
    }
}

#[test]
fn another_version_is_told_as_such() {
    let mut bytes = encode(&Refusal::NoEntry).to_vec();
    bytes[0] = VERSION + 1;
    assert_eq!(decode::<Refusal>(&bytes), Err(CodecError::Version { found: VERSION + 1, known: VERSION }));
}

#[test]
fn a_count_beyond_the_bytes_reserves_nothing() {
    let bytes = [&[VERSION][..], &u32::MAX.to_be_bytes(), &[0; 16]].concat();
    assert_eq!(decode::<Vec<u64>>(&bytes), Err(CodecError::Short));
    assert_eq!(decode::<Bytes>(&bytes), Err(CodecError::Short));
}

/// Fixtures: a line of hex and a line of what it means, for every kind of value. They are never changed, only added
/// to: what was written once must be read for ever.
mod fixtures {
    use super::*;

    const ENTRIES: &str = include_str!("../../fixtures/v1/entries.txt");
    const REPLIES: &str = include_str!("../../fixtures/v1/replies.txt");
    const SITE: &str = include_str!("../../fixtures/v1/site.txt");
    const RECORDS: &str = include_str!("../../fixtures/v1/records.txt");

    #[test]
    fn entries_read_as_ever() {
        check::<Entry>(ENTRIES, 30);
    }

    #[test]
    fn replies_read_as_ever() {
        check::<Result<Outcome, Refusal>>(REPLIES, 50);
    }

    #[test]
    fn site_maps_read_as_ever() {
        check::<SiteMap>(SITE, 3);
    }

    #[test]
    fn records_read_as_ever() {
        let mut parts = RECORDS.split("\n\n");
        let mut part = || parts.next().expect("one part for each kind of record");
        check::<Head>(part(), 1);
        check::<Session>(part(), 1);
        check::<StoredReply>(part(), 1);
        check::<ChunkRef>(part(), 1);
        check::<SiteHead>(part(), 1);
        check::<Inode>(part(), 1);
        check::<Dirent>(part(), 2);
        check::<Extent>(part(), 3);
        check::<Node>(part(), 1);
        check::<Group>(part(), 1);
        check::<Volume>(part(), 1);
        check::<Pg>(part(), 1);
        check::<PgPast>(part(), 1);
    }

    fn check<T: Code + Debug>(text: &str, at_least: usize) {
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        assert!(lines.len() / 2 >= at_least, "fixtures are missing");
        for pair in lines.chunks(2) {
            let hex = pair[0].as_bytes().chunks(2).map(|digits| {
                let digits = std::str::from_utf8(digits).expect("hex digits are ASCII");
                u8::from_str_radix(digits, 16).expect("hex digits")
            });
            let bytes: Vec<u8> = hex.collect();
            let value = decode::<T>(&bytes).unwrap_or_else(|err| panic!("{err}: {}", pair[1]));
            assert_eq!(format!("{value:?}"), pair[1]);
            assert_eq!(&encode(&value)[..], &bytes[..]);
        }
    }

    /// Writes the fixtures of a new version: `cargo test -p weft-core -- --ignored write_fixtures`.
    #[test]
    #[ignore = "writes into the source tree"]
    #[allow(clippy::disallowed_methods, reason = "a tool for whoever adds a version, never part of a test run")]
    fn write_fixtures() {
        let dice = &mut Dice::new(1);
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/v1");
        let write = |name: &str, text: String| std::fs::write(format!("{dir}/{name}"), text).expect("fixtures written");
        write("entries.txt", text(&entries(dice)));
        write("replies.txt", text(&<Result<Outcome, Refusal>>::each(dice)));
        write("site.txt", text(&[SiteMap::default(), SiteMap::any(dice), SiteMap::any(dice)]));
        let records = [
            text(&[Head::any(dice)]),
            text(&[Session::any(dice)]),
            text(&[StoredReply::any(dice)]),
            text(&[ChunkRef::any(dice)]),
            text(&[SiteHead::any(dice)]),
            text(&[Inode::any(dice)]),
            text(&Dirent::each(dice)),
            text(&extents(dice)),
            text(&[Node::any(dice)]),
            text(&[Group::any(dice)]),
            text(&[Volume::any(dice)]),
            text(&[Pg::any(dice)]),
            text(&[PgPast::any(dice)]),
        ];
        write("records.txt", records.join("\n"));
    }

    fn extents(dice: &mut Dice) -> Vec<Extent> {
        let bodies = ExtentBody::each(dice).into_iter();
        bodies.map(|body| Extent { offset: Code::any(dice), len: Code::any(dice), body }).collect()
    }

    fn text<T: Code + Debug>(values: &[T]) -> String {
        let hex = |value: &T| encode(value).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        values.iter().map(|value| format!("{}\n{value:?}\n", hex(value))).collect()
    }
}
