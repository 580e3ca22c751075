//! Starting and stopping the nodes of a `weft dev`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use weft_client::ConnectOptions;

use super::children::Children;
use super::layout::{Layout, NodePlace, check_free};
use super::record::State;
use crate::commands::status;
use crate::connect::{Shown, close, connect_with};
use crate::failure::{Doing, Failure};
use crate::interrupt::Interrupts;
use crate::local_node::{self, Running};
use crate::output;

const NAME: &str = "dev";
const GROUPS: u32 = 2;
const MOST_COPIES: u8 = 3;
/// How long all nodes together may take until everything is served.
const HEALTHY_WITHIN: Duration = Duration::from_secs(60);
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Lines of a log that are shown when its node did not start.
const SHOWN_LINES: usize = 5;

/// The nodes of a folder, as far as they run.
pub(crate) struct DevSite {
    layout: Layout,
    /// A site that is made now gets certificates.
    tls: bool,
    /// The only node, in this process.
    inside: Option<Running>,
    children: Children,
    mount: Option<PathBuf>,
}

impl DevSite {
    /// None runs yet.
    pub(crate) fn new(layout: Layout, tls: bool) -> DevSite {
        DevSite { layout, tls, inside: None, children: Children::default(), mount: None }
    }

    /// The folder.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Who a client of it is, where the site has certificates.
    pub(crate) fn credential(&self) -> Result<Option<Shown>, Failure> {
        let path = self.layout.credential();
        if path.exists() { Shown::load(&path).map(Some) } else { Ok(None) }
    }

    /// Makes the site with its first node.
    async fn make(&self, first: &NodePlace, copies: u8) -> Result<(), Failure> {
        match self.tls {
            true => local_node::found(&first.settings, NAME, GROUPS, copies, &self.layout.credential()).await?,
            false => local_node::init(&first.settings, NAME, GROUPS, copies).await?,
        };
        Ok(())
    }

    /// A join token, where the site has certificates.
    async fn token(&self) -> Result<Option<String>, Failure> {
        let Some(credential) = self.credential()? else { return Ok(None) };
        let end = Instant::now() + HEALTHY_WITHIN;
        loop {
            let asked = async {
                let client = connect_with(self.connect_options(), Some(&credential)).await?;
                let token = client.join_token(600).await.doing("ask for a join token")?;
                close(&client).await?;
                Ok(token)
            };
            match asked.await {
                Ok(token) => return Ok(Some(token)),
                Err(failure) if Instant::now() >= end => return Err(failure),
                Err(_) => tokio::time::sleep(ASK_EVERY).await,
            }
        }
    }

    /// How a client reaches it.
    pub(crate) fn connect_options(&self) -> ConnectOptions {
        ConnectOptions::new(self.layout.addrs())
    }

    /// Formats what is fresh, starts every node and waits until the site is healthy.
    ///
    /// # Errors
    /// A node does not start or ends again; nobody answers in time. Call [`DevSite::stop`] all the same.
    pub(crate) async fn start(&mut self) -> Result<(), Failure> {
        let nodes = self.layout.nodes.clone();
        check_free(nodes.iter().flat_map(|node| [&node.settings.listen, &node.settings.http])).map_err(|failure| {
            failure.hint("stop what listens there (a node left from before?), or begin elsewhere with --dir and --port")
        })?;
        self.layout.record().write(&self.layout.dir)?;
        match &nodes[..] {
            [only] => {
                output::line(format!("starting one node in {} ...", only.folder.display()))?;
                self.start_inside(only).await?;
            }
            nodes => {
                output::line(format!("starting {} nodes in {} ...", nodes.len(), self.layout.dir.display()))?;
                self.start_children(nodes).await?;
            }
        }
        self.wait_healthy().await
    }

    async fn start_inside(&mut self, node: &NodePlace) -> Result<(), Failure> {
        if !local_node::is_member(&node.settings).await? {
            self.make(node, 1).await?;
            output::line("made a new site with one copy of each chunk")?;
        }
        self.inside = Some(local_node::start(node.settings.clone()).await?);
        Ok(())
    }

    async fn start_children(&mut self, nodes: &[NodePlace]) -> Result<(), Failure> {
        let copies = MOST_COPIES.min(nodes.len() as u8);
        let (first, others) = (&nodes[0], &nodes[1..]);
        if !local_node::is_member(&first.settings).await? {
            self.make(first, copies).await?;
            output::line(format!("made a new site with {copies} copies of each chunk"))?;
        }
        self.children.start(first)?;
        let mut fresh = Vec::new();
        for node in others {
            match local_node::is_member(&node.settings).await? {
                true => self.children.start(node)?,
                false => fresh.push(node),
            }
        }
        for node in fresh {
            let peer = first.addr();
            let token = self.token().await?;
            let joined = self.unless_ended(local_node::join(&node.settings, &peer, token.as_deref())).await?;
            output::line(format!("node {} joined", joined.node))?;
            self.children.start(node)?;
        }
        Ok(())
    }

    /// Starts a node again that was killed.
    pub(crate) fn start_again(&mut self, number: u32) -> Result<(), Failure> {
        match self.layout.nodes.iter().find(|node| node.number == number) {
            Some(node) => self.children.start(node),
            None => Ok(()),
        }
    }

    /// Kills a node at once.
    pub(crate) async fn kill(&mut self, number: u32) -> Result<(), Failure> {
        self.children.kill(number).await
    }

    /// Waits for `work`, which is in vain once a node has ended.
    async fn unless_ended<T>(&mut self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            ended = self.children.ended() => {
                let log = ended.place.log();
                let mut what = format!("node {} {} while starting", ended.place.number, ended.how);
                for line in last_lines(&log) {
                    what += &format!("\n    {line}");
                }
                Err(Failure::new(what).hint(format!("its whole log: {}", log.display())))
            }
            done = work => done,
        }
    }

    /// Waits until nothing is wrong with the site. What is wrong for long is told, and no reason not to go on as long as
    /// somebody answers.
    pub(crate) async fn wait_healthy(&mut self) -> Result<(), Failure> {
        let (options, credential) = (self.connect_options(), self.credential()?);
        self.unless_ended(async {
            let end = Instant::now() + HEALTHY_WITHIN;
            let client = loop {
                match connect_with(options.clone(), credential.as_ref()).await {
                    Ok(client) => break client,
                    Err(failure) if Instant::now() >= end => return Err(failure),
                    Err(_) => tokio::time::sleep(ASK_EVERY).await,
                }
            };
            let mut problems = Vec::new();
            while Instant::now() < end {
                match tokio::time::timeout_at(end, status::ask(&client)).await {
                    Ok(Ok(status)) if status.healthy => return close(&client).await,
                    Ok(Ok(status)) => problems = status.problems,
                    Ok(Err(failure)) => problems = failure.what().map(str::to_string).into_iter().collect(),
                    Err(_) => break,
                }
                tokio::time::sleep(ASK_EVERY).await;
            }
            output::note(format!("not everything is whole after {} s:", HEALTHY_WITHIN.as_secs()));
            problems.iter().for_each(|problem| output::note(format!("  - {problem}")));
            close(&client).await
        })
        .await
    }

    /// Tells scripts that everything stands.
    pub(crate) fn ready(&mut self, mount: Option<&Path>) -> Result<(), Failure> {
        self.mount = mount.map(Path::to_path_buf);
        self.tell(State::Ready)
    }

    fn tell(&self, state: State) -> Result<(), Failure> {
        let mut record = self.layout.record();
        record.state = state;
        record.mount.clone_from(&self.mount);
        for node in &mut record.nodes {
            node.pid = match &self.inside {
                Some(_) => Some(std::process::id()),
                None => self.children.pid(node.number),
            };
        }
        if state == State::Stopped {
            record.pid = None;
        }
        record.write(&self.layout.dir)
    }

    /// Waits until a node ends by itself; says what that means.
    pub(crate) async fn child_ended(&mut self) -> String {
        if let Some(node) = &self.inside {
            node.ended().await;
            self.inside = None;
            return "the node serves no more: stop with Ctrl-C and start again".into();
        }
        let ended = self.children.ended().await;
        if let Err(failure) = self.tell(State::Ready) {
            output::warning(&failure);
        }
        let (number, how) = (ended.place.number, ended.how);
        format!(
            "node {number} {how}; the others go on. Its log: {}\n\
             start it again, from another terminal: weft node --config {}",
            ended.place.log().display(),
            ended.place.config().display()
        )
    }

    /// Stops every node: asks, waits, kills. An interrupt meanwhile kills at once.
    pub(crate) async fn stop(&mut self, interrupts: &mut Interrupts) -> Result<(), Failure> {
        if let Some(node) = self.inside.take() {
            tokio::select! {
                biased;
                () = interrupts.next() => {}
                () = node.shutdown() => {}
            }
        }
        tokio::select! {
            biased;
            () = interrupts.next() => {}
            () = self.children.stop() => {}
        }
        self.children.kill_all().await;
        self.mount = None;
        self.tell(State::Stopped)
    }
}

fn last_lines(log: &Path) -> Vec<String> {
    // Whoever can't read the log is told where it is.
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].iter().map(|line| line.to_string()).collect()
}
