//! Which site a seed simulates: how many nodes of which roles, who joins late, how large segments and logs are, how far
//! apart the machines lie.

use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;
use weft_node::settings::{RecordStoreKind, Settings};

/// Port on which every node listens.
pub const PORT: u16 = 7400;
/// Meta groups for volumes.
pub const GROUPS: u32 = 2;
/// The first nodes hold metadata in every site: clients and joining nodes know them.
pub const FIRST: usize = 3;

/// Silence after which a node is replaced: short enough that it happens, also to those that come back.
const REPAIR_AFTER_S: u64 = 6;

/// The shape of a simulated site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Nodes with metadata: the first so many.
    pub meta: usize,
    /// Nodes with chunks: the last so many.
    pub chunk: usize,
    /// Copies of each chunk.
    pub replication: u8,
    /// When the last node is first started, if not at once.
    pub late: Option<Duration>,
    /// Shortest and longest latency of a message.
    pub latency: (Duration, Duration),
    /// MiB of a chunk segment.
    pub segment_mib: u64,
    /// Entries between two snapshot points of a group, and entries kept behind one.
    pub snapshots: (u64, u64),
    /// Whether chunk servers look for what is damaged or missing and heal it. Where they do not, nothing may ever be: so
    /// healing hides no fault of the rest.
    pub heals: bool,
}

impl Site {
    /// What the seed says, for a run of so much simulated time. Small sites are drawn more often: they run faster, and
    /// in them each fault weighs more.
    pub fn draw(rng: &mut SmallRng, time: Duration) -> Site {
        let meta = [3, 3, 3, 3, 4, 5][rng.random_range(0..6)];
        let chunk = [3, 3, 3, 3, 4, 4, 5, 6][rng.random_range(0..8)];
        let late = rng.random_bool(0.5) && meta.max(chunk) > FIRST;
        let longest = [1, 4, 4, 15][rng.random_range(0..4)];
        let snapshots = [(50_000, 10_000), (500, 100), (60, 10)][rng.random_range(0..3)];
        Site {
            meta,
            chunk,
            replication: if rng.random_bool(0.25) { 2 } else { 3 },
            late: late.then(|| time.mul_f64(rng.random_range(0.1..0.7))),
            latency: (Duration::from_micros(100), Duration::from_millis(longest)),
            segment_mib: [8, 8, 64][rng.random_range(0..3)],
            snapshots,
            heals: rng.random_bool(0.6),
        }
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.meta.max(self.chunk)
    }

    /// Whether a node holds metadata.
    pub fn is_meta(&self, node: usize) -> bool {
        node < self.meta
    }

    /// Whether a node holds chunks.
    pub fn is_chunk(&self, node: usize) -> bool {
        node >= self.nodes() - self.chunk
    }

    /// The settings of a node.
    pub fn settings(&self, node: usize) -> Settings {
        let mut settings = Settings {
            data: "data".into(),
            listen: format!("0.0.0.0:{PORT}"),
            advertise: format!("{}:{PORT}", host(node)),
            http: String::new(),
            record_store: RecordStoreKind::Memory,
            peers: addrs(),
            meta: self.is_meta(node),
            chunk: self.is_chunk(node),
            ..Settings::default()
        };
        settings.repair_after_s = REPAIR_AFTER_S;
        settings.chunks.segment_mib = self.segment_mib;
        (settings.chunks.keep_freed_s, settings.chunks.walk_s) = (2, 10);
        // Found and healed within a run, or never.
        settings.chunks.scrub_mib_s = if self.heals { 64 } else { 0 };
        settings.chunks.scrub_pause_s = 3;
        settings.chunks.compare_s = 10;
        settings.chunks.missing_s = if self.heals { 2 } else { 3600 };
        (settings.raft.snapshot_every, settings.raft.keep_logs) = self.snapshots;
        settings
    }
}

/// turmoil's name of a node, from 0.
pub fn host(node: usize) -> String {
    format!("n{}", node + 1)
}

/// Where the first nodes answer.
pub fn addrs() -> Vec<String> {
    (0..FIRST).map(|node| format!("{}:{PORT}", host(node))).collect()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn every_site_has_what_it_needs_and_all_kinds_are_drawn() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..300 {
            let time = Duration::from_secs(30);
            let site = Site::draw(&mut SmallRng::seed_from_u64(seed), time);
            assert!((3..=5).contains(&site.meta) && (3..=6).contains(&site.chunk));
            assert!((0..FIRST).all(|node| site.is_meta(node)));
            assert_eq!((0..site.nodes()).filter(|node| site.is_chunk(*node)).count(), site.chunk);
            assert!((0..site.nodes()).all(|node| site.is_meta(node) || site.is_chunk(node)));
            assert!(site.late.is_none_or(|late| late < time && site.nodes() > FIRST));
            for node in 0..site.nodes() {
                site.settings(node).check("settings").unwrap();
            }
            seen.insert((site.meta, site.chunk));
        }
        assert_eq!(seen.len(), 3 * 4);
    }
}
