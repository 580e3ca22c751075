//! A subscriber that hashes every event of every crate byte for byte, so that two runs of a seed can be compared, and
//! writes them out when asked.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Id, Level, Metadata, Subscriber, span};

use crate::det;

/// Hash of a run so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// FNV-1a style over all event lines.
    pub hash: u128,
    /// Events.
    pub events: u64,
}

struct State {
    digest: Digest,
    line: String,
    out: Option<std::io::BufWriter<std::fs::File>>,
}

/// Cloning shares it.
#[derive(Clone)]
pub struct Tracer {
    state: Arc<Mutex<State>>,
    spans: Arc<AtomicU64>,
    taken: Level,
}

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a String can't fail.
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}

impl Tracer {
    /// Hashes events up to `taken`, and writes them into `out`, if given.
    ///
    /// # Errors
    /// The file could not be made.
    pub fn new(out: Option<&Path>, taken: Level) -> std::io::Result<Tracer> {
        let out = out.map(std::fs::File::create).transpose()?.map(std::io::BufWriter::new);
        let digest = Digest { hash: 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, events: 0 };
        let state = State { digest, line: String::new(), out };
        Ok(Tracer { state: Arc::new(Mutex::new(state)), spans: Arc::new(AtomicU64::new(1)), taken })
    }

    /// What was hashed so far. Also flushes the file.
    pub fn digest(&self) -> Digest {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(out) = &mut state.out {
            // A trace that can't be written is missed by who reads it, not by the run.
            let _ = out.flush();
        }
        state.digest
    }
}

impl Subscriber for Tracer {
    fn enabled(&self, meta: &Metadata<'_>) -> bool {
        *meta.level() <= self.taken
    }
    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.taken))
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> Id {
        Id::from_u64(self.spans.fetch_add(1, Ordering::Relaxed))
    }
    fn record(&self, _: &Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *guard;
        let meta = event.metadata();
        state.line.clear();
        // Writing to a String can't fail.
        let _ = write!(state.line, "{:>12} {} {}", det::now() / 1000, meta.level(), meta.target());
        event.record(&mut Fields(&mut state.line));
        state.line.push('\n');
        let mut hash = state.digest.hash;
        for piece in state.line.as_bytes().chunks(8) {
            let mut word = [0u8; 8];
            word[..piece.len()].copy_from_slice(piece);
            hash = (hash ^ u128::from(u64::from_le_bytes(word))).wrapping_mul(0x0100_0000_0000_0000_0000_013b);
            hash ^= hash >> 61;
        }
        state.digest = Digest { hash, events: state.digest.events + 1 };
        if let Some(out) = &mut state.out {
            // As in `digest`.
            let _ = out.write_all(state.line.as_bytes());
        }
    }
}
