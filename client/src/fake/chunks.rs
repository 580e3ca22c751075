//! The chunk servers, and all of a node's calls joined.

use std::time::Duration;

use bytes::Bytes;
use weft_core::checksum::{block_sums, first_bad_block};
use weft_core::ids::{ClientId, GroupId, Ino, NodeId, SiteId, VolumeId};
use weft_core::limits::BLOCK;
use weft_core::namespace::inode::{Extent, ExtentBody};
use weft_core::namespace::op::Op;
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::query::{Answer, Query};
use weft_core::refusal::Refusal;
use weft_core::site::SiteMap;

use super::{Fake, State};
use crate::servers::{Call, GetChunk, NewVolume, NodeOrder, Piece, PutChunk, Recalls, Servers};
use crate::status::NodeReport;

impl State {
    /// A commit names only chunks that every member holds.
    pub(super) fn check_chunks(&self, extents: &[Extent]) {
        for extent in extents {
            let ExtentBody::Chunk { chunk, pg, chunk_len, .. } = &extent.body else { continue };
            let pg = self.map.pgs.iter().find(|known| known.id == *pg).expect("a known placement group");
            for member in &pg.members {
                let held = self.chunks.get(&(member.replica.node.0, *chunk));
                // What a later write of the same file freed may be deleted before a repeated commit comes.
                if let Some(held) = held {
                    assert_eq!(held.len() as u32, *chunk_len);
                }
            }
        }
    }
}

fn node_of(addr: &str) -> u32 {
    addr.trim_start_matches("node").trim_end_matches(":1").parse().expect("an address of the fake")
}

#[async_trait::async_trait]
impl Servers for Fake {
    async fn map(&self, _addr: &str, _call: Call, have: u64) -> Result<Option<SiteMap>, Refusal> {
        let mut state = self.state.lock();
        if state.happens(|trouble| trouble.lost_requests) {
            return Err(Refusal::Unknown { why: "the request was lost".into() });
        }
        Ok((state.map.version > have).then(|| state.map.clone()))
    }

    async fn client_id(&self, _addr: &str, _call: Call) -> Result<ClientId, Refusal> {
        let mut state = self.state.lock();
        state.next_client += 1;
        let id = ClientId::new(SiteId(77), state.next_client);
        state.answer(Ok(id))
    }

    async fn create_volume(&self, _addr: &str, _call: Call, new: NewVolume) -> Result<VolumeId, Refusal> {
        let id = self.make_volume(&new.name, new.replication, new.token);
        self.state.lock().answer(Ok(id))
    }

    async fn delete_volume(&self, _: &str, _: Call, volume: VolumeId) -> Result<(), Refusal> {
        let known = self.state.lock().map.volumes.iter().any(|known| known.id == volume);
        Err(if known {
            Refusal::Invalid { why: "volumes stay here".into() }
        } else {
            Refusal::NoVolume { what: volume.to_string() }
        })
    }

    async fn node_status(&self, _addr: &str, _call: Call) -> Result<NodeReport, Refusal> {
        Ok(NodeReport::default())
    }

    async fn order_node(&self, _addr: &str, _call: Call, node: NodeId, order: NodeOrder) -> Result<SiteMap, Refusal> {
        let mut state = self.state.lock();
        if !state.map.nodes.iter().any(|known| known.id == node) {
            return Err(Refusal::Invalid { why: format!("this site has no node {node}") });
        }
        match order {
            NodeOrder::Drain { on } => {
                state.map.nodes.iter_mut().filter(|known| known.id == node).for_each(|known| known.draining = on);
            }
            NodeOrder::Remove { .. } => state.map.nodes.retain(|known| known.id != node),
        }
        state.map.version += 1;
        let map = state.map.clone();
        state.answer(Ok(map))
    }

    async fn apply(
        &self,
        addr: &str,
        call: Call,
        _group: GroupId,
        volume: VolumeId,
        op: &Op,
    ) -> Result<Outcome, Refusal> {
        tokio::time::sleep(Duration::from_micros(200)).await;
        self.do_apply(addr, call, volume, op)
    }

    async fn query(
        &self,
        addr: &str,
        call: Call,
        _group: GroupId,
        volume: VolumeId,
        query: &Query,
    ) -> Result<Answer, Refusal> {
        tokio::time::sleep(Duration::from_micros(100)).await;
        self.do_query(addr, call, volume, query)
    }

    async fn open_session(&self, addr: &str, call: Call, _group: GroupId) -> Result<(Duration, Bytes), Refusal> {
        self.session(addr, call, true)?;
        Ok((Duration::from_secs(1), Bytes::new()))
    }

    async fn end_session(&self, addr: &str, call: Call, _group: GroupId) -> Result<(), Refusal> {
        self.session(addr, call, false)
    }

    async fn keep_alive(
        &self,
        addr: &str,
        _call: Call,
        group: GroupId,
        not_open: Vec<(VolumeId, Ino)>,
        _named_below: u64,
    ) -> Result<(Vec<(VolumeId, Ino)>, Bytes), Refusal> {
        let mut state = self.state.lock();
        state.arrive(addr, group)?;
        state.not_open.extend(not_open);
        Ok((state.ask.clone(), Bytes::new()))
    }

    async fn recalls(
        &self,
        addr: &str,
        call: Call,
        _group: GroupId,
        held: Vec<(VolumeId, Ino)>,
    ) -> Result<Recalls, Refusal> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.do_recalls(addr, call, held)
    }

    async fn put(&self, addr: &str, _call: Call, put: PutChunk) -> Result<u32, Refusal> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut state = self.state.lock();
        state.counts.puts += 1;
        assert_eq!(first_bad_block(put.chunk, 0, &put.data, &put.sums), None, "the client's sums are right");
        let at = state.map.pgs.iter().position(|pg| pg.id == put.pg).expect("a known placement group");
        if state.happens(|trouble| trouble.stale_placement) {
            state.map.pgs[at].epoch.0 += 1;
            state.map.version += 1;
        }
        let pg = state.map.pgs[at].clone();
        if pg.epoch != put.epoch {
            return Err(Refusal::StalePlacement { pg: put.pg, epoch: pg.epoch });
        }
        assert_eq!(put.to.node.0, node_of(addr));
        assert!(pg.members.iter().any(|member| member.replica == put.to), "a member is asked");
        if state.full {
            return Err(Refusal::NoSpace { why: "the disk is full".into() });
        }
        if state.happens(|trouble| trouble.failed_puts) {
            return match state.roll() % 4 {
                0 => Err(Refusal::NoSpace { why: "the disk is full".into() }),
                1 => Err(Refusal::MayNotAcknowledge { why: "no lease".into() }),
                2 => Err(Refusal::Busy { retry_after_ms: 1 }),
                _ => Err(Refusal::Unknown { why: "the request was lost".into() }),
            };
        }
        for member in &pg.members {
            state.chunks.insert((member.replica.node.0, put.chunk), put.data.clone());
        }
        let copies = pg.members.len() as u32;
        state.answer(Ok(copies))
    }

    async fn get(&self, addr: &str, _call: Call, get: GetChunk) -> Result<Vec<Piece>, Refusal> {
        let (slow, bad) = {
            let mut state = self.state.lock();
            let bad = state.bad_node == Some(node_of(addr));
            (state.happens(|trouble| trouble.slow_gets) || bad, bad)
        };
        tokio::time::sleep(Duration::from_millis(if slow { 1500 } else { 1 })).await;
        let mut state = self.state.lock();
        state.counts.gets += 1;
        state.counts.got_bytes += u64::from(get.len);
        let data = state.chunks.get(&(node_of(addr), get.chunk)).cloned().ok_or(Refusal::NoChunk)?;
        assert!(get.offset.is_multiple_of(BLOCK), "reads begin at a block");
        let mut pieces = Vec::new();
        let (mut at, end) = (get.offset, get.offset + get.len);
        while at < end {
            let to = (at + 16 * BLOCK).min(end);
            let bytes = data.slice(at as usize..to as usize);
            pieces.push(Piece { offset: at, sums: block_sums(get.chunk, at / BLOCK, &bytes), data: bytes });
            at = to;
        }
        if state.happens(|trouble| trouble.rot) || bad {
            let broken = (state.roll() % pieces.len() as u64) as usize;
            let mut bytes = pieces[broken].data.to_vec();
            bytes[0] ^= 1;
            pieces[broken].data = bytes.into();
        }
        state.answer(Ok(pieces))
    }
    async fn suspect(&self, addr: &str, _call: Call, get: GetChunk) -> Result<(), Refusal> {
        self.state.lock().suspected.insert((node_of(addr), get.chunk));
        Ok(())
    }
}
