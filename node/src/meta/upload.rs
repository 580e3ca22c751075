//! A chunk that the leader of a meta group stores itself.

use std::time::Duration;

use bytes::Bytes;
use weft_core::checksum::block_sums;
use weft_core::ids::{ChunkId, ReplicaId, SpaceId};
use weft_core::refusal::Refusal;
use weft_core::site::{MemberState, Pg, SiteMap, fewest};
use weft_proto::status::from_status;
use weft_proto::{PROTOCOL, pb};

use crate::chunk::peer;
use crate::parts::Dice;
use crate::site::peers::Peers;

/// How long storing it may take.
const WITHIN: Duration = Duration::from_secs(10);

/// What to store.
pub(super) struct Upload {
    pub(super) space: SpaceId,
    pub(super) chunk: ChunkId,
    /// Copies.
    pub(super) factor: u8,
    pub(super) data: Bytes,
}

/// Stores a chunk in some placement group and says in which. Durable on every live member when it returns.
///
/// # Errors
/// It may or may not be stored: whoever asks again takes another id.
pub(super) async fn upload(peers: &Peers, map: &SiteMap, dice: &dyn Dice, what: Upload) -> Result<u32, Refusal> {
    let groups = healthiest(map, what.factor);
    let Some((pg, to)) = groups.get((dice.roll() % groups.len().max(1) as u64) as usize).copied() else {
        return Err(Refusal::Unknown {
            why: format!("no placement group with {} copies can take a chunk", what.factor),
        });
    };
    let request = pb::PutRequest {
        envelope: Some(pb::Envelope {
            protocol: PROTOCOL,
            client: what.chunk.client.0,
            space: what.space.0,
            deadline_ms: WITHIN.as_millis() as u32,
            map_version: map.version,
            ..pb::Envelope::default()
        }),
        space: what.space.0,
        chunk: Some(pb::ChunkRef { client: what.chunk.client.0, counter: what.chunk.counter }),
        pg: pg.id.0,
        pg_epoch: pg.epoch.0,
        sums: block_sums(what.chunk, 0, &what.data),
        data: what.data,
        forward: true,
        to_node: to.node.0,
        to_incarnation: to.incarnation.0,
    };
    let mut client = peer(peers, to)?;
    match tokio::time::timeout(WITHIN, client.put(request)).await {
        Ok(Ok(_)) => Ok(pg.id.0),
        Ok(Err(status)) => Err(from_status(&status)),
        Err(_) => Err(Refusal::Unknown { why: format!("node {} did not store a chunk in time", to.node) }),
    }
}

/// Placement groups of a factor that may take a chunk, those with the most copies only, and to whom to send it.
fn healthiest(map: &SiteMap, factor: u8) -> Vec<(&Pg, ReplicaId)> {
    let able = map.pgs.iter().filter(|pg| pg.factor == factor).filter_map(|pg| {
        let serving = || pg.members.iter().filter(|member| member.state == MemberState::Serving);
        let first = serving().next()?.replica;
        (serving().count() >= fewest(factor)).then(|| (serving().count(), pg, first))
    });
    let able: Vec<_> = able.collect();
    let most = able.iter().map(|(copies, ..)| *copies).max().unwrap_or(0);
    able.into_iter().filter(|(copies, ..)| *copies == most).map(|(_, pg, first)| (pg, first)).collect()
}

#[cfg(test)]
mod tests {
    use weft_core::ids::{Incarnation, NodeId, PgEpoch, PgId};
    use weft_core::site::PgMember;

    use super::*;

    fn pg(id: u32, factor: u8, states: &[MemberState]) -> Pg {
        let member = |(nth, state): (usize, &MemberState)| PgMember {
            replica: ReplicaId { node: NodeId(nth as u32 + 1), incarnation: Incarnation(1) },
            state: *state,
        };
        Pg { id: PgId(id), factor, epoch: PgEpoch(1), members: states.iter().enumerate().map(member).collect() }
    }

    #[test]
    fn a_chunk_goes_where_all_its_copies_can_be_had() {
        use MemberState::{Away, Serving};
        let one = pg(1, 3, &[Away, Serving, Serving]);
        let two = pg(2, 3, &[Serving, Serving, Serving]);
        let few = pg(3, 3, &[Away, Serving, Away]);
        let other = pg(4, 2, &[Serving, Serving]);
        let found = |pgs: &[&Pg]| {
            let map = SiteMap { pgs: pgs.iter().copied().cloned().collect(), ..SiteMap::default() };
            healthiest(&map, 3).iter().map(|(pg, to)| (pg.id.0, to.node.0)).collect::<Vec<_>>()
        };
        assert_eq!(found(&[&one, &two, &few, &other]), [(2, 1)]);
        assert_eq!(found(&[&one, &few, &other]), [(1, 2)], "one copy less is better than none");
        assert_eq!(found(&[&few, &other]), [], "one copy alone is no promise");
    }
}
