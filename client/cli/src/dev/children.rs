//! The node processes of a `weft dev`.

use std::fs::File;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures::future::{join_all, select_all};
use tokio::process::{Child, ChildStdin, Command};

use super::layout::NodePlace;
use crate::failure::{Doing, Failure};
use crate::system;

/// How long a node may take to stop by itself.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// Node processes. Should this process die, they end too: each watches its standard input, whose other end is here.
#[derive(Default)]
pub(crate) struct Children(Vec<NodeChild>);

struct NodeChild {
    place: NodePlace,
    process: Child,
    _alive: Option<ChildStdin>,
}

/// A node process that ended by itself.
pub(crate) struct Ended {
    /// Which.
    pub(crate) place: NodePlace,
    /// How, to go on with after its name.
    pub(crate) how: String,
}

impl Children {
    /// Starts the node of a place. Its log goes to its folder.
    pub(crate) fn start(&mut self, place: &NodePlace) -> Result<(), Failure> {
        let doing = format!("start node {}", place.number);
        let log = File::options().create(true).append(true).open(place.log());
        let log = log.doing(format!("open {}", place.log().display()))?;
        let mut process = Command::new(std::env::current_exe().doing(&doing)?)
            .arg("node")
            .arg("--config")
            .arg(place.config())
            .arg("--end-with-stdin")
            .stdin(Stdio::piped())
            .stdout(log.try_clone().doing(&doing)?)
            .stderr(log)
            // Ctrl-C in the terminal is for the parent alone, which stops its nodes in order.
            .process_group(0)
            .spawn()
            .doing(&doing)?;
        if let Some(pid) = process.id() {
            std::fs::write(place.pid_file(), format!("{pid}\n")).doing(&doing)?;
        }
        let alive = process.stdin.take();
        self.0.push(NodeChild { place: place.clone(), process, _alive: alive });
        Ok(())
    }

    /// Kills one at once, as a power cut would.
    pub(crate) async fn kill(&mut self, number: u32) -> Result<(), Failure> {
        let Some(at) = self.0.iter().position(|child| child.place.number == number) else { return Ok(()) };
        let mut child = self.0.remove(at);
        child.process.kill().await.doing(format!("kill node {number}"))?;
        forget_pid(&child.place);
        Ok(())
    }

    /// The number of a node's process, while it runs.
    pub(crate) fn pid(&self, number: u32) -> Option<u32> {
        self.0.iter().find(|child| child.place.number == number)?.process.id()
    }

    /// Waits until one ends; for ever if there is none.
    pub(crate) async fn ended(&mut self) -> Ended {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        let (status, at, _) = select_all(self.0.iter_mut().map(|child| Box::pin(child.process.wait()))).await;
        let child = self.0.remove(at);
        forget_pid(&child.place);
        Ended { how: describe(status), place: child.place }
    }

    /// Asks all to stop and waits for it; kills those that take too long.
    pub(crate) async fn stop(&mut self) {
        let waits = self.0.iter_mut().map(async |child| {
            if let Some(pid) = child.process.id() {
                system::terminate(pid);
            }
            if tokio::time::timeout(STOP_WITHIN, child.process.wait()).await.is_err() {
                tracing::warn!(node = child.place.number, "it did not stop within {STOP_WITHIN:?} and is killed");
            }
        });
        join_all(waits).await;
        self.kill_all().await;
    }

    /// Kills all that still run.
    pub(crate) async fn kill_all(&mut self) {
        for mut child in std::mem::take(&mut self.0) {
            // It may have ended already; a process that can't be killed is nobody's any more.
            let _ = child.process.kill().await;
            forget_pid(&child.place);
        }
    }
}

fn forget_pid(place: &NodePlace) {
    if let Err(error) = std::fs::remove_file(place.pid_file())
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "remove {}", place.pid_file().display());
    }
}

fn describe(status: std::io::Result<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt;
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with exit code {code}"),
            (None, Some(9)) => "was killed (signal 9)".into(),
            (None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None) => "ended".into(),
        },
        Err(error) => format!("is lost: {error}"),
    }
}
