//! Counts are what a full recount finds, on every replica: references of chunks, links, sizes and numbers of volumes. No
//! chunk is both named and freed.

use weft_core::ids::GroupId;
use weft_core::machine;
use weft_core::view::View;

use crate::run::Violation;
use crate::state::NodeState;

const LAW: &str = "counts equal a full recount";

/// Recounts every group on every node. Holds at any time, since each batch of records is written at once.
///
/// # Errors
/// A count is wrong.
pub fn check(nodes: &[NodeState]) -> Result<(), Violation> {
    for group in [GroupId::SYSTEM, GroupId(1), GroupId(2)] {
        for (node, state) in nodes.iter().enumerate() {
            if let Some(store) = state.records.group(group) {
                recount(&*store).map_err(|what| {
                    let what = format!("group {group} on node {node}: {what}");
                    Violation { law: LAW, what }
                })?;
            }
        }
    }
    Ok(())
}

fn recount(view: &dyn View) -> Result<(), String> {
    match machine::recount(view) {
        Ok(wrong) if wrong.is_empty() => Ok(()),
        Ok(wrong) => Err(wrong.join("; ")),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use weft_core::entry::{Command, Entry};
    use weft_core::ids::{SlotId, SpaceId, VolumeId};
    use weft_core::namespace::volume::AttachVolume;
    use weft_core::time::Timestamp;

    use super::*;

    #[test]
    fn a_record_that_went_uncounted_is_found() {
        let attach =
            AttachVolume { volume: VolumeId(1), space: SpaceId(1), slot: SlotId(1), mode: 0o755, uid: 0, gid: 0 };
        let entry = Entry { time: Timestamp::from_nanos(1_000), caller: None, command: Command::AttachVolume(attach) };
        let mut records: BTreeMap<Bytes, Bytes> = BTreeMap::new();
        let applied = machine::apply(&records, GroupId(1), &entry).expect("a map in memory does not fail");
        records.extend(applied.changes.into_iter().filter_map(|(key, value)| Some((key, value?))));
        assert_eq!(recount(&records), Ok(()));
        let uncounted = records.keys().filter(|key| {
            let mut without = records.clone();
            without.remove(*key);
            recount(&without).is_err_and(|what| what.contains("1 inodes, 0 found"))
        });
        assert_eq!(uncounted.count(), 1, "the root's record is missed");
    }
}
