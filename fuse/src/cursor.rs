//! Where a reader of a directory is. The kernel knows places in a listing as numbers, the fabric as names; this keeps
//! which number stood for which name. The latest numbers are exact. Of older ones every some-th is kept, and a place
//! between two of those is found by counting on from the one before: right unless the directory changed between.

use std::collections::{BTreeMap, VecDeque};

use weft_core::name::Name;

/// Offset of the start: `.` comes next.
pub(crate) const START: u64 = 0;
/// Offset behind `.`.
pub(crate) const BEHIND_SELF: u64 = 1;
/// Offset behind `..`: the first entry comes next.
pub(crate) const BEHIND_PARENT: u64 = 2;

/// Latest offsets kept exactly.
const RECENT: usize = 16_384;
/// Older offsets kept at the most; when there are more, every second one goes.
const MARKS: usize = 4096;
/// Distance of the older offsets that are kept, before any has to go.
const STRIDE: u64 = 256;

/// Names by offset, for one open directory.
#[derive(Debug)]
pub(crate) struct Cursor {
    /// The offset behind the last name of `recent`.
    last: u64,
    /// The offset at which the present pass over the directory began.
    base: u64,
    recent: VecDeque<Name>,
    marks: BTreeMap<u64, Name>,
    /// Distance of marks.
    stride: u64,
    limits: (usize, usize),
}

/// Where to go on reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// Behind this name; `None`: from the first entry.
    pub(crate) after: Option<Name>,
    /// So many entries more are to be passed over.
    pub(crate) skip: u64,
}

impl Default for Cursor {
    fn default() -> Cursor {
        Cursor::with_limits(RECENT, MARKS)
    }
}

impl Cursor {
    fn with_limits(recent: usize, marks: usize) -> Cursor {
        Cursor {
            last: BEHIND_PARENT,
            base: BEHIND_PARENT,
            recent: VecDeque::new(),
            marks: BTreeMap::new(),
            stride: STRIDE,
            limits: (recent, marks),
        }
    }

    /// The directory is read from its start again. Offsets of earlier passes that are not recent lose their meaning, as
    /// POSIX allows.
    pub(crate) fn rewind(&mut self) {
        self.base = self.last;
        self.marks.clear();
        self.stride = STRIDE;
    }

    /// The number that [`Cursor::issue`] would give next.
    pub(crate) fn next(&self) -> u64 {
        self.last + 1
    }

    /// Gives the place behind a name a number. Numbers only rise, so that old ones keep their meaning after the
    /// directory was rewound.
    pub(crate) fn issue(&mut self, name: &Name) -> u64 {
        self.last += 1;
        self.recent.push_back(name.clone());
        if self.recent.len() > self.limits.0 {
            let offset = self.last - self.recent.len() as u64 + 1;
            let oldest = self.recent.pop_front();
            if let Some(oldest) = oldest.filter(|_| offset > self.base && offset.is_multiple_of(self.stride)) {
                self.marks.insert(offset, oldest);
                if self.marks.len() > self.limits.1 {
                    self.stride *= 2;
                    let stride = self.stride;
                    self.marks.retain(|offset, _| offset.is_multiple_of(stride));
                }
            }
        }
        self.last
    }

    /// What a number stands for.
    pub(crate) fn find(&self, offset: u64) -> Position {
        if offset <= BEHIND_PARENT {
            return Position { after: None, skip: 0 };
        }
        if offset > self.last {
            // Never issued: nothing is known but that it lies behind everything seen so far.
            return Position { after: self.recent.back().cloned(), skip: 0 };
        }
        let first = self.last - self.recent.len() as u64 + 1;
        if offset >= first {
            let after = self.recent.get((offset - first) as usize).cloned();
            return Position { after, skip: 0 };
        }
        match self.marks.range(..=offset).next_back() {
            Some((mark, name)) => Position { after: Some(name.clone()), skip: offset - mark },
            None => Position { after: None, skip: offset.saturating_sub(self.base) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u64) -> Name {
        Name::parse(format!("{number:08}")).unwrap()
    }

    #[test]
    fn the_start_has_no_name() {
        let cursor = Cursor::default();
        for offset in [START, BEHIND_SELF, BEHIND_PARENT] {
            assert_eq!(cursor.find(offset), Position { after: None, skip: 0 });
        }
    }

    #[test]
    fn recent_offsets_are_exact_also_after_a_rewind() {
        let mut cursor = Cursor::default();
        let first: Vec<u64> = (0..100).map(|number| cursor.issue(&name(number))).collect();
        cursor.rewind();
        let second: Vec<u64> = (0..100).map(|number| cursor.issue(&name(number))).collect();
        for offsets in [first, second] {
            for (number, offset) in offsets.into_iter().enumerate() {
                assert_eq!(cursor.find(offset), Position { after: Some(name(number as u64)), skip: 0 });
            }
        }
    }

    #[test]
    fn old_offsets_are_found_by_counting_and_memory_stays_bounded() {
        let mut cursor = Cursor::with_limits(100, 16);
        let total = 100_000;
        // An earlier pass; it leaves nothing behind but higher numbers.
        for number in 0..1000 {
            cursor.issue(&name(number));
        }
        cursor.rewind();
        let offset = |number| number + 3 + 1000;
        for number in 0..total {
            assert_eq!(cursor.issue(&name(number)), offset(number));
        }
        assert!(cursor.recent.len() <= 100 && cursor.marks.len() <= 16);
        for number in (0..total).step_by(7) {
            let Position { after, skip } = cursor.find(offset(number));
            let start = match after {
                Some(after) => String::from_utf8_lossy(after.as_bytes()).parse::<u64>().unwrap() + 1,
                None => 0,
            };
            assert_eq!(start + skip, number + 1, "the next entry after {number}");
        }
    }

    #[test]
    fn an_offset_never_issued_goes_on_behind_the_last() {
        let mut cursor = Cursor::default();
        cursor.issue(&name(5));
        assert_eq!(cursor.find(1 << 60), Position { after: Some(name(5)), skip: 0 });
    }
}
