//! A segment that takes records.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{Entry, FIRST_RECORD, SegmentHeader, table_len};
use crate::parts::DiskFile;

/// A segment that takes records, or took them and is not sealed yet.
pub(crate) struct Writing {
    /// What it is.
    pub(crate) header: SegmentHeader,
    /// Its file.
    pub(crate) file: Arc<dyn DiskFile>,
    /// Where the next record goes.
    pub(crate) at: u64,
    /// Offsets of records on their way to media and into the index, with the entries that each will have in the table.
    pub(crate) pending: BTreeMap<u64, usize>,
    /// The sum of these entries.
    pub(crate) pending_entries: usize,
    /// Records in the index, for the table.
    pub(crate) entries: Vec<Entry>,
    /// Bytes taken since the index was last told how far it covers the segment.
    pub(crate) uncovered: u64,
}

impl Writing {
    /// A segment just taken into use.
    pub(crate) fn new(header: SegmentHeader, file: Arc<dyn DiskFile>) -> Writing {
        Writing {
            header,
            file,
            at: FIRST_RECORD,
            pending: BTreeMap::new(),
            pending_entries: 0,
            entries: Vec::new(),
            uncovered: 0,
        }
    }

    /// Whether a record of `len` bytes and so many entries fits, with room for the table of all records.
    pub(crate) fn fits(&self, len: u64, entries: usize) -> bool {
        let entries = self.entries.len() + self.pending_entries + entries;
        self.at + len + table_len(entries) <= self.header.len
    }

    /// Takes the room for a record that fits; returns where it goes.
    pub(crate) fn take(&mut self, len: u64, entries: usize) -> u64 {
        let offset = self.at;
        self.at += len;
        self.uncovered += len;
        self.pending.insert(offset, entries);
        self.pending_entries += entries;
        offset
    }

    /// A record has settled, well or not.
    pub(crate) fn landed(&mut self, offset: u64) {
        self.pending_entries -= self.pending.remove(&offset).unwrap_or(0);
    }

    /// Everything below is settled: in the index, or never acknowledged.
    pub(crate) fn settled_below(&self, also: &BTreeSet<u64>) -> u64 {
        self.pending.keys().find(|offset| !also.contains(offset)).copied().unwrap_or(self.at)
    }

    /// Bytes still free for records.
    pub(crate) fn room(&self) -> u64 {
        let table = table_len(self.entries.len() + self.pending_entries + 1);
        self.header.len.saturating_sub(self.at + table)
    }
}

/// The largest record with so many entries that a segment of `len` bytes takes.
pub(crate) fn largest_record(len: u64, entries: usize) -> u64 {
    len.saturating_sub(FIRST_RECORD + table_len(entries))
}

/// The file of a segment.
pub(crate) fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:016x}"))
}

/// The number of a segment from its file's name.
pub(crate) fn number(name: &str) -> Option<u64> {
    (name.len() == 16).then(|| u64::from_str_radix(name, 16).ok())?
}
