//! Faults put in on purpose, to prove that the simulator finds them: one line each where the promise is kept, silent
//! unless chosen. Without the feature `broken` none can be chosen, and what asks for them compiles to nothing.
//!
//! It lies here because every crate that keeps a promise knows this one. Only the simulator switches the feature on.

use std::fmt;
use std::str::FromStr;

macro_rules! variants {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal,)*) => {
        /// A promise that is not kept.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Variant {
            $($(#[doc = $doc])* $name,)*
        }

        impl Variant {
            /// All of them.
            pub const ALL: &'static [Variant] = &[$(Variant::$name),*];

            /// As it is written on the command line of the simulator.
            pub fn name(self) -> &'static str {
                match self {
                    $(Variant::$name => $text,)*
                }
            }
        }
    };
}

variants! {
    /// The log answers before its records are on media.
    LogUnflushed = "log-unflushed",
    /// The chunk store answers before a chunk is on media.
    ChunkUnflushed = "chunk-unflushed",
    /// Whoever believes to lead answers reads without asking the majority.
    ReadAlone = "read-alone",
    /// A snapshot that is installed lacks the replies of sessions.
    RepliesForgotten = "replies-forgotten",
    /// A chunk counts as stored once it is sent, so that its extent may be committed first.
    ExtentFirst = "extent-first",
    /// An extent that is split in two counts as one reference to its chunk.
    SplitUncounted = "split-uncounted",
    /// How far the records have come is written before the records.
    PositionFirst = "position-first",
    /// The log takes a record whose sum is wrong.
    TornTail = "torn-tail",
    /// A node that lost its folder comes back as the replica it was.
    WipedVotes = "wiped-votes",
    /// A log segment is used again under its former salt and number.
    SegmentUnsalted = "segment-unsalted",
    /// A chunk server acknowledges without a lease, though it may have been taken out of its placement group.
    RemovedAcknowledges = "removed-acknowledges",
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Variant {
    type Err = String;

    fn from_str(text: &str) -> Result<Variant, String> {
        let found = Variant::ALL.iter().copied().find(|variant| variant.name() == text);
        found.ok_or_else(|| {
            let names: Vec<&str> = Variant::ALL.iter().map(|variant| variant.name()).collect();
            format!("no such variant; there are {}", names.join(", "))
        })
    }
}

/// Whether this fault is put in.
#[cfg(not(feature = "broken"))]
#[inline(always)]
pub const fn is(_: Variant) -> bool {
    false
}

#[cfg(feature = "broken")]
pub use chosen::{choose, is};

#[cfg(feature = "broken")]
mod chosen {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Variant;

    /// 0 for none, else one above the variant.
    static CHOSEN: AtomicUsize = AtomicUsize::new(0);

    /// Puts a fault into this process, or none.
    pub fn choose(variant: Option<Variant>) {
        CHOSEN.store(variant.map_or(0, |variant| variant as usize + 1), Ordering::Relaxed);
    }

    /// Whether this fault is put in.
    pub fn is(variant: Variant) -> bool {
        CHOSEN.load(Ordering::Relaxed) == variant as usize + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_is_found_by_its_name_and_none_is_put_in() {
        for variant in Variant::ALL {
            assert_eq!(variant.name().parse(), Ok(*variant));
            assert!(!is(*variant));
        }
        assert!("none-such".parse::<Variant>().is_err());
    }
}
