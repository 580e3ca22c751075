//! `weft fsck`: is everything there that is promised?

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use weft_client::fsck::{DamagedChunk, FsckOptions, FsckProgress, FsckReport, Verdict, WhatIsWrong};
use weft_client::site;

use crate::args::{ConnectArgs, FsckArgs};
use crate::connect::{close, connect};
use crate::failure::{Doing, Failure};
use crate::humane;
use crate::output;

/// Lines of one kind that are printed; `--json` has all.
const LINES: usize = 50;

/// The report as `--json` shows it.
#[derive(Serialize)]
struct Shown {
    /// `clean`, `incomplete` or `damaged`.
    verdict: &'static str,
    deep: bool,
    chunks: u64,
    bytes: u64,
    copies: u64,
    reread_bytes: u64,
    groups: Vec<ShownGroup>,
    damage: Vec<ShownDamage>,
    more_damage: u64,
    surplus: ShownSurplus,
    degraded: Vec<ShownDegraded>,
    unseen: Vec<String>,
}

#[derive(Serialize)]
struct ShownGroup {
    group: u32,
    records: Option<u64>,
    wrong: Vec<String>,
    /// Whether the replicas hold the same; `null` if they were not compared.
    equal: Option<bool>,
    replicas: Vec<ShownReplica>,
}

#[derive(Serialize)]
struct ShownReplica {
    node: u32,
    records: u64,
    bytes: u64,
    sum: String,
}

#[derive(Serialize)]
struct ShownDamage {
    what: &'static str,
    node: u32,
    placement_group: u32,
    space: u64,
    chunk: String,
    bytes: u32,
    why: String,
    whole_on: Vec<u32>,
    files: Vec<ShownFile>,
}

#[derive(Serialize)]
struct ShownFile {
    volume: String,
    inode: u64,
    paths: Vec<String>,
}

/// Copies of chunks that nothing names; they go by themselves.
#[derive(Serialize)]
struct ShownSurplus {
    freed: u64,
    open: u64,
    abandoned: u64,
    unknown: u64,
}

#[derive(Serialize)]
struct ShownDegraded {
    placement_group: u32,
    promised: u8,
    serving: Vec<u32>,
    lacking: Vec<u32>,
}

/// Checks, prints, and says by the exit code what came of it.
pub(crate) async fn run(to: &ConnectArgs, args: FsckArgs) -> Result<(), Failure> {
    let client = connect(to).await?;
    let bar = bar(args.json);
    let watch = |progress: FsckProgress| {
        let bytes = if progress.bytes > 0 { format!(", {}", humane::bytes(progress.bytes)) } else { String::new() };
        bar.set_message(format!("{}: {}{bytes}", progress.what, progress.done));
    };
    let bytes_per_s = args.rate.unwrap_or(0).saturating_mul(1 << 20);
    let options = FsckOptions { volumes: args.volumes, deep: args.deep, bytes_per_s };
    let report = client.fsck(&options, &watch).await.doing("check the site");
    bar.finish_and_clear();
    let report = report?;
    match args.json {
        true => output::json(&shown(&report))?,
        false => output::line(words(&report).join("\n"))?,
    }
    close(&client).await?;
    match report.verdict() {
        Verdict::Clean => Ok(()),
        Verdict::Damaged => Err(Failure::damaged()),
        Verdict::Incomplete => Err(Failure::incomplete()),
    }
}

fn bar(quiet: bool) -> ProgressBar {
    let target = match quiet || !output::watched() {
        true => ProgressDrawTarget::hidden(),
        false => ProgressDrawTarget::stderr_with_hz(8),
    };
    let bar = ProgressBar::with_draw_target(None, target);
    let style = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

fn what(what: WhatIsWrong) -> &'static str {
    match what {
        WhatIsWrong::Missing => "missing",
        WhatIsWrong::Rotten => "rotten",
        WhatIsWrong::OtherLength => "of another length",
    }
}

/// A path as it is seen in its volume.
fn path(volume: &str, path: &[u8]) -> String {
    let path = String::from_utf8_lossy(path);
    if volume == site::ROOT_VOLUME { path.into_owned() } else { format!("volume {volume}: {path}") }
}

/// The report for people.
fn words(report: &FsckReport) -> Vec<String> {
    let mut lines = Vec::new();
    for audit in &report.audits {
        let wrong = audit.wrong.iter().map(|wrong| format!("group {}: wrong count: {wrong}", audit.group));
        some(&mut lines, wrong.collect());
    }
    for digest in report.digests.iter().filter(|digest| !digest.agree()) {
        let of = |replica: &weft_client::fsck::ReplicaDigest| {
            format!("node {} {:08x} of {} records", replica.node, replica.sum, replica.records)
        };
        let all: Vec<String> = digest.replicas.iter().map(of).collect();
        lines.push(format!("group {}: the replicas differ: {}", digest.group, all.join(", ")));
    }
    some(&mut lines, report.damage.iter().flat_map(damage).collect());
    if report.more_damage > 0 {
        lines.push(format!("{} more copies look damaged and were not looked at again", report.more_damage));
    }
    for degraded in &report.degraded {
        let nodes = |nodes: &[weft_client::NodeId]| {
            let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
            if names.is_empty() { "none".to_string() } else { names.join(", ") }
        };
        lines.push(format!(
            "placement group {}: {} of {} copies (nodes {}; away or behind: {})",
            degraded.pg,
            degraded.serving.len(),
            degraded.factor,
            nodes(&degraded.serving),
            nodes(&degraded.lacking)
        ));
    }
    some(&mut lines, report.unseen.iter().map(|unseen| format!("not looked at: {unseen}")).collect());
    let surplus = &report.surplus;
    let extra = surplus.freed + surplus.open + surplus.abandoned + surplus.unknown;
    if extra > 0 {
        lines.push(format!(
            "{extra} copies of chunks that no file names, which is no damage: {} freed, {} still being written, {} \
             abandoned, {} unknown",
            surplus.freed, surplus.open, surplus.abandoned, surplus.unknown
        ));
    }
    let records: u64 = report.audits.iter().map(|audit| audit.records).sum();
    let reread = match report.deep {
        true => format!(", {} reread", humane::bytes(report.reread)),
        false => " (their bytes were not reread: --deep does that)".into(),
    };
    lines.push(format!(
        "{records} records in {} groups; {} chunks, {}, in {} copies{reread}",
        report.audits.len(),
        report.chunks,
        humane::bytes(report.bytes),
        report.copies
    ));
    lines.push(match report.verdict() {
        Verdict::Clean => "clean".into(),
        Verdict::Incomplete => "no damage found, but not everything is there or could be looked at".into(),
        Verdict::Damaged => "DAMAGED".to_string(),
    });
    lines
}

/// The first of many lines.
fn some(lines: &mut Vec<String>, mut more: Vec<String>) {
    let left = more.len().saturating_sub(LINES);
    more.truncate(LINES);
    lines.append(&mut more);
    if left > 0 {
        lines.push(format!("  and {left} more lines: --json has them"));
    }
}

fn damage(damaged: &DamagedChunk) -> Vec<String> {
    let help = match damaged.whole_on.first() {
        Some(node) => format!("another copy is whole (node {node}); scrub heals it"),
        None => "NO WHOLE COPY is left on a serving node".into(),
    };
    let why = if damaged.why.is_empty() { String::new() } else { format!(" ({})", damaged.why) };
    let mut lines =
        vec![format!("chunk {} on node {}: {}{why}; {help}", damaged.chunk, damaged.node, what(damaged.what))];
    for file in &damaged.files {
        match file.paths.is_empty() {
            true => lines.push(format!("  in a file without a name: volume {}, inode {}", file.volume, file.ino)),
            false => lines.extend(file.paths.iter().map(|at| format!("  in {}", path(&file.volume, at)))),
        }
    }
    lines
}

fn shown(report: &FsckReport) -> Shown {
    let groups = report.audits.iter().map(|audit| audit.group);
    let mut groups: Vec<_> = groups.chain(report.digests.iter().map(|digest| digest.group)).collect();
    groups.sort_unstable();
    groups.dedup();
    let group = |group| {
        let audit = report.audits.iter().find(|audit| audit.group == group);
        let digest = report.digests.iter().find(|digest| digest.group == group);
        ShownGroup {
            group: group.0,
            records: audit.map(|audit| audit.records),
            wrong: audit.map(|audit| audit.wrong.clone()).unwrap_or_default(),
            equal: digest.map(weft_client::fsck::DigestReport::agree),
            replicas: digest
                .map(|digest| digest.replicas.as_slice())
                .unwrap_or_default()
                .iter()
                .map(|replica| ShownReplica {
                    node: replica.node.0,
                    records: replica.records,
                    bytes: replica.bytes,
                    sum: format!("{:08x}", replica.sum),
                })
                .collect(),
        }
    };
    let damage = |damaged: &DamagedChunk| ShownDamage {
        what: what(damaged.what),
        node: damaged.node.0,
        placement_group: damaged.pg.0,
        space: damaged.space.0,
        chunk: damaged.chunk.to_string(),
        bytes: damaged.len,
        why: damaged.why.clone(),
        whole_on: damaged.whole_on.iter().map(|node| node.0).collect(),
        files: damaged
            .files
            .iter()
            .map(|file| ShownFile {
                volume: file.volume.clone(),
                inode: file.ino.0,
                paths: file.paths.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect(),
            })
            .collect(),
    };
    let nodes = |nodes: &[weft_client::NodeId]| nodes.iter().map(|node| node.0).collect();
    Shown {
        verdict: match report.verdict() {
            Verdict::Clean => "clean",
            Verdict::Incomplete => "incomplete",
            Verdict::Damaged => "damaged",
        },
        deep: report.deep,
        chunks: report.chunks,
        bytes: report.bytes,
        copies: report.copies,
        reread_bytes: report.reread,
        groups: groups.into_iter().map(group).collect(),
        damage: report.damage.iter().map(damage).collect(),
        more_damage: report.more_damage,
        surplus: ShownSurplus {
            freed: report.surplus.freed,
            open: report.surplus.open,
            abandoned: report.surplus.abandoned,
            unknown: report.surplus.unknown,
        },
        degraded: report
            .degraded
            .iter()
            .map(|degraded| ShownDegraded {
                placement_group: degraded.pg.0,
                promised: degraded.factor,
                serving: nodes(&degraded.serving),
                lacking: nodes(&degraded.lacking),
            })
            .collect(),
        unseen: report.unseen.clone(),
    }
}
