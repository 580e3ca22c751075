//! On whose behalf: the kernel says user, group and thread; supplementary groups are read from `/proc`.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use weft_core::entry::Cred;
use weft_core::limits::MAX_GIDS;

use crate::request::Process;

/// How long the groups of a thread are believed. A thread id can be given to another process of the same user and group
/// within this time; the groups of one user rarely differ.
const BELIEVED: Duration = Duration::from_secs(1);
/// Threads remembered at the most; when there are more, all are forgotten.
const REMEMBERED: usize = 4096;

/// Supplementary groups of the threads that asked lately.
#[derive(Default)]
pub(crate) struct Creds {
    known: Mutex<BTreeMap<(u32, u32, u32), Groups>>,
}

/// The groups of a thread, and when they were read.
struct Groups {
    read: Instant,
    gids: Vec<u32>,
}

impl Creds {
    /// The credentials of a process. The superuser needs no groups.
    pub(crate) fn of(&self, process: Process) -> Cred {
        let Process { uid, gid, pid } = process;
        let gids = if uid == 0 || pid == 0 { Vec::new() } else { self.groups(process) };
        Cred { uid, gid, gids, pid, ..Cred::default() }
    }

    fn groups(&self, process: Process) -> Vec<u32> {
        let key = (process.pid, process.uid, process.gid);
        let now = Instant::now();
        if let Some(groups) = self.known.lock().get(&key)
            && now.duration_since(groups.read) < BELIEVED
        {
            return groups.gids.clone();
        }
        let gids = match std::fs::read_to_string(format!("/proc/{}/status", process.pid)) {
            Ok(status) => parse_groups(&status),
            Err(error) => {
                tracing::debug!(pid = process.pid, %error, "read the groups of a process");
                Vec::new()
            }
        };
        let mut known = self.known.lock();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(key, Groups { read: now, gids: gids.clone() });
        gids
    }
}

/// The groups in the text of `/proc/PID/status`.
fn parse_groups(status: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or("");
    line.split_ascii_whitespace().filter_map(|gid| gid.parse().ok()).take(MAX_GIDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_read_from_the_status_of_a_process() {
        assert_eq!(parse_groups("Name:\tcat\nUid:\t1 1 1 1\nGroups:\t4 24 1000 \nNStgid:\t9\n"), [4, 24, 1000]);
        assert_eq!(parse_groups("Groups:\t\n"), [0u32; 0]);
        assert_eq!(parse_groups("no such line"), [0u32; 0]);
    }

    #[tokio::test]
    async fn the_superuser_and_the_kernel_have_none() {
        let creds = Creds::default();
        assert_eq!(creds.of(Process { uid: 0, gid: 5, pid: 1 }).gids, [0u32; 0]);
        let cred = creds.of(Process { uid: 7, gid: 5, pid: 0 });
        assert_eq!((cred.uid, cred.gid, cred.gids.len()), (7, 5, 0));
    }
}
