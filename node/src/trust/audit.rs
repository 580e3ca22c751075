//! What is written down about trust: who was not let in, what was denied, who joined, which credentials changed. One line
//! of JSON each, in a file that is only appended to and turned over when it is full.
//!
//! What always holds: no line holds a secret, and no peer can make the file grow faster than [`LINES_PER_S`] allows; what
//! was left out is counted in the next line.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};
use weft_core::ids::PrincipalId;
use weft_core::refusal::Refusal;
use weft_core::time::Timestamp;
use weft_proto::trust::{Distrust, Doorman, Name, Who};

use crate::parts::{Clock, Disk, DiskFile, OpenMode, write_durable};

/// Lines waiting for the disk.
const WAITING: usize = 1024;
/// Lines written in a second at the most.
const LINES_PER_S: u32 = 200;
/// Bytes after which a file is full.
const FILE_BYTES: u64 = 8 << 20;
/// Full files that are kept.
const KEPT: u32 = 4;
const FOLDER: &str = "audit";

/// Takes note. Cloning shares it.
#[derive(Clone)]
pub struct Audit(Arc<Shared>);

struct Shared {
    lines: Option<mpsc::Sender<Line>>,
    clock: Arc<dyn Clock>,
    denied: AtomicU64,
    refused: AtomicU64,
    crowded: AtomicU64,
    left_out: AtomicU64,
}

#[derive(Debug, Serialize)]
struct Line {
    time_s: i64,
    event: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    who: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    from: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    what: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    why: String,
    #[serde(skip_serializing_if = "is_zero")]
    left_out: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Writes lines until every [`Audit`] is gone.
pub struct Writer {
    disk: Arc<dyn Disk>,
    lines: mpsc::Receiver<Line>,
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls that were denied.
    pub denied: u64,
    /// Peers that were not believed, or did not finish a handshake.
    pub refused: u64,
    /// Connections closed because there were too many.
    pub crowded: u64,
}

impl Audit {
    /// Counts, and hands lines to the writer.
    pub fn new(clock: Arc<dyn Clock>, disk: Arc<dyn Disk>) -> (Audit, Writer) {
        let (send, lines) = mpsc::channel(WAITING);
        (Audit::with(clock, Some(send)), Writer { disk, lines })
    }

    /// Only counts: for sites in plain text.
    pub fn silent(clock: Arc<dyn Clock>) -> Audit {
        Audit::with(clock, None)
    }

    fn with(clock: Arc<dyn Clock>, lines: Option<mpsc::Sender<Line>>) -> Audit {
        Audit(Arc::new(Shared {
            lines,
            clock,
            denied: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            crowded: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
        }))
    }

    /// What was counted.
    pub fn tally(&self) -> Tally {
        let Shared { denied, refused, crowded, .. } = &*self.0;
        Tally {
            denied: denied.load(Ordering::Relaxed),
            refused: refused.load(Ordering::Relaxed),
            crowded: crowded.load(Ordering::Relaxed),
        }
    }

    /// A call was denied.
    pub fn denied(&self, who: &Who, from: Option<SocketAddr>, what: &str, why: &Refusal) {
        self.0.denied.fetch_add(1, Ordering::Relaxed);
        self.note("denied", called(who), from, what.to_string(), why.to_string());
    }

    /// Trust was changed by a user; 0: by a node.
    pub fn changed(&self, event: &'static str, by: PrincipalId, what: String) {
        let who = if by.0 == 0 { String::new() } else { format!("user number {by}") };
        tracing::info!(event, who, what, "trust");
        self.note(event, who, None, what, String::new());
    }

    fn note(&self, event: &'static str, who: String, from: Option<SocketAddr>, what: String, why: String) {
        let Some(lines) = &self.0.lines else { return };
        let Timestamp { secs, .. } = self.0.clock.now();
        let from = from.map(|from| from.to_string()).unwrap_or_default();
        let left_out = self.0.left_out.swap(0, Ordering::Relaxed);
        if lines.try_send(Line { time_s: secs, event, who, from, what, why, left_out }).is_err() {
            self.0.left_out.fetch_add(left_out + 1, Ordering::Relaxed);
        }
    }
}

impl Doorman for Audit {
    fn refused(&self, from: Option<SocketAddr>, why: &Distrust) {
        self.0.refused.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(?from, %why, "a peer is not let in");
        self.note("refused", String::new(), from, String::new(), why.to_string());
    }

    fn crowded(&self, from: Option<SocketAddr>) {
        self.0.crowded.fetch_add(1, Ordering::Relaxed);
        self.note("crowded", String::new(), from, String::new(), "too many connections".into());
    }
}

/// What a peer is called in a line.
fn called(who: &Who) -> String {
    match who {
        Who::Plain | Who::Nobody(_) => String::new(),
        Who::Known(name) => match &**name {
            Name::Node(node) => format!("node {}", node.replica.node),
            Name::User(user) => format!("user {} ({})", user.principal.name, user.principal.id),
        },
    }
}

impl Writer {
    /// Writes lines until nobody is left to send any. A disk that fails is logged, and the lines with it.
    pub async fn run(mut self) {
        let mut file: Option<(Arc<dyn DiskFile>, u64)> = None;
        let (mut second, mut written) = (Instant::now(), 0);
        while let Some(line) = self.lines.recv().await {
            if second.elapsed() >= Duration::from_secs(1) {
                (second, written) = (Instant::now(), 0);
            }
            if written >= LINES_PER_S {
                tokio::time::sleep_until(second + Duration::from_secs(1)).await;
                (second, written) = (Instant::now(), 0);
            }
            written += 1;
            let text = json(&line);
            if let Err(error) = self.write(&mut file, text).await {
                tracing::error!(%error, ?line, "write the audit file");
                file = None;
            }
        }
    }

    async fn write(&self, file: &mut Option<(Arc<dyn DiskFile>, u64)>, text: String) -> std::io::Result<()> {
        if file.as_ref().is_some_and(|(_, end)| end + text.len() as u64 > FILE_BYTES) {
            *file = None;
            self.turn_over().await?;
        }
        if file.is_none() {
            self.disk.make_folder(Path::new(FOLDER)).await?;
            let opened = self.disk.open(&name(0), OpenMode::Create { len: 0 }).await?;
            *file = Some((opened.clone(), opened.len()));
        }
        let Some((file, end)) = file else { return Ok(()) };
        let len = text.len() as u64;
        write_durable(&**file, *end, vec![text.into()]).await?;
        *end += len;
        Ok(())
    }

    /// `log` becomes `log.1` and so on; the oldest goes.
    async fn turn_over(&self) -> std::io::Result<()> {
        let there = self.disk.list(Path::new(FOLDER)).await?;
        let has = |number: u32| there.iter().any(|file| name(number).ends_with(file));
        for number in (0..KEPT).rev().filter(|number| has(*number)) {
            self.disk.rename(&name(number), &name(number + 1)).await?;
        }
        Ok(())
    }
}

fn name(number: u32) -> PathBuf {
    match number {
        0 => Path::new(FOLDER).join("log"),
        number => Path::new(FOLDER).join(format!("log.{number}")),
    }
}

/// A line of JSON.
fn json(line: &Line) -> String {
    let mut text =
        serde_json::to_string(line).unwrap_or_else(|error| format!("{{\"event\":\"unprintable: {error}\"}}"));
    text.push('\n');
    text
}
