//! The values below a file against a map from offset to byte: whatever is written, cut, uploaded, committed or put back,
//! a reader sees the last byte written.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use weft_core::ids::{ChunkId, ClientId, PgId};
use weft_core::limits::{MAX_CHUNK, MAX_COMMIT_EXTENTS, MAX_INLINE};
use weft_core::namespace::inode::{Extent, ExtentBody};
use weft_core::span::Span;

use super::dirty::{Dirty, Source, Upload};
use super::map::Map;
use super::plan;
use crate::chunks::{Naming, Place, Stored};

#[derive(Clone, Debug)]
enum Step {
    Write {
        offset: u64,
        len: u64,
        fill: u8,
    },
    Cut {
        size: u64,
    },
    /// Begins to upload the n-th run.
    Upload {
        run: usize,
    },
    /// Begins to upload all runs together, as under pressure.
    Pack,
    /// The oldest upload ends.
    Uploaded {
        well: bool,
    },
    /// Seals what is small, takes what is ready, and commits it or puts it back after other writes.
    Commit {
        well: bool,
        meanwhile: Vec<(u64, u64, u8)>,
    },
}

/// Offsets around the multiples of a chunk, where the boundaries are.
fn offset() -> impl Strategy<Value = u64> {
    (1u64..3, 0u64..20_000).prop_map(|(chunk, at)| chunk * u64::from(MAX_CHUNK) - 10_000 + at)
}

/// What is looked at: the surroundings of two boundaries.
fn window(which: usize) -> Span {
    let start = (which as u64 + 1) * u64::from(MAX_CHUNK) - 12_000;
    Span { start, end: start + 40_000 }
}

fn windows() -> impl Iterator<Item = Span> {
    (0..2).map(window)
}

fn step() -> impl Strategy<Value = Step> {
    let write = || (offset(), 1u64..6_000, any::<u8>());
    prop_oneof![
        6 => write().prop_map(|(offset, len, fill)| Step::Write { offset, len, fill }),
        1 => offset().prop_map(|size| Step::Cut { size }),
        2 => (0usize..4).prop_map(|run| Step::Upload { run }),
        1 => Just(Step::Pack),
        2 => any::<bool>().prop_map(|well| Step::Uploaded { well }),
        2 => (any::<bool>(), prop::collection::vec(write(), 0..3))
            .prop_map(|(well, meanwhile)| Step::Commit { well, meanwhile }),
    ]
}

#[derive(Default)]
struct Model {
    dirty: Dirty,
    map: Option<Map>,
    /// What a reader should see in each window.
    bytes: [Vec<u8>; 2],
    uploads: Vec<Upload>,
    chunks: BTreeMap<u64, Bytes>,
    writes: u64,
}

impl Model {
    fn write(&mut self, offset: u64, len: u64, fill: u8) {
        self.writes += 1;
        let data: Vec<u8> = (0..len).map(|at| fill.wrapping_add((at % 7) as u8).max(1)).collect();
        let which = windows().position(|window| window.start <= offset && offset + len <= window.end);
        let which = which.expect("writes stay within the windows");
        let at = (offset - window(which).start) as usize;
        self.seen_before(which)[at..at + len as usize].copy_from_slice(&data);
        self.dirty.write(offset, Bytes::from(data));
    }

    fn seen_before(&mut self, which: usize) -> &mut [u8] {
        let bytes = &mut self.bytes[which];
        bytes.resize(window(which).len() as usize, 0);
        bytes
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Write { offset, len, fill } => self.write(offset, len, fill),
            Step::Cut { size } => {
                for which in 0..2 {
                    let keep = size.saturating_sub(window(which).start).min(window(which).len());
                    self.seen_before(which)[keep as usize..].fill(0);
                }
                self.dirty.cut(size);
                self.map.get_or_insert_with(Map::empty).cut(size);
            }
            Step::Upload { run } => {
                if let Some(run) = self.dirty.runs().get(run).copied() {
                    let upload = self.dirty.upload(&[run]);
                    self.uploads.push(upload);
                }
            }
            Step::Pack => {
                for spans in plan::packed(&self.dirty.runs()) {
                    let upload = self.dirty.upload(&spans);
                    self.uploads.push(upload);
                }
            }
            Step::Uploaded { well } => {
                if !self.uploads.is_empty() {
                    let upload = self.uploads.remove(0);
                    self.ended(upload, well);
                }
            }
            Step::Commit { well, meanwhile } => {
                let small: Vec<Span> =
                    self.dirty.runs().into_iter().filter(|run| run.len() <= u64::from(MAX_INLINE)).collect();
                self.dirty.seal(&small);
                let taken = self.dirty.take_ready();
                let extents = taken.extents();
                check_extents(&extents);
                for (offset, len, fill) in meanwhile {
                    self.write(offset, len, fill);
                }
                match well {
                    true => {
                        let map = self.map.get_or_insert_with(Map::empty);
                        extents.into_iter().for_each(|extent| map.overlay(extent));
                    }
                    false => self.dirty.restore(taken),
                }
            }
        }
    }

    fn ended(&mut self, upload: Upload, well: bool) {
        let place = Place {
            chunk: ChunkId { client: ClientId(1), counter: upload.id },
            pg: PgId(1),
            len: upload.data.len() as u32,
        };
        if well {
            self.chunks.insert(upload.id, upload.data.clone());
        }
        let stored = Stored { place, ticket: Arc::new(Naming::default().begin()) };
        self.dirty.uploaded(upload.id, well.then_some(stored));
    }

    fn seen(&self, span: Span) -> Vec<u8> {
        let mut bytes = vec![0; span.len() as usize];
        let map = self.map.as_ref().map(|map| map.sources(span).expect("an empty map is known"));
        let mut lay = |sources: Vec<(Span, Source)>| {
            for (part, source) in sources {
                let range = (part.start - span.start) as usize..(part.end - span.start) as usize;
                match source {
                    Source::Bytes(data) => bytes[range].copy_from_slice(&data),
                    Source::Zero => bytes[range].fill(0),
                    Source::Chunk { place, at, lo, hi } => {
                        assert!(lo <= at && at + part.len() as u32 <= hi && hi <= place.len, "a part of its extent");
                        let chunk = &self.chunks[&place.chunk.counter];
                        bytes[range].copy_from_slice(&chunk[at as usize..at as usize + part.len() as usize]);
                    }
                }
            }
        };
        lay(map.unwrap_or_default());
        lay(self.dirty.sources(span));
        bytes
    }

    fn check(&self) {
        for (which, span) in windows().enumerate() {
            let seen = self.seen(span);
            let same = match self.bytes[which].is_empty() {
                true => seen.iter().all(|byte| *byte == 0),
                false => seen == self.bytes[which],
            };
            assert!(same, "a reader sees other bytes than were written");
        }
        for run in self.dirty.runs() {
            let same = run.start / u64::from(MAX_CHUNK) == (run.end - 1) / u64::from(MAX_CHUNK);
            assert!(same, "a run lies within one aligned part of the file");
            let found = self.dirty.run_ending_at(run.end).expect("a run ends where it ends");
            assert_eq!(found, run);
        }
        let held: u64 = self.dirty.in_memory();
        assert_eq!(held, self.dirty.held(), "the count of held bytes is their number");
    }
}

fn check_extents(extents: &[Extent]) {
    let mut end = 0;
    for extent in extents {
        assert!(extent.offset >= end && extent.len > 0, "extents are in order and apart");
        end = extent.offset + u64::from(extent.len);
        match &extent.body {
            ExtentBody::Inline(bytes) => {
                assert!(bytes.len() == extent.len as usize && extent.len <= MAX_INLINE);
            }
            ExtentBody::Chunk { at, chunk_len, .. } => assert!(at + extent.len <= *chunk_len),
            ExtentBody::Zero => panic!("nobody writes zeroes that count"),
        }
    }
    let commits = plan::commits(extents.to_vec());
    assert!(commits.iter().all(|commit| commit.len() <= MAX_COMMIT_EXTENTS));
    assert_eq!(commits.concat(), extents);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn a_reader_sees_the_last_byte_written(steps in prop::collection::vec(step(), 1..40)) {
        let mut model = Model::default();
        for step in steps {
            model.step(step);
            model.check();
        }
        for upload in std::mem::take(&mut model.uploads) {
            model.ended(upload, true);
        }
        model.check();
        prop_assert!(!model.dirty.uploading_up_to(u64::MAX));
    }

    #[test]
    fn a_known_part_of_a_map_is_what_was_learned(
        pages in prop::collection::vec((0u64..100, 1u64..40, prop::collection::vec((0u64..100, 1u32..9), 0..9)), 1..12),
        at in 0u64..100,
        len in 1u64..50,
    ) {
        let mut map = Map::default();
        let mut model: BTreeMap<u64, bool> = BTreeMap::new();
        for (start, len, mut found) in pages {
            found.sort();
            let mut extents: Vec<Extent> = Vec::new();
            for (offset, len) in found {
                if extents.last().is_none_or(|last| last.offset + u64::from(last.len) <= offset) {
                    let body = ExtentBody::Inline(Bytes::from(vec![1; len as usize]));
                    extents.push(Extent { offset, len, body });
                }
            }
            let span = Span { start, end: start + len };
            for at in span.start..span.end {
                let inside = |e: &Extent| e.offset <= at && at < e.offset + u64::from(e.len);
                model.insert(at, extents.iter().any(inside));
            }
            map.learn(span, extents);
        }
        let span = Span { start: at, end: at + len };
        match map.sources(span) {
            Ok(sources) => {
                let mut next = span.start;
                for (part, source) in sources {
                    prop_assert_eq!(part.start, next);
                    next = part.end;
                    for at in part.start..part.end {
                        prop_assert_eq!(model.get(&at).copied(), Some(matches!(source, Source::Bytes(_))));
                    }
                }
                prop_assert_eq!(next, span.end);
            }
            Err(from) => {
                prop_assert!(from >= span.start && from < span.end);
                prop_assert!(!model.contains_key(&from), "what was learned is known");
                prop_assert!((span.start..from).all(|at| model.contains_key(&at)));
            }
        }
    }
}

#[test]
fn many_small_stretches_share_a_chunk_and_few_ride_in_the_commit() {
    let run = |at: u64, len: u64| Span { start: at, end: at + len };
    let few: Vec<Span> = (0..32).map(|n| run(n * 8192, 4096)).collect();
    let plan = plan::at_flush(&few);
    assert!(plan.chunks.is_empty() && plan.inline == few);
    let many: Vec<Span> = (0..33).map(|n| run(n * 8192, 4096)).collect();
    let plan = plan::at_flush(&many);
    assert!(plan.inline.is_empty() && plan.chunks == [many]);
    let plan = plan::at_flush(&[run(0, 5000), run(6000, 10)]);
    assert!(plan.chunks == [[run(0, 5000)]] && plan.inline == [run(6000, 10)]);
}
