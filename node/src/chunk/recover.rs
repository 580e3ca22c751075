//! At a start: what do the segments hold, and does the index agree?
//!
//! The segments are the truth. A sealed one is known by its trailer; one that was still being written is walked record
//! by record, which finds records behind a damaged or torn one too; so is a sealed one whose table is damaged, and then
//! it is sealed anew. The index is told what it lacks; if then its
//! digest differs from that of the segments, or it can't be read, it is thrown away and built anew. Only after that
//! does the store answer, so "absent" is never said of a chunk that is here.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use weft_core::checksum::first_bad_block;

use super::books::{Books, mark};
use super::format::{Body, Entry, FIRST_RECORD, Found, MAX_HEAD, PAGE, Record, SegmentHeader, Trailer, head_len};
use super::index::{ChunkIndex, ChunkIndexes, ChunkKey, Covered, IndexError, Place};
use super::segment::{self, Writing};
use super::store::{Known, OpenError, Spare, State, index_folder};
use super::tend::{read_table, read_trailer};
use crate::parts::{Disk, DiskFile, OpenMode, write_durable};

/// What a start found.
pub(crate) struct Recovered {
    pub(crate) index: Arc<dyn ChunkIndex>,
    pub(crate) state: State,
}

/// While this file is there the index is not to be trusted: its opening did not end, or it failed.
pub(crate) fn marker(folder: &Path) -> PathBuf {
    folder.join("index-untrusted")
}

/// A segment as found.
struct Segment {
    header: SegmentHeader,
    file: Arc<dyn DiskFile>,
    /// Of a sealed one.
    trailer: Option<Trailer>,
    /// Of one that is not sealed.
    walk: Option<Walk>,
}

#[derive(Default)]
struct Walk {
    entries: Vec<Entry>,
    end: u64,
    /// Records whose data is not what their sums say.
    broken: Vec<u64>,
}

/// Segment and offset of records that are void.
type Deleted = BTreeSet<(u64, u64)>;
/// Segment and offset of records of chunks that lie elsewhere too.
type Twice = BTreeSet<(u64, u64)>;

/// Reads the segments, brings the index up to date.
pub(crate) async fn recover(
    disk: &dyn Disk,
    indexes: &dyn ChunkIndexes,
    folder: &Path,
    segments_folder: &Path,
) -> Result<Recovered, OpenError> {
    let failed = |what: &str| {
        let what = what.to_string();
        move |error| OpenError::Disk { what, error }
    };
    disk.make_folder(segments_folder).await.map_err(failed("make its folder"))?;
    let mut opened = open_index(disk, indexes, folder).await?;
    let mut state = State { next_sequence: SegmentHeader::FREE + 1, ..State::default() };
    let mut segments = find_segments(disk, segments_folder, &mut state).await?;

    let covered = |found: &Opened, header: &SegmentHeader| {
        let covered = found.covered.iter().find(|covered| covered.segment == header.life.segment);
        covered.filter(|covered| covered.generation == header.life.generation).map_or(0, |covered| covered.offset)
    };
    for segment in &mut segments {
        if segment.trailer.is_none() {
            let known = covered(&opened, &segment.header);
            segment.walk(known).await?;
        }
    }
    for segment in &mut segments {
        let known = covered(&opened, &segment.header);
        if segment.trailer.is_some_and(|trailer| trailer.voiding > 0 || known < segment.header.len) {
            segment.check_table().await?;
        }
    }
    let (expected, deleted) = count(&segments, &mut state).await.map_err(failed("read tables of segments"))?;

    let mut replay = Replay::new(&opened, &deleted);
    for segment in &segments {
        let from = covered(&opened, &segment.header);
        replay.segment(segment, from).await?;
    }
    let (mut books, mut twice) = replay.finish()?;
    if (books.chunks, books.digest) != (expected.chunks, expected.digest) {
        tracing::warn!(
            indexed = books.chunks,
            held = expected.chunks,
            "the chunk index does not agree with the segments: it is rebuilt"
        );
        opened = opened.start_over(indexes, folder).await?;
        for segment in &mut segments {
            segment.check_table().await?;
        }
        let (_, deleted) = count(&segments, &mut state).await.map_err(failed("read tables of segments"))?;
        let mut replay = Replay::new(&opened, &deleted);
        for segment in &segments {
            replay.segment(segment, 0).await?;
        }
        (books, twice) = replay.finish()?;
    }
    for segment in &mut segments {
        if let Some(walk) = &mut segment.walk {
            let number = segment.header.life.segment;
            walk.entries.retain(|entry| !entry.put || !twice.contains(&(number, entry.offset)));
        }
    }
    opened.index.persist()?;
    if let Err(error) = disk.remove(&marker(folder)).await {
        return Err(failed("trust the index")(error));
    }
    take_over(segments, &mut state, books);
    Ok(Recovered { index: opened.index, state })
}

/// An index that was opened and read through.
struct Opened {
    index: Arc<dyn ChunkIndex>,
    books: Books,
    covered: Vec<Covered>,
}

impl Opened {
    fn read(index: Arc<dyn ChunkIndex>) -> Result<Opened, IndexError> {
        let mut books = Books::default();
        index.scan(&mut |key, place| books.add(key, place))?;
        let covered = index.covered()?;
        Ok(Opened { index, books, covered })
    }

    async fn start_over(self, indexes: &dyn ChunkIndexes, folder: &Path) -> Result<Opened, IndexError> {
        drop(self);
        let folder = index_folder(folder);
        indexes.wipe(&folder).await?;
        Opened::read(indexes.open(&folder).await?)
    }
}

async fn open_index(disk: &dyn Disk, indexes: &dyn ChunkIndexes, folder: &Path) -> Result<Opened, OpenError> {
    let path = index_folder(folder);
    let failed = |error| OpenError::Disk { what: "mark the index".into(), error };
    match disk.read_small(&marker(folder)).await {
        Ok(_) => {
            tracing::warn!("the chunk index is not to be trusted: it is rebuilt");
            indexes.wipe(&path).await?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            disk.write_small(&marker(folder), b"being opened").await.map_err(failed)?;
        }
        Err(error) => return Err(failed(error)),
    }
    match indexes.open(&path).await.and_then(Opened::read) {
        Ok(opened) => Ok(opened),
        Err(error) => {
            tracing::warn!(%error, "the chunk index is damaged: it is rebuilt");
            indexes.wipe(&path).await?;
            Ok(Opened::read(indexes.open(&path).await?)?)
        }
    }
}

fn newer(segment: u64, version: u16) -> OpenError {
    OpenError::Newer { what: format!("segment {segment:016x}"), version }
}

/// All segments in the order in which they were taken into use; free ones go to the spares.
async fn find_segments(disk: &dyn Disk, folder: &Path, state: &mut State) -> Result<Vec<Segment>, OpenError> {
    let failed = |what: String| move |error| OpenError::Disk { what, error };
    let mut segments = Vec::new();
    for name in disk.list(folder).await.map_err(failed("list segments".into()))? {
        let Some(number) = segment::number(&name) else { continue };
        state.next_number = state.next_number.max(number + 1);
        let path = segment::path(folder, number);
        let file = disk.open(&path, OpenMode::Write).await.map_err(failed(format!("open segment {name}")))?;
        if file.len() < FIRST_RECORD + 2 * PAGE {
            // Its making was cut short: never used.
            drop(file);
            disk.remove(&path).await.map_err(failed(format!("remove segment {name}")))?;
            continue;
        }
        let start = match file.read(0, (FIRST_RECORD + 2 * PAGE) as usize).await {
            Ok(start) => start,
            Err(error) => {
                tracing::error!(%error, segment = name, "a segment can't be read: it is set aside");
                continue;
            }
        };
        match SegmentHeader::decode(&start[..FIRST_RECORD as usize]) {
            Found::One(header) if header.life.segment == number => {
                if header.sequence == SegmentHeader::FREE {
                    state.spares.push_back(Spare { number, file });
                    continue;
                }
                state.next_sequence = state.next_sequence.max(header.sequence + 1);
                let trailer = read_trailer(&*file, &header).await.unwrap_or_else(|error| {
                    tracing::error!(%error, segment = name, "the end of a segment can't be read");
                    None
                });
                segments.push(Segment { header, file, trailer, walk: None });
            }
            Found::Newer(version) => return Err(newer(number, version)),
            Found::Nothing if start.iter().all(|byte| *byte == 0) => state.spares.push_back(Spare { number, file }),
            _ => tracing::error!(segment = name, "a segment's header is damaged: it is set aside"),
        }
    }
    segments.sort_by_key(|segment| segment.header.sequence);
    Ok(segments)
}

enum WalkError {
    Newer(u16),
    Disk(io::Error),
}

/// Finds all records of a segment. Data is checked from `known` on: what lies below was in the index, so it was whole
/// once and if it is damaged now, a reader should hear so. A record above it that is not whole was never acknowledged;
/// its header is wiped, so that it never comes back.
async fn walk(file: &dyn DiskFile, header: &SegmentHeader, known: u64) -> Result<Walk, WalkError> {
    const NEAR: u64 = 16 << 10;
    const FAR: u64 = 1 << 20;
    let end = header.len.min(file.len());
    let mut out = Walk { end: FIRST_RECORD, ..Walk::default() };
    let (mut at, mut window, mut window_at, mut searching) = (FIRST_RECORD, Bytes::new(), 0, false);
    while at + PAGE <= end {
        let wanted = (end - at).min((MAX_HEAD as u64).next_multiple_of(PAGE));
        if at < window_at || at + wanted > window_at + window.len() as u64 {
            let len = (end - at).min(if searching { FAR } else { NEAR });
            window = match file.read(at, len as usize).await {
                Ok(window) => window,
                Err(error) => {
                    tracing::error!(%error, segment = header.life.segment, offset = at, "a segment can't be read here");
                    file.read(at, wanted as usize).await.unwrap_or_else(|_| vec![0; wanted as usize].into())
                }
            };
            window_at = at;
        }
        let record = match Record::decode(&window[(at - window_at) as usize..], header.life, at) {
            Found::One(record) if at + record.len() <= end => record,
            Found::Newer(version) => return Err(WalkError::Newer(version)),
            _ => {
                searching = true;
                at += PAGE;
                continue;
            }
        };
        searching = false;
        let whole = at < known || whole(file, at, &record).await;
        match record.body {
            Body::Put { len, replaces, .. } if whole => {
                out.entries.push(Entry { key: record.key, offset: at, len, put: true, voids: replaces });
            }
            Body::Delete { target, len } => {
                out.entries.push(Entry { key: record.key, offset: at, len, put: false, voids: Some(target) });
            }
            Body::DeleteMany(ref voided) => out.entries.extend(voided.iter().map(|voided| Entry {
                key: voided.key,
                offset: at,
                len: voided.len,
                put: false,
                voids: Some(voided.target),
            })),
            Body::Put { .. } => {
                tracing::warn!(chunk = %record.key.chunk, segment = header.life.segment, offset = at,
                    "a chunk was only half written when the node went down: it was never acknowledged");
                out.broken.push(at);
            }
        }
        at += record.len();
        out.end = at;
    }
    for &at in &out.broken {
        let zeroes = Bytes::from(vec![0; PAGE as usize]);
        write_durable(file, at, vec![zeroes]).await.map_err(WalkError::Disk)?;
    }
    Ok(out)
}

async fn whole(file: &dyn DiskFile, at: u64, record: &Record) -> bool {
    let Body::Put { len, sums, .. } = &record.body else { return true };
    match file.read(at + head_len(*len) as u64, *len as usize).await {
        Ok(data) => first_bad_block(record.key.chunk, 0, &data, sums).is_none(),
        Err(_) => false,
    }
}

impl Segment {
    fn place(&self, entry: &Entry) -> Place {
        Place { segment: self.header.life.segment, offset: entry.offset, len: entry.len }
    }

    /// Reads it record by record, trusting the data of those below `known`.
    async fn walk(&mut self, known: u64) -> Result<(), OpenError> {
        let walk = walk(&*self.file, &self.header, known).await.map_err(|found| match found {
            WalkError::Newer(version) => newer(self.header.life.segment, version),
            WalkError::Disk(error) => OpenError::Disk { what: "walk a segment".into(), error },
        })?;
        self.walk = Some(walk);
        Ok(())
    }

    /// A sealed segment whose table is damaged becomes one that is not sealed: its records are not damaged with it, for
    /// all of a sealed segment was on media.
    async fn check_table(&mut self) -> Result<(), OpenError> {
        if self.trailer.is_none() || matches!(read_table(&*self.file, &self.header).await, Ok(Some(_))) {
            return Ok(());
        }
        tracing::warn!(segment = self.header.life.segment, "the table of a segment is damaged: its records are read");
        self.trailer = None;
        self.walk(u64::MAX).await
    }

    /// All records of the segment.
    async fn entries(&self) -> io::Result<Vec<Entry>> {
        if let Some(walk) = &self.walk {
            return Ok(walk.entries.clone());
        }
        match read_table(&*self.file, &self.header).await? {
            Some((_, entries)) => Ok(entries),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "a segment's table changed while it was read")),
        }
    }
}

/// What the index should hold by the segments, and which records are void. Enters the segments into the state.
async fn count(segments: &[Segment], state: &mut State) -> io::Result<(Books, Deleted)> {
    let mut expected = Books::default();
    let mut deleted = Deleted::new();
    let lives: BTreeMap<u64, u64> =
        segments.iter().map(|segment| (segment.header.life.segment, segment.header.life.generation)).collect();
    // A table lists a record whose header is damaged; who walks does not find it, and so it was not counted.
    let walked: BTreeMap<u64, BTreeSet<u64>> = segments
        .iter()
        .filter_map(|segment| Some((segment.header.life.segment, segment.walk.as_ref()?)))
        .map(|(number, walk)| (number, walk.entries.iter().filter(|entry| entry.put).map(|e| e.offset).collect()))
        .collect();
    state.segments.clear();
    for segment in segments {
        let mut known = Known::new(segment.header);
        known.sealed = segment.trailer.is_some();
        // Nobody remembers; then it must not be taken for one in which writing needs no room.
        known.punched = known.sealed;
        let entries = match &segment.trailer {
            Some(trailer) => {
                expected.chunks = expected.chunks.wrapping_add(trailer.chunks);
                expected.digest = expected.digest.wrapping_add(trailer.digest);
                if trailer.voiding > 0 { segment.entries().await? } else { Vec::new() }
            }
            None => {
                let entries = segment.entries().await?;
                for entry in entries.iter().filter(|entry| entry.put) {
                    expected.chunks = expected.chunks.wrapping_add(1);
                    expected.digest = expected.digest.wrapping_add(mark(entry.key, segment.place(entry)));
                }
                entries
            }
        };
        for (entry, target) in entries.iter().filter_map(|entry| Some((entry, entry.voids?))) {
            let (number, generation) = (target.life.segment, target.life.generation);
            known.voids_in.insert((number, generation));
            // What makes a record of a former life void means nothing any more.
            let counted = walked.get(&number).is_none_or(|puts| puts.contains(&target.offset));
            if lives.get(&number) == Some(&generation) && deleted.insert((number, target.offset)) && counted {
                let place = Place { segment: number, offset: target.offset, len: entry.len };
                expected.chunks = expected.chunks.wrapping_sub(1);
                expected.digest = expected.digest.wrapping_sub(mark(entry.key, place));
            }
        }
        state.segments.insert(segment.header.life.segment, known);
    }
    Ok((expected, deleted))
}

/// Tells the index what it lacks.
struct Replay<'a> {
    index: &'a dyn ChunkIndex,
    books: Books,
    deleted: &'a Deleted,
    changes: BTreeMap<ChunkKey, Option<Place>>,
    covered: Vec<Covered>,
    /// Records of chunks that lie elsewhere too, by segment and offset. Told at the end only: an index that a crash threw
    /// back may name places that other records have taken since, and what it says is twice may be all there is.
    twice: Twice,
}

const BATCH: usize = 1024;

impl<'a> Replay<'a> {
    fn new(opened: &'a Opened, deleted: &'a Deleted) -> Replay<'a> {
        let (changes, covered) = (BTreeMap::new(), Vec::new());
        Replay { index: &*opened.index, books: opened.books.clone(), deleted, changes, covered, twice: Twice::new() }
    }

    async fn segment(&mut self, segment: &Segment, from: u64) -> Result<(), OpenError> {
        let life = segment.header.life;
        let end = segment.walk.as_ref().map_or(segment.header.len, |walk| walk.end);
        if from == end {
            return Ok(());
        }
        let entries = segment.entries().await;
        let entries = entries.map_err(|error| OpenError::Disk { what: "read a segment's table".into(), error })?;
        for entry in entries.iter().filter(|entry| entry.offset >= from) {
            let held = self.get(entry.key)?;
            let place = segment.place(entry);
            let void = |place: Place| self.deleted.contains(&(place.segment, place.offset));
            match held {
                _ if entry.put && void(place) => {}
                Some(held) if held == place => {}
                // What the index still holds was deleted or replaced.
                Some(held) if void(held) => {
                    self.books.remove(entry.key, held);
                    if entry.put {
                        self.books.add(entry.key, place);
                    }
                    self.changes.insert(entry.key, entry.put.then_some(place));
                }
                None if entry.put => {
                    self.books.add(entry.key, place);
                    self.changes.insert(entry.key, Some(place));
                }
                Some(_) if entry.put => {
                    // Left by a write that failed and was repeated elsewhere.
                    tracing::warn!(chunk = %entry.key.chunk, segment = life.segment, "a chunk lies here twice");
                    self.twice.insert((life.segment, entry.offset));
                }
                _ => {}
            }
            if self.changes.len() >= BATCH {
                self.flush()?;
            }
        }
        self.covered.push(Covered { segment: life.segment, generation: life.generation, offset: end });
        Ok(())
    }

    fn get(&self, key: ChunkKey) -> Result<Option<Place>, IndexError> {
        match self.changes.get(&key) {
            Some(change) => Ok(*change),
            None => self.index.get(key),
        }
    }

    fn flush(&mut self) -> Result<(), IndexError> {
        let changes: Vec<_> = std::mem::take(&mut self.changes).into_iter().collect();
        if changes.is_empty() && self.covered.is_empty() {
            return Ok(());
        }
        self.index.write(&changes, &std::mem::take(&mut self.covered))
    }

    fn finish(mut self) -> Result<(Books, Twice), IndexError> {
        self.flush()?;
        Ok((self.books, self.twice))
    }
}

/// The newest segment goes on taking records if it is not sealed; older ones that are not are sealed soon.
fn take_over(segments: Vec<Segment>, state: &mut State, books: Books) {
    state.books = books;
    let newest = segments.last().map(|segment| segment.header.sequence);
    for segment in segments {
        let Some(walk) = segment.walk else { continue };
        let mut writing = Writing::new(segment.header, segment.file);
        writing.at = walk.end;
        writing.entries = walk.entries;
        if Some(segment.header.sequence) == newest {
            state.active = Some(writing);
        } else {
            state.retired.push(writing);
        }
    }
}
