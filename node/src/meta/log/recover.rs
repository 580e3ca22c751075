//! What the folder holds after a start: which segments form the log, where it ends, and what each group has in it.
//!
//! Each segment names the place where the log went on from, so the newest one leads back through all that still
//! matter. A place without a record is the end that a crash tore only if no record anywhere says that more was durable;
//! else it is damage. What lies behind a torn end was never acknowledged and is left out, in the same way at each
//! start, since the next segment names the end that was taken.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;

use super::record::{HEAD, Head, Kind, Position, RECORDS, size};
use super::segment::{Name, Segment, Survey, Window};
use super::{LogError, disk_error};
use crate::parts::{Disk, OpenMode};

/// The longest segment file.
pub(super) const MAX_SEGMENT: u64 = 1 << 30;

/// The log as found.
pub(super) struct Found {
    /// Segments still needed, oldest first, each with the position where its records end.
    pub(super) live: Vec<(Segment, Position)>,
    /// Files to be used again.
    pub(super) free: Vec<Name>,
    /// Where the log ends; a new segment goes on from here.
    pub(super) end: Position,
    /// Higher than any segment number seen.
    pub(super) next: u32,
    /// Each group's part.
    pub(super) groups: BTreeMap<u32, FoundGroup>,
}

/// One group's part of the log.
#[derive(Default)]
pub(super) struct FoundGroup {
    pub(super) vote: Option<(Bytes, Position)>,
    pub(super) purge: Option<(u64, Bytes, Position)>,
    /// Index -> where and how long.
    pub(super) entries: BTreeMap<u64, (Position, u32)>,
}

fn damaged(folder: &Path, at: Position, what: &str) -> LogError {
    LogError::Damaged {
        segment: Name::Segment(at.segment()).path(folder).display().to_string(),
        offset: u64::from(at.offset()),
        what: what.to_string(),
    }
}

/// Reads the folder. Writes nothing but the names of files that turn out to be free.
pub(super) async fn recover(disk: &dyn Disk, folder: &Path) -> Result<Found, LogError> {
    let mut free = Vec::new();
    let mut surveys = BTreeMap::new();
    let mut headless = Vec::new();
    let mut next = 1;
    for name in disk.list(folder).await.map_err(disk_error("list the segments"))? {
        let Some(name) = Name::parse(&name) else {
            tracing::warn!(file = name, "the log's folder holds a file that is not the log's");
            continue;
        };
        next = next.max(name.number().saturating_add(1));
        let Name::Segment(number) = name else {
            free.push(name);
            continue;
        };
        let doing = || disk_error(format!("read segment {number:08x}"));
        let file = disk.open(&name.path(folder), OpenMode::Write).await.map_err(doing())?;
        match Segment::read_header(&*file).await.map_err(doing())? {
            Some(header) if header.segment == number && file.len() <= MAX_SEGMENT => {
                let segment = Segment { number, salt: header.salt, file };
                surveys.insert(number, segment.survey().await.map_err(doing())?);
            }
            header => {
                next = next.max(header.map_or(0, |header| header.segment).saturating_add(1));
                headless.push(number);
            }
        }
    }
    let mark = surveys.values().map(|survey| survey.mark).max().unwrap_or_default();
    let chain = chain(&surveys, mark);
    let (taken, end, tail) = cut(folder, &surveys, &chain, mark)?;
    if let Some(number) = headless.iter().find(|number| **number >= tail) {
        return Err(damaged(folder, Position::new(*number, 0), "the segment has no header"));
    }

    let mut live = Vec::new();
    for (n, number) in taken.iter().enumerate().filter(|(_, number)| **number >= tail) {
        let Some(survey) = surveys.remove(number) else { continue };
        let end = match taken.get(n + 1).and_then(|next| surveys.get(next)?.origin) {
            Some(origin) => origin,
            None => end,
        };
        live.push((survey.segment, end));
    }
    for (number, survey) in surveys {
        // The handle must go before the name does.
        drop(survey);
        if number >= tail {
            let (from, to) = (Name::Segment(number).path(folder), Name::Free(number).path(folder));
            disk.rename(&from, &to).await.map_err(disk_error("set a segment free"))?;
            free.push(Name::Free(number));
        } else {
            free.push(Name::Segment(number));
        }
    }
    free.extend(headless.into_iter().map(Name::Segment));
    let mut groups = BTreeMap::new();
    for (segment, end) in &live {
        replay(folder, segment, *end, &mut groups).await?;
    }
    for (group, found) in &groups {
        check_gaps(folder, *group, found)?;
    }
    Ok(Found { live, free, end, next, groups })
}

/// Segment numbers, oldest first, as the newest begun one leads back through them. Where that leads to a segment whose
/// beginning a crash took before anything in it was durable, all from there on never counted, and the newest begun one
/// before it leads back.
fn chain(surveys: &BTreeMap<u32, Survey>, mark: Position) -> Vec<u32> {
    let mut end = u32::MAX;
    loop {
        let mut chain = Vec::new();
        let mut tail = 0;
        let mut lost = None;
        let mut at = surveys.range(..end).rev().map(|(_, survey)| survey).find(|survey| survey.origin.is_some());
        while let Some(survey) = at {
            chain.push(survey.segment.number);
            tail = survey.tails.iter().map(|(_, tail)| *tail).fold(tail, u32::max);
            at = match survey.origin {
                // Numbers only rise, so this ends.
                Some(origin) if origin.segment() < survey.segment.number => {
                    let older = surveys.get(&origin.segment());
                    lost = older.filter(|older| older.origin.is_none()).map(|older| older.segment.number);
                    older.filter(|older| older.origin.is_some())
                }
                _ => None,
            };
        }
        match lost {
            // Needed, and nothing behind its beginning is known to be durable.
            Some(lost) if lost >= tail && mark <= Position::new(lost, RECORDS) => end = lost,
            _ => {
                chain.reverse();
                return chain;
            }
        }
    }
}

/// How much of the chain counts: its segments, where the log ends, and the oldest segment still needed.
fn cut(
    folder: &Path,
    surveys: &BTreeMap<u32, Survey>,
    chain: &[u32],
    mark: Position,
) -> Result<(Vec<u32>, Position, u32), LogError> {
    if chain.is_empty() && mark == Position::default() {
        return Ok((Vec::new(), Position::default(), 0));
    }
    let chain: Vec<&Survey> = chain.iter().filter_map(|number| surveys.get(number)).collect();
    let mut holes = Vec::new();
    let mut taken = 0;
    let mut end = None;
    for (n, survey) in chain.iter().enumerate() {
        let wanted = chain.get(n + 1).and_then(|next| next.origin);
        taken = n + 1;
        match wanted {
            Some(wanted) if survey.end >= wanted => {}
            _ if survey.end >= mark => {
                end = Some(survey.end);
                break;
            }
            _ => holes.push(survey.end),
        }
    }
    let mut tail = 0;
    for (n, survey) in chain[..taken].iter().enumerate() {
        let limit = match chain[..taken].get(n + 1).and_then(|next| next.origin) {
            Some(origin) => origin,
            None => end.unwrap_or(Position(u64::MAX)),
        };
        let told = survey.tails.iter().filter(|(at, _)| *at < limit).map(|(_, tail)| *tail);
        tail = told.fold(tail, u32::max);
    }
    if let Some(hole) = holes.iter().find(|hole| hole.segment() >= tail) {
        return Err(damaged(folder, *hole, "a record that was durable does not decode"));
    }
    let Some(end) = end else {
        return Err(damaged(folder, Position::new(mark.segment(), 0), "a segment that was durable has no beginning"));
    };
    let taken: Vec<u32> = chain[..taken].iter().map(|survey| survey.segment.number).collect();
    if !taken.contains(&tail) {
        return Err(damaged(folder, Position::new(tail, 0), "the segment is missing"));
    }
    Ok((taken, end, tail))
}

/// Reads one segment's records into the groups.
async fn replay(
    folder: &Path,
    segment: &Segment,
    end: Position,
    groups: &mut BTreeMap<u32, FoundGroup>,
) -> Result<(), LogError> {
    let mut window = Window::new(segment.file.clone());
    let mut at = Position::new(segment.number, RECORDS);
    while at < end {
        let doing = || disk_error(format!("read segment {:08x}", segment.number));
        let Some((head, payload)) = segment.record_at(&mut window, at.offset()).await.map_err(doing())? else {
            return Err(damaged(folder, at, "a record that was there before does not decode"));
        };
        let bytes = size(payload.len()).unwrap_or(HEAD);
        replay_record(&head, payload, at, groups);
        at = at.plus(bytes);
    }
    Ok(())
}

fn replay_record(head: &Head, payload: Bytes, at: Position, groups: &mut BTreeMap<u32, FoundGroup>) {
    if matches!(head.kind, Kind::Start | Kind::Mark) {
        return;
    }
    let group = groups.entry(head.group).or_default();
    match head.kind {
        Kind::Start | Kind::Mark => {}
        // A slice would keep a whole piece of the file in memory.
        Kind::Vote => group.vote = Some((Bytes::copy_from_slice(&payload), at)),
        Kind::Entry => {
            group.entries.split_off(&head.index);
            group.entries.insert(head.index, (at, head.len));
        }
        Kind::Carried => {
            group.entries.insert(head.index, (at, head.len));
        }
        Kind::Truncate => {
            group.entries.split_off(&head.index);
        }
        Kind::Purge => {
            group.entries = match head.index.checked_add(1) {
                Some(first) => group.entries.split_off(&first),
                None => BTreeMap::new(),
            };
            group.purge = Some((head.index, Bytes::copy_from_slice(&payload), at));
        }
        Kind::Erase => {
            groups.remove(&head.group);
        }
    }
}

/// A group's entries must follow each other and what was purged.
fn check_gaps(folder: &Path, group: u32, found: &FoundGroup) -> Result<(), LogError> {
    let mut before = found.purge.as_ref().map(|(index, ..)| *index);
    for (index, (at, _)) in &found.entries {
        if before.is_some_and(|before| before.checked_add(1) != Some(*index)) {
            let what = format!("group {group} lacks entries before {index}");
            return Err(damaged(folder, *at, &what));
        }
        before = Some(*index);
    }
    Ok(())
}
