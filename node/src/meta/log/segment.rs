//! A segment file: its names, its header, and reading through it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::record::{self, HEAD, HEADER, Head, Header, Position, RECORDS};
use crate::parts::{Disk, DiskFile, OpenMode, write_durable};

/// A segment in use.
#[derive(Clone)]
pub(super) struct Segment {
    pub(super) number: u32,
    pub(super) salt: u64,
    pub(super) file: Arc<dyn DiskFile>,
}

/// What the name of a file in the log's folder says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    /// Segment of this number; its header was durable before it got the name.
    Segment(u32),
    /// Free for reuse, whatever it holds.
    Free(u32),
}

impl Name {
    /// `None` for a file that is not the log's.
    pub(super) fn parse(name: &str) -> Option<Name> {
        let (word, number) = name.split_once('-')?;
        if number.len() != 8 {
            return None;
        }
        let number = u32::from_str_radix(number, 16).ok()?;
        match word {
            "segment" => Some(Name::Segment(number)),
            "free" => Some(Name::Free(number)),
            _ => None,
        }
    }

    pub(super) fn number(self) -> u32 {
        match self {
            Name::Segment(number) | Name::Free(number) => number,
        }
    }

    pub(super) fn path(self, folder: &Path) -> PathBuf {
        folder.join(match self {
            Name::Segment(number) => format!("segment-{number:08x}"),
            Name::Free(number) => format!("free-{number:08x}"),
        })
    }
}

/// Makes a segment ready for records: a free file, or a new one of `len` zeroes, gets the header and only then the
/// name, both durably. A segment with its name thus always has a header.
pub(super) async fn prepare(
    disk: &dyn Disk,
    folder: &Path,
    free: Option<Name>,
    header: Header,
    len: u32,
) -> io::Result<Segment> {
    // A new file is free until it has its header; a crash before leaves it to the next attempt.
    let from = free.unwrap_or(Name::Free(header.segment)).path(folder);
    let file = disk.open(&from, OpenMode::Create { len: u64::from(len) }).await?;
    write_durable(&*file, 0, vec![header.encode()]).await?;
    drop(file);
    let path = Name::Segment(header.segment).path(folder);
    disk.rename(&from, &path).await?;
    let file = disk.open(&path, OpenMode::Write).await?;
    Ok(Segment { number: header.segment, salt: header.salt, file })
}

/// Reads a file front to back in large pieces.
pub(super) struct Window {
    file: Arc<dyn DiskFile>,
    start: u64,
    bytes: Bytes,
}

const PIECE: u64 = 1 << 20;

impl Window {
    pub(super) fn new(file: Arc<dyn DiskFile>) -> Window {
        Window { file, start: 0, bytes: Bytes::new() }
    }

    /// Bytes from `offset`, `len` of them or fewer at the file's end.
    pub(super) async fn get(&mut self, offset: u64, len: u64) -> io::Result<Bytes> {
        let end = (offset + len).min(self.file.len());
        if end <= offset {
            return Ok(Bytes::new());
        }
        if offset < self.start || end > self.start + self.bytes.len() as u64 {
            let wanted = (end - offset).max(PIECE).min(self.file.len() - offset);
            self.bytes = self.file.read(offset, wanted as usize).await?;
            self.start = offset;
        }
        let from = (offset - self.start) as usize;
        Ok(self.bytes.slice(from..from + (end - offset) as usize))
    }
}

impl Segment {
    /// The header of a file, `None` if it has none.
    pub(super) async fn read_header(file: &dyn DiskFile) -> io::Result<Option<Header>> {
        if file.len() < HEADER as u64 {
            return Ok(None);
        }
        Ok(Header::decode(&file.read(0, HEADER).await?))
    }

    /// The record at `offset`, `None` if there is no whole one.
    pub(super) async fn record_at(&self, window: &mut Window, offset: u32) -> io::Result<Option<(Head, Bytes)>> {
        let head = window.get(u64::from(offset), u64::from(HEAD)).await?;
        let Some(len) = record::peek_len(self.salt, &head) else { return Ok(None) };
        if u64::from(offset) + u64::from(HEAD) + u64::from(len) > self.file.len() {
            return Ok(None);
        }
        let bytes = window.get(u64::from(offset), u64::from(HEAD) + u64::from(len)).await?;
        Ok(record::decode(self.salt, Position::new(self.number, offset), &bytes))
    }

    /// The first offset from `offset` on at which a whole record is found, passing over damage.
    pub(super) async fn find_record(&self, window: &mut Window, mut offset: u32) -> io::Result<Option<u32>> {
        let stamp = record::stamp(self.salt);
        loop {
            let piece = window.get(u64::from(offset), PIECE).await?;
            if piece.is_empty() {
                return Ok(None);
            }
            let found = piece.chunks(8).position(|chunk| chunk.starts_with(&stamp));
            match found {
                Some(at) => {
                    offset += at as u32 * 8;
                    if self.record_at(window, offset).await?.is_some() {
                        return Ok(Some(offset));
                    }
                    offset += 8;
                }
                None => offset = (offset + piece.len() as u32).next_multiple_of(8),
            }
        }
    }

    /// What can be said of the segment without knowing the others.
    pub(super) async fn survey(self) -> io::Result<Survey> {
        let mut survey = Survey {
            origin: None,
            end: Position::new(self.number, RECORDS),
            tails: Vec::new(),
            mark: Position::default(),
            segment: self,
        };
        let segment = survey.segment.clone();
        let mut window = Window::new(segment.file.clone());
        let mut offset = RECORDS;
        while let Some((head, payload)) = segment.record_at(&mut window, offset).await? {
            if offset == RECORDS {
                if head.kind != record::Kind::Start {
                    break;
                }
                let Ok(origin) = <[u8; 8]>::try_from(&payload[..]) else { break };
                survey.origin = Some(Position(u64::from_be_bytes(origin)));
            }
            if survey.tails.last().is_none_or(|(_, tail)| *tail != head.tail) {
                survey.tails.push((Position::new(segment.number, offset), head.tail));
            }
            survey.mark = survey.mark.max(head.mark);
            // A decoded record lies within the file, whose length fits.
            offset += record::size(payload.len()).unwrap_or(HEAD);
        }
        survey.end = Position::new(segment.number, offset);
        // Behind the first place without a record there may be others: they tell whether it is damage.
        while let Some(found) = segment.find_record(&mut window, offset).await? {
            offset = found;
            while let Some((head, payload)) = segment.record_at(&mut window, offset).await? {
                survey.mark = survey.mark.max(head.mark);
                offset += record::size(payload.len()).unwrap_or(HEAD);
            }
        }
        Ok(survey)
    }
}

/// What one segment says when read by itself.
pub(super) struct Survey {
    pub(super) segment: Segment,
    /// Where the log went on from; `None` if the segment was never begun or its first record is lost.
    pub(super) origin: Option<Position>,
    /// Where its unbroken row of records ends.
    pub(super) end: Position,
    /// Where the oldest needed segment changes: position of a record and what it says.
    pub(super) tails: Vec<(Position, u32)>,
    /// The furthest mark of any record, also of those behind damage.
    pub(super) mark: Position,
}
