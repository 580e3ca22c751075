//! What is damaged or missing on one server is healed from the others.

use super::super::format::head_len;
use super::super::segment;
use super::*;

/// Rereads only where a test wants it, compares at once.
fn quick() -> ChunkSettings {
    ChunkSettings {
        scrub_mib_s: 0,
        missing_s: 0,
        compare_s: 1,
        segment_mib: 8,
        reserve_mib: 0,
        ..ChunkSettings::default()
    }
}

fn key(counter: u64) -> ChunkKey {
    ChunkKey { pg: PG, space: SPACE, chunk: ChunkId { client: ClientId(7), counter } }
}

impl Three {
    /// Flips a bit of a chunk's data on one server, or of its header.
    async fn hurt(&self, at: usize, counter: u64, header: bool) {
        let (place, _) = self.nodes[at].server.store().lies(key(counter)).await.unwrap().expect("there");
        let path = segment::path(Path::new("chunks/segments"), place.segment);
        let within = if header { 40 } else { head_len(place.len) + place.len as usize / 2 };
        self.nodes[at].disk.rot(&path, place.offset as usize + within, 4);
    }

    async fn is_whole(&self, at: usize, counter: u64) -> bool {
        self.nodes[at].server.store().reread(key(counter)).await.is_ok()
    }

    async fn until(&self, what: &str, done: impl AsyncFn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !done().await {
            let health: Vec<_> = self.nodes.iter().map(|node| node.server.health()).collect();
            assert!(Instant::now() < deadline, "{what}: {health:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn what_a_read_finds_is_healed() {
    let three = Three::start_with(quick()).await;
    for counter in 1..=20 {
        three.send(0, three.put(counter, 50_000)).await.unwrap();
    }
    three.hurt(1, 5, false).await;
    let refused = three.get(1, 5, 0, 50_000).await;
    assert!(matches!(refused, Err(Refusal::BadSum { .. })), "never wrong bytes: {refused:?}");
    three.until("healed", async || three.nodes[1].server.health().healed == 1).await;
    assert_eq!(three.get(1, 5, 0, 50_000).await, Ok((0, bytes(5, 50_000))));
    let health = three.nodes[1].server.health();
    assert_eq!((health.damaged, health.missing, health.waiting, health.unhealed), (1, 0, 0, 0));

    // A client that got wrong bytes says so; nothing is believed, the chunk is read again.
    let suspect = async |at: usize, counter: u64| {
        let chunk = Some(pb::ChunkRef { client: 7, counter });
        let request = pb::SuspectRequest { envelope: Some(envelope()), space: SPACE.0, chunk, pg: PG.0 };
        let answer = three.nodes[at].client.clone().suspect(request).await;
        answer.map(drop).map_err(|status| from_status(&status))
    };
    assert_eq!(suspect(0, 99).await, Err(Refusal::NoChunk));
    three.hurt(0, 7, true).await;
    assert_eq!((suspect(0, 6).await, suspect(0, 7).await), (Ok(()), Ok(())));
    three.until("healed", async || three.nodes[0].server.health().healed == 1).await;
    assert!(three.is_whole(0, 7).await);
    assert_eq!(three.nodes[0].server.health().damaged, 1, "the other was whole");
}

#[tokio::test]
async fn what_nobody_reads_is_found_by_rereading() {
    let three = Three::start_with(ChunkSettings { scrub_mib_s: 64, scrub_pause_s: 0, ..quick() }).await;
    for counter in 1..=20 {
        three.send(0, three.put(counter, 50_000)).await.unwrap();
    }
    for counter in [3, 4, 11] {
        three.hurt(2, counter, counter == 4).await;
    }
    three.hurt(0, 12, false).await;
    three
        .until("healed", async || {
            three.nodes[2].server.health().healed == 3 && three.nodes[0].server.health().healed == 1
        })
        .await;
    for counter in 1..=20 {
        for node in 0..3 {
            assert!(three.is_whole(node, counter).await);
        }
    }
}

#[tokio::test]
async fn what_is_missing_is_found_by_comparing() {
    let mut three = Three::start_with(quick()).await;
    for counter in 1..=700 {
        three.send(0, three.put(counter, 100)).await.unwrap();
    }
    for counter in [1, 300, 700] {
        three.nodes[1].server.store().delete(key(counter)).await.unwrap();
    }
    // What the others have deleted too does not come back.
    for node in &three.nodes {
        node.server.store().delete(key(400)).await.unwrap();
    }
    three.until("brought", async || three.nodes[1].server.health().healed == 3).await;
    for counter in (1..=700).filter(|counter| *counter != 400) {
        assert!(three.has(1, counter), "{counter}");
    }
    assert_eq!(three.nodes[1].server.health().missing, 3);

    // Not while a member is away: it may have been deleted meanwhile.
    three.members([Serving, Serving, Away]);
    three.nodes[1].server.store().delete(key(2)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!three.has(1, 2) && !three.has(1, 400));
}

#[tokio::test]
async fn what_nobody_has_whole_is_kept_shown_and_healed_when_somebody_has_it() {
    let mut three = Three::start_with(quick()).await;
    for counter in 1..=3 {
        three.send(0, three.put(counter, 50_000)).await.unwrap();
    }
    three.members([Serving, Serving, Away]);
    for node in 0..3 {
        three.hurt(node, 2, false).await;
    }
    assert!(three.get(0, 2, 0, 50_000).await.is_err());
    assert!(three.get(1, 2, 0, 50_000).await.is_err());
    three.until("given up", async || three.nodes[0].server.health().unhealed == 1).await;
    assert!(three.has(0, 2) && three.has(1, 2), "what is left is kept");
    assert_eq!(three.get(0, 2, 0, 8192).await, Ok((0, bytes(2, 50_000).slice(..8192))), "its whole blocks are read");
    // The same bit again: one copy is whole after all.
    three.hurt(2, 2, false).await;
    three.members([Serving, Serving, Behind]);
    three.until("healed", async || three.is_whole(0, 2).await && three.is_whole(1, 2).await).await;
    assert_eq!(three.nodes[0].server.health().waiting, 0);
}

#[tokio::test]
async fn one_lost_chunk_does_not_hold_up_those_behind_it() {
    let mut three = Three::start_with(quick()).await;
    three.members([Serving, Serving, Away]);
    for counter in 1..=600 {
        three.send(0, three.put(counter, 3000)).await.unwrap();
    }
    for counter in [1, 77] {
        three.hurt(0, counter, false).await;
    }
    three.hurt(1, 77, false).await;
    three.members([Serving, Serving, Behind]);
    three.until("complete", async || !three.nodes[2].server.heartbeat_facts().complete.is_empty()).await;
    for counter in (1..=600).filter(|counter| *counter != 77) {
        assert!(three.is_whole(2, counter).await, "{counter}");
    }
    assert!(!three.has(2, 77));
    let health = three.nodes[2].server.health();
    assert_eq!((health.missing, health.unhealed, health.catch_up.chunks), (1, 1, 0), "{health:?}");
    three.until("healed", async || three.is_whole(0, 1).await).await;
}
