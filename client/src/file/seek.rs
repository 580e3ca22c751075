//! Finding data and holes, for whoever copies sparse files.

use std::sync::Arc;

use weft_core::entry::Cred;
use weft_core::refusal::Refusal;
use weft_core::span::Span;

use super::dirty::Source;
use super::read::MOST_RELOADS;
use super::state::{FileState, Inner};
use crate::error::{Error, Result};

impl FileState {
    /// The first byte at or behind `offset` that is in a hole (with `hole`) or is data. Reserved zeroes count as a
    /// hole; the end of the file begins one. `None`: `offset` is not in the file, or no data follows.
    pub(super) async fn seek(self: &Arc<Self>, cred: &Cred, offset: u64, hole: bool) -> Result<Option<u64>> {
        self.session.check()?;
        self.revalidate(cred).await?;
        let mut at = offset;
        let mut loads = 0;
        loop {
            let step = {
                let inner = self.lock();
                let size = inner.size();
                if at >= size {
                    return Ok((hole && offset < size).then_some(size));
                }
                inner.step(Span { start: at, end: size }, hole)
            };
            match step {
                Step::Found(found) => return Ok(Some(found)),
                Step::Passed(end) => {
                    at = end;
                    loads = 0;
                }
                Step::Unknown if loads == MOST_RELOADS => {
                    let why = "the file's map changes too fast to be searched".into();
                    return Err(Error::Refused(Refusal::Unknown { why }));
                }
                Step::Unknown => {
                    loads += 1;
                    self.load_map(cred, at).await?;
                }
            }
        }
    }
}

enum Step {
    Found(u64),
    /// Nothing up to here.
    Passed(u64),
    /// The map must be asked for first.
    Unknown,
}

impl Inner {
    fn step(&self, span: Span, hole: bool) -> Step {
        let (sources, end) = match self.sources(span) {
            Ok(sources) => (sources, span.end),
            Err(from) if from > span.start => match self.sources(Span { start: span.start, end: from }) {
                Ok(sources) => (sources, from),
                Err(_) => return Step::Unknown,
            },
            Err(_) => return Step::Unknown,
        };
        let found = sources.iter().find(|(_, source)| matches!(source, Source::Zero) == hole);
        found.map_or(Step::Passed(end), |(part, _)| Step::Found(part.start))
    }
}
