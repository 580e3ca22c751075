//! What a node counts, as Prometheus reads it. Requests are counted as they pass; everything else is looked up when
//! the page is asked for.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::task::{Context, Poll};

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use crate::chunk::ChunkHealth;

/// What a request was and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    rpc: String,
    outcome: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rpc {
    rpc: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfGroup {
    group: u32,
}

type Levels = Family<OfGroup, Gauge<i64, AtomicI64>>;
type Level = Gauge<i64, AtomicI64>;

/// What one group reports.
#[derive(Clone, Copy, Debug, Default)]
pub struct GroupLevels {
    /// The group.
    pub group: u32,
    /// Whether this node leads it.
    pub leader: bool,
    /// Its term.
    pub term: u64,
    /// Last entry in the log.
    pub last_log: u64,
    /// Last committed entry.
    pub committed: u64,
    /// Last applied entry.
    pub applied: u64,
    /// First entry still in the log, less one.
    pub purged: u64,
    /// Whether its records were lost and are being rebuilt.
    pub rebuilding: bool,
}

/// What a node reports besides its groups.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeLevels {
    /// Bytes of the disk.
    pub total_bytes: u64,
    /// Bytes free on it.
    pub free_bytes: u64,
    /// Bytes of chunks.
    pub chunk_bytes: u64,
    /// Chunks.
    pub chunks: u64,
    /// Whether the chunk server takes no new chunks.
    pub full: bool,
    /// Chunks stored on request.
    pub chunk_puts: u64,
    /// Their bytes.
    pub chunk_put_bytes: u64,
    /// Reads of chunks answered.
    pub chunk_gets: u64,
    /// Bytes sent in answer.
    pub chunk_get_bytes: u64,
    /// Chunks copied here from other members.
    pub chunks_fetched: u64,
    /// Chunks deleted here, for whatever reason.
    pub chunks_deleted: u64,
    /// Of these, those that a walk found.
    pub chunks_orphaned: u64,
    /// Extent records whose bytes this node moved into chunks, as a leader.
    pub extents_compacted: u64,
    /// Their bytes.
    pub bytes_compacted: u64,
    /// Bytes of chunk segments given back to the file system.
    pub chunk_bytes_given_back: u64,
    /// Blocks found damaged on the disk.
    pub bad_sums: u64,
    /// Damaged Raft logs given up.
    pub lost_logs: u32,
    /// Times that a group's records were found damaged.
    pub lost_records: u64,
    /// What was found damaged or missing, and what became of it.
    pub chunk_health: ChunkHealth,
    /// Milliseconds for which chunks may still be acknowledged.
    pub lease_left_ms: u64,
    /// Version of the site map held.
    pub map_version: u64,
    /// Nodes of the site that are up, as far as this node knows.
    pub nodes_up: u64,
    /// Placement groups with a member that does not serve.
    pub pgs_degraded: u64,
    /// Calls that were denied for want of trust.
    pub trust_denied: u64,
    /// Peers that were not believed.
    pub trust_refused: u64,
    /// Connections closed because there were too many.
    pub trust_crowded: u64,
    /// Requests for chunks refused for want of a capability.
    pub chunks_not_trusted: u64,
    /// Seconds for which the node's certificate is good; 0 in a site in plain text.
    pub certificate_left_s: u64,
}

/// A node's metrics. Cloning shares them.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    requests: Family<Ended, Counter>,
    seconds: Family<Rpc, Histogram>,
    leads: Levels,
    term: Levels,
    last_log: Levels,
    committed: Levels,
    applied: Levels,
    purged: Levels,
    rebuilding: Levels,
    total_bytes: Level,
    free_bytes: Level,
    chunk_bytes: Level,
    chunks: Level,
    full: Level,
    chunk_puts: Counter,
    chunk_put_bytes: Counter,
    chunk_gets: Counter,
    chunk_get_bytes: Counter,
    chunks_fetched: Counter,
    chunks_deleted: Counter,
    chunks_orphaned: Counter,
    extents_compacted: Counter,
    bytes_compacted: Counter,
    chunk_bytes_given_back: Counter,
    bad_sums: Counter,
    lost_logs: Counter,
    lost_records: Counter,
    chunks_reread: Counter,
    chunks_damaged: Counter,
    chunks_missing: Counter,
    chunks_healed: Counter,
    chunks_ill: Level,
    chunks_unhealed: Level,
    catch_up_chunks: Level,
    catch_up_bytes: Level,
    lease_left_ms: Level,
    map_version: Level,
    nodes_up: Level,
    pgs_degraded: Level,
    trust_denied: Counter,
    trust_refused: Counter,
    trust_crowded: Counter,
    chunks_not_trusted: Counter,
    certificate_left_s: Level,
    uptime_s: Gauge<f64, AtomicU64>,
    started: Instant,
}

/// Upper bounds of the latency buckets: 50 us to 13 s, each twice the last.
fn latency() -> Histogram {
    Histogram::new(exponential_buckets(50e-6, 2.0, 19))
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Metrics {
        let mut registry = Registry::with_prefix("weft");
        let requests = Family::default();
        registry.register("requests", "Requests answered, by call and outcome", requests.clone());
        let seconds = Family::new_with_constructor(latency as fn() -> Histogram);
        registry.register("request_seconds", "Time to the first byte of the answer, by call", seconds.clone());
        let mut of_group = |name: &str, help: &str| {
            let family = Levels::default();
            registry.register(name, help, family.clone());
            family
        };
        let leads = of_group("raft_leader", "1 where this node leads the group");
        let term = of_group("raft_term", "Raft term");
        let last_log = of_group("raft_last_log", "Index of the last entry in the log");
        let committed = of_group("raft_committed", "Index of the last committed entry");
        let applied = of_group("raft_applied", "Index of the last applied entry");
        let purged = of_group("raft_purged", "Index of the last entry given back");
        let rebuilding = of_group("raft_rebuilding", "Whether the records were lost and are being rebuilt");
        let mut level = |name: &str, help: &str| {
            let level = Level::default();
            registry.register(name, help, level.clone());
            level
        };
        let total_bytes = level("disk_total_bytes", "Bytes of the disk under the data folder");
        let free_bytes = level("disk_free_bytes", "Bytes free on the disk under the data folder");
        let chunk_bytes = level("chunk_bytes", "Bytes of chunks kept here");
        let chunks = level("chunks", "Chunks kept here");
        let full = level("chunk_full", "1 while no new chunks are taken for want of space");
        let lease_left_ms = level("lease_left_ms", "Milliseconds for which chunks may still be acknowledged");
        let map_version = level("site_map_version", "Version of the site map held");
        let nodes_up = level("site_nodes_up", "Nodes of the site that are up in the map held");
        let pgs_degraded = level("site_pgs_degraded", "Placement groups with a member that does not serve");
        let certificate_left_s = level("certificate_left_seconds", "Seconds for which this node's certificate is good");
        let chunks_ill = level("chunks_ill", "Damaged or missing chunks that are not healed yet");
        let chunks_unhealed = level("chunks_unhealed", "Damaged or missing chunks that no other member has whole");
        let catch_up_chunks = level("catch_up_chunks", "Chunks known to be lacking after an absence");
        let catch_up_bytes = level("catch_up_bytes", "Their bytes");
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let trust_denied = counter("trust_denied", "Calls denied to whom they are not for");
        let trust_refused = counter("trust_refused", "Peers that were not believed or did not finish a handshake");
        let trust_crowded = counter("trust_crowded", "Connections closed because there were too many");
        let chunks_not_trusted = counter("chunks_not_trusted", "Requests for chunks refused for want of a capability");
        let chunk_puts = counter("chunk_puts", "Chunks stored here on request");
        let chunk_put_bytes = counter("chunk_put_bytes", "Bytes of chunks stored here on request");
        let chunk_gets = counter("chunk_gets", "Reads of chunks answered");
        let chunk_get_bytes = counter("chunk_get_bytes", "Bytes of chunks sent in answer to reads");
        let chunks_fetched = counter("chunks_fetched", "Chunks copied here from other members");
        let chunks_deleted = counter("chunks_deleted", "Chunks deleted here");
        let chunks_orphaned = counter("chunks_orphaned", "Chunks deleted here that a walk found: not named, or left");
        let extents_compacted = counter("extents_compacted", "Extent records whose bytes moved into chunks");
        let bytes_compacted = counter("bytes_compacted", "Bytes moved from records into chunks");
        let chunk_bytes_given_back = counter("chunk_bytes_given_back", "Bytes of segments given back to the disk");
        let bad_sums = counter("chunk_bad_sums", "Blocks found damaged on the disk");
        let lost_logs = counter("raft_lost_logs", "Damaged Raft logs that this data folder gave up");
        let lost_records = counter("meta_lost_records", "Times that a group's records were found damaged");
        let chunks_reread = counter("chunks_reread", "Chunks read again to find what rots");
        let chunks_damaged = counter("chunks_damaged", "Chunks found damaged on the disk");
        let chunks_missing = counter("chunks_missing", "Chunks found missing that other members have");
        let chunks_healed =
            counter("chunks_healed", "Chunks fetched from other members in place of damaged or missing ones");
        let uptime_s = Gauge::<f64, AtomicU64>::default();
        registry.register("uptime_seconds", "Seconds since the node was started", uptime_s.clone());
        Metrics {
            registry: Arc::new(registry),
            requests,
            seconds,
            leads,
            term,
            last_log,
            committed,
            applied,
            purged,
            rebuilding,
            total_bytes,
            free_bytes,
            chunk_bytes,
            chunks,
            full,
            chunk_puts,
            chunk_put_bytes,
            chunk_gets,
            chunk_get_bytes,
            chunks_fetched,
            chunks_deleted,
            chunks_orphaned,
            extents_compacted,
            bytes_compacted,
            chunk_bytes_given_back,
            bad_sums,
            lost_logs,
            lost_records,
            chunks_reread,
            chunks_damaged,
            chunks_missing,
            chunks_healed,
            chunks_ill,
            chunks_unhealed,
            catch_up_chunks,
            catch_up_bytes,
            lease_left_ms,
            map_version,
            nodes_up,
            pgs_degraded,
            trust_denied,
            trust_refused,
            trust_crowded,
            chunks_not_trusted,
            certificate_left_s,
            uptime_s,
            started: Instant::now(),
        }
    }

    /// Time since the node was started.
    pub fn uptime(&self) -> std::time::Duration {
        self.started.elapsed()
    }

    /// The page, with these levels.
    pub fn page(&self, node: NodeLevels, groups: &[GroupLevels]) -> String {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        for level in groups {
            let of = OfGroup { group: level.group };
            self.leads.get_or_create(&of).set(i64::from(level.leader));
            self.term.get_or_create(&of).set(number(level.term));
            self.last_log.get_or_create(&of).set(number(level.last_log));
            self.committed.get_or_create(&of).set(number(level.committed));
            self.applied.get_or_create(&of).set(number(level.applied));
            self.purged.get_or_create(&of).set(number(level.purged));
            self.rebuilding.get_or_create(&of).set(i64::from(level.rebuilding));
        }
        self.total_bytes.set(number(node.total_bytes));
        self.free_bytes.set(number(node.free_bytes));
        self.chunk_bytes.set(number(node.chunk_bytes));
        self.chunks.set(number(node.chunks));
        self.full.set(i64::from(node.full));
        // Counted elsewhere since the node's start: the page only shows where they are.
        self.chunk_puts.inner().store(node.chunk_puts, Ordering::Relaxed);
        self.chunk_put_bytes.inner().store(node.chunk_put_bytes, Ordering::Relaxed);
        self.chunk_gets.inner().store(node.chunk_gets, Ordering::Relaxed);
        self.chunk_get_bytes.inner().store(node.chunk_get_bytes, Ordering::Relaxed);
        self.chunks_fetched.inner().store(node.chunks_fetched, Ordering::Relaxed);
        self.chunks_deleted.inner().store(node.chunks_deleted, Ordering::Relaxed);
        self.chunks_orphaned.inner().store(node.chunks_orphaned, Ordering::Relaxed);
        self.extents_compacted.inner().store(node.extents_compacted, Ordering::Relaxed);
        self.bytes_compacted.inner().store(node.bytes_compacted, Ordering::Relaxed);
        self.chunk_bytes_given_back.inner().store(node.chunk_bytes_given_back, Ordering::Relaxed);
        self.bad_sums.inner().store(node.bad_sums, Ordering::Relaxed);
        self.lost_logs.inner().store(u64::from(node.lost_logs), Ordering::Relaxed);
        self.lost_records.inner().store(node.lost_records, Ordering::Relaxed);
        let health = &node.chunk_health;
        self.chunks_reread.inner().store(health.reread, Ordering::Relaxed);
        self.chunks_damaged.inner().store(health.damaged, Ordering::Relaxed);
        self.chunks_missing.inner().store(health.missing, Ordering::Relaxed);
        self.chunks_healed.inner().store(health.healed, Ordering::Relaxed);
        self.chunks_ill.set(number(health.waiting));
        self.chunks_unhealed.set(number(health.unhealed));
        self.catch_up_chunks.set(number(health.catch_up.chunks));
        self.catch_up_bytes.set(number(health.catch_up.bytes));
        self.lease_left_ms.set(number(node.lease_left_ms));
        self.map_version.set(number(node.map_version));
        self.nodes_up.set(number(node.nodes_up));
        self.pgs_degraded.set(number(node.pgs_degraded));
        self.trust_denied.inner().store(node.trust_denied, Ordering::Relaxed);
        self.trust_refused.inner().store(node.trust_refused, Ordering::Relaxed);
        self.trust_crowded.inner().store(node.trust_crowded, Ordering::Relaxed);
        self.chunks_not_trusted.inner().store(node.chunks_not_trusted, Ordering::Relaxed);
        self.certificate_left_s.set(number(node.certificate_left_s));
        self.uptime_s.set(self.uptime().as_secs_f64());
        let mut page = String::new();
        // Strings take all that is written to them.
        let _ = text::encode(&mut page, &self.registry);
        page
    }

    fn ended(&self, rpc: String, outcome: &str, took: std::time::Duration) {
        self.seconds.get_or_create(&Rpc { rpc: rpc.clone() }).observe(took.as_secs_f64());
        self.requests.get_or_create(&Ended { rpc, outcome: outcome.to_string() }).inc();
    }

    /// What counts the requests of a gRPC server.
    pub fn layer(&self) -> CountLayer {
        CountLayer(self.clone())
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

/// Puts [`Count`] around a service.
#[derive(Clone)]
pub struct CountLayer(Metrics);

impl<S> tower::Layer<S> for CountLayer {
    type Service = Count<S>;
    fn layer(&self, inner: S) -> Count<S> {
        Count { metrics: self.0.clone(), inner }
    }
}

/// Counts requests and how long they took.
#[derive(Clone)]
pub struct Count<S> {
    metrics: Metrics,
    inner: S,
}

impl<S, In, Out> tower::Service<http::Request<In>> for Count<S>
where
    S: tower::Service<http::Request<In>, Response = http::Response<Out>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<In>) -> Self::Future {
        let rpc = rpc_name(request.uri().path());
        let (metrics, began) = (self.metrics.clone(), Instant::now());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let outcome = match &answer {
                Ok(answer) => outcome(answer.headers()),
                Err(_) => "broken",
            };
            metrics.ended(rpc, outcome, began.elapsed());
            answer
        })
    }
}

/// `/weft.v1.Meta/Apply` is `Meta/Apply`; whatever is not ours is `other`, so that strangers can't make labels.
fn rpc_name(path: &str) -> String {
    const SERVICES: [&str; 4] = ["Meta/", "Site/", "Chunk/", "Raft/"];
    match path.strip_prefix("/weft.v1.") {
        Some(name) if name.len() < 32 && SERVICES.iter().any(|service| name.starts_with(service)) => name.to_string(),
        _ => "other".to_string(),
    }
}

/// An answer that is nothing but a refusal carries its status in the headers.
fn outcome(headers: &http::HeaderMap) -> &'static str {
    match headers.get("grpc-status").map(http::HeaderValue::as_bytes) {
        None | Some(b"0") => "ok",
        Some(code) => match tonic::Code::from_bytes(code) {
            tonic::Code::Cancelled => "cancelled",
            tonic::Code::InvalidArgument => "invalid",
            tonic::Code::DeadlineExceeded => "deadline",
            tonic::Code::NotFound => "not_found",
            tonic::Code::AlreadyExists => "exists",
            tonic::Code::PermissionDenied => "denied",
            tonic::Code::ResourceExhausted => "exhausted",
            tonic::Code::FailedPrecondition => "precondition",
            tonic::Code::Aborted => "aborted",
            tonic::Code::OutOfRange => "out_of_range",
            tonic::Code::Unimplemented => "unimplemented",
            tonic::Code::Internal => "internal",
            tonic::Code::Unavailable => "unavailable",
            tonic::Code::DataLoss => "data_loss",
            tonic::Code::Unauthenticated => "unauthenticated",
            tonic::Code::Ok | tonic::Code::Unknown => "unknown",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_groups_requests_and_levels() {
        let metrics = Metrics::new();
        metrics.ended(rpc_name("/weft.v1.Meta/Apply"), "ok", std::time::Duration::from_millis(3));
        metrics.ended(rpc_name("/weft.v1.Nonsense/Apply"), "unimplemented", std::time::Duration::ZERO);
        let groups = [GroupLevels { group: 1, leader: true, term: 7, applied: 42, ..GroupLevels::default() }];
        let page = metrics.page(NodeLevels { chunks: 5, ..NodeLevels::default() }, &groups);
        for line in [
            "weft_requests_total{rpc=\"Meta/Apply\",outcome=\"ok\"} 1",
            "weft_requests_total{rpc=\"other\",outcome=\"unimplemented\"} 1",
            "weft_request_seconds_count{rpc=\"Meta/Apply\"} 1",
            "weft_raft_leader{group=\"1\"} 1",
            "weft_raft_applied{group=\"1\"} 42",
            "weft_chunks 5",
        ] {
            assert!(page.contains(line), "{line} is not in\n{page}");
        }
    }
}
