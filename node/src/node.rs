//! One node: its parts put together, started and stopped.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::Either;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use weft_core::codec;
use weft_core::ids::GroupId;
use weft_core::refusal::Refusal;
use weft_core::site::{NodeJoin, SiteCommand};
use weft_proto::link;
use weft_proto::trust::{self, SecureDial};

use crate::chunk::ChunkServer;
use crate::fsck::FsckService;
use crate::http;
use crate::identity::{Bootstrap, Folder, FolderError, Identity};
use crate::meta::compact::{self, NewClient};
use crate::meta::{Groups, MetaService, RaftService};
use crate::metrics::Metrics;
use crate::parts::Parts;
use crate::settings::{Settings, SettingsError};
use crate::site::duties;
use crate::site::heart::{self, Standing};
use crate::site::lead::Lead;
use crate::site::map::MapCell;
use crate::site::peers::Peers;
use crate::site::route::Route;
use crate::site::service::SiteService;
use crate::trust::desk::Desk;
use crate::trust::gate::GateLayer;
use crate::trust::keeper::KeeperError;
use crate::trust::{Audit, Keeper, found};

/// How long the first node of a site waits for itself to lead its groups.
const BOOTSTRAP: Duration = Duration::from_secs(30);
/// How long requests in progress may take at a shutdown.
const DRAIN: Duration = Duration::from_millis(500);
/// Streams that one connection may have open.
const MAX_STREAMS: u32 = 4096;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings make no sense.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The data folder can't be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A port can't be listened on.
    #[error("listen on {addr}: {source}")]
    Listen {
        /// Where.
        addr: String,
        /// Why not.
        source: io::Error,
    },
    /// The settings give the node other roles than it joined with.
    #[error("this node joined its site with meta = {meta} and chunk = {chunk}: its settings must say the same")]
    Roles {
        /// Whether it holds meta replicas.
        meta: bool,
        /// Whether it holds chunks.
        chunk: bool,
    },
    /// What proves who this node is can't be used.
    #[error(transparent)]
    Trust(#[from] KeeperError),
    /// A part of the node can't be opened.
    #[error("open {what}: {why}")]
    Open {
        /// Which part.
        what: &'static str,
        /// Why not.
        why: String,
    },
    /// A new site could not be begun; starting the node again goes on with it.
    #[error("begin the site: {0}")]
    Bootstrap(Refusal),
}

/// A running node. Dropping it without [`Node::shutdown`] is like a crash: what was acknowledged is durable.
pub struct Node {
    identity: Identity,
    addr: String,
    http_addr: Option<String>,
    map: MapCell,
    standing: Arc<Standing>,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    ended: watch::Receiver<bool>,
    tasks: JoinSet<()>,
}

impl Node {
    /// Starts a node in a folder that belongs to a site. Returns once it listens; it may still be waiting for its peers.
    ///
    /// # Errors
    /// Settings, folder, port or a part are unusable. Nothing goes on in the background then.
    pub async fn start(mut settings: Settings, mut parts: Parts) -> Result<Node, StartError> {
        settings.check("settings")?;
        let folder = Folder(&*parts.disk);
        let identity = folder.identity().await?.ok_or(FolderError::Fresh)?;
        let bootstrap = folder.bootstrap().await?;
        let map = MapCell::default();
        if let Some(last) = folder.last_map().await.and_then(|bytes| codec::decode_sitemap(&bytes).ok()) {
            map.offer(last);
        }
        if let Some(record) = map.node(identity.node).filter(|record| record.incarnation == identity.incarnation)
            && (record.meta, record.chunk) != (settings.meta, settings.chunk)
        {
            return Err(StartError::Roles { meta: record.meta, chunk: record.chunk });
        }
        let keeper = Keeper::open(parts.disk.clone(), parts.clock.clone()).await?;
        if let Some(keeper) = &keeper {
            parts.dial = Arc::new(SecureDial::new(parts.dial.clone(), keeper.trust.clone()));
        }
        let (accept, bound) = listen(&parts, &settings.listen).await?;
        let web = match settings.http.as_str() {
            "" => None,
            addr => Some(listen(&parts, addr).await?),
        };
        let addr = settings.advertised(&bound);
        settings.advertise = addr.clone();
        let peers = Peers::new(parts.dial.clone(), map.clone());

        let groups = match settings.meta {
            true => Some(
                Groups::open(&parts, &settings, &identity, map.clone(), peers.clone())
                    .await
                    .map_err(|error| StartError::Open { what: "the metadata groups", why: error.to_string() })?,
            ),
            false => None,
        };
        let chunk = match settings.chunk {
            true => match ChunkServer::open(&parts, &settings.chunks, &identity, map.clone(), peers.clone()).await {
                Ok(chunk) => Some(chunk),
                Err(error) => {
                    close(&groups, &None).await;
                    return Err(StartError::Open { what: "the chunk server", why: error.to_string() });
                }
            },
            false => None,
        };

        let metrics = Metrics::new();
        let lease = Duration::from_millis(settings.lease_ms);
        let known = settings.peers.iter().filter(|peer| **peer != addr).cloned().collect();
        let route = Arc::new(Route::new(identity.node, groups.clone(), map.clone(), peers.clone(), known));
        let (audit, audit_writer) = match &keeper {
            Some(_) => {
                let (audit, writer) = Audit::new(parts.clock.clone(), parts.disk.clone());
                (audit, Some(writer))
            }
            None => (Audit::silent(parts.clock.clone()), None),
        };
        let desk =
            Desk { clock: parts.clock.clone(), dice: parts.dice.clone(), audit: audit.clone(), keeper: keeper.clone() };
        let lead = Arc::new(Lead::new(map.clone(), lease, Duration::from_secs(settings.repair_after_s), desk.clone()));
        let standing = Arc::new(Standing::new(
            identity.clone(),
            (addr.clone(), settings.labels_at(&addr)),
            groups.clone(),
            chunk.clone(),
            map.clone(),
            parts.disk.clone(),
            metrics.clone(),
        ));
        standing.shows_trust(desk);
        let site = SiteService {
            route: route.clone(),
            lead: lead.clone(),
            map: map.clone(),
            standing: standing.clone(),
            keeper: keeper.clone(),
        };

        let (stop, stop_seen) = watch::channel(false);
        let mut router = link::server()
            .max_concurrent_streams(MAX_STREAMS)
            .concurrency_limit_per_connection(settings.requests_per_connection)
            .layer(metrics.layer())
            .layer(GateLayer::new(keeper.clone(), map.clone(), audit.clone()))
            .add_service(site.clone().server())
            .add_service(FsckService::new(identity.replica(), groups.clone(), chunk.clone()).server());
        if let Some(groups) = &groups {
            router = router
                .add_service(MetaService::new(groups.clone()).guarded(keeper.clone(), map.clone()).server())
                .add_service(RaftService::new(groups.clone()).server());
        }
        if let (Some(chunk), Some(keeper)) = (&chunk, &keeper) {
            chunk.guard(keeper.clone());
        }
        if let Some(chunk) = &chunk {
            router = router.add_service(chunk.service());
        }
        let mut until = stop_seen.clone();
        let (ending, ended) = watch::channel(false);
        let links = match &keeper {
            Some(keeper) => {
                let doorman = Arc::new(audit.clone());
                Either::Left(trust::secured(accept, keeper.trust.clone(), trust::Limits::default(), doorman))
            }
            None => Either::Right(link::incoming(accept)),
        };
        let server = tokio::spawn(async move {
            let _ending = ending;
            let stopping = async move { stopped(&mut until).await };
            if let Err(error) = router.serve_with_incoming_shutdown(links, stopping).await {
                tracing::error!(%error, "serve");
            }
        });

        let mut tasks = JoinSet::new();
        if let Some(writer) = audit_writer {
            let mut until = stop_seen.clone();
            tasks.spawn(async move {
                tokio::select! { biased;
                    () = stopped(&mut until) => {}
                    () = writer.run() => {}
                }
            });
        }
        let http_addr = web.map(|(accept, bound)| {
            tasks.spawn(http::serve(accept, standing.clone(), stop_seen.clone()));
            bound
        });
        if let Some(groups) = &groups {
            tasks.spawn(heart::follow_group(groups.clone(), map.clone(), stop_seen.clone()));
            tasks.spawn(duties::run_groups(groups.clone(), standing.clone(), stop_seen.clone()));
            let asked = site.clone();
            let client: NewClient = Box::new(move || {
                let asked = asked.clone();
                Box::pin(async move { asked.client_id().await })
            });
            tasks.spawn(compact::run(groups.clone(), peers.clone(), client, stop_seen.clone()));
            tasks.spawn(duties::run_system(route, lead.clone(), standing.clone(), stop_seen.clone()));
        }
        let node = Node { identity, addr, http_addr, map, standing, stop, server, ended, tasks };
        if let Some(mark) = bootstrap {
            if let Err(refusal) = node.begin_site(&settings, &lead, mark).await {
                node.shutdown().await;
                return Err(StartError::Bootstrap(refusal));
            }
            if let Err(error) = folder.set_bootstrap(None).await {
                node.shutdown().await;
                return Err(error.into());
            }
        }
        let mut node = node;
        node.tasks.spawn(heart::run(site, Duration::from_millis(settings.heartbeat_ms), stop_seen));
        tracing::info!(node = %node.identity.node, site = node.identity.site_name, addr = node.addr, "started");
        Ok(node)
    }

    /// Where it answers, as told to others.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// Where its metrics are, if anywhere.
    pub fn http_addr(&self) -> Option<&str> {
        self.http_addr.as_deref()
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The site map it holds, for whoever runs a node within a program.
    pub fn map(&self) -> &MapCell {
        &self.map
    }

    /// Its meta groups, if it holds any.
    pub fn groups(&self) -> Option<&Arc<Groups>> {
        self.standing.groups.as_ref()
    }

    /// Its chunk server, if it has one.
    pub fn chunk(&self) -> Option<&Arc<ChunkServer>> {
        self.standing.chunk.as_ref()
    }

    /// Returns once the node serves no more.
    pub async fn wait(&self) {
        stopped(&mut self.ended.clone()).await;
    }

    /// Stops it: takes no more requests, gives those in progress a moment, closes its stores.
    pub async fn shutdown(mut self) {
        // Nobody listens any more if every task has ended already.
        let _ = self.stop.send(true);
        if tokio::time::timeout(DRAIN, &mut self.server).await.is_err() {
            self.server.abort();
            // Its end is all that is waited for.
            let _ = (&mut self.server).await;
        }
        if tokio::time::timeout(DRAIN, async { while self.tasks.join_next().await.is_some() {} }).await.is_err() {
            self.tasks.shutdown().await;
        }
        close(&self.standing.groups, &self.standing.chunk).await;
    }

    /// Writes the first entries of a new site. May be done again after a crash at any point.
    async fn begin_site(&self, settings: &Settings, lead: &Lead, mark: Bootstrap) -> Result<(), Refusal> {
        let groups = self.standing.groups.as_ref().ok_or_else(|| Refusal::NotServed { what: "metadata".into() })?;
        groups.bootstrap(GroupId::SYSTEM).await?;
        let system =
            groups.group(GroupId::SYSTEM).ok_or_else(|| Refusal::NotServed { what: "the system group".into() })?;
        let init = SiteCommand::Init {
            site: self.identity.site,
            name: self.identity.site_name.clone(),
            groups: mark.groups,
            replication: mark.replication,
            first: NodeJoin {
                incarnation: self.identity.incarnation,
                addr: self.addr.clone(),
                meta: settings.meta,
                chunk: settings.chunk,
            },
        };
        let end = Instant::now() + BOOTSTRAP;
        loop {
            let refusal = match lead.propose(&system, init.clone()).await {
                Ok(_) => break,
                Err(refusal) => refusal,
            };
            let passing = matches!(refusal, Refusal::NotLeader { .. } | Refusal::Busy { .. } | Refusal::Unknown { .. });
            if !passing || Instant::now() >= end {
                return Err(refusal);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let disk = &*self.standing.disk;
        let folder = |error: FolderError| Refusal::DiskFailed { why: error.to_string() };
        if let Some(founding) = found::founding(disk).await.map_err(folder)? {
            lead.propose(&system, founding).await?;
            found::founded(disk).await.map_err(folder)?;
        }
        for group in 1..=mark.groups {
            groups.bootstrap(GroupId(group)).await?;
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Returns once the value is true or its sender is gone.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that nobody is left to say so, which says it too.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn listen(parts: &Parts, addr: &str) -> Result<(Box<dyn link::Accept>, String), StartError> {
    let failed = |source| StartError::Listen { addr: addr.to_string(), source };
    let accept = parts.listen.listen(addr).await.map_err(failed)?;
    let bound = accept.local_addr().map_err(failed)?;
    Ok((accept, bound))
}

async fn close(groups: &Option<Arc<Groups>>, chunk: &Option<Arc<ChunkServer>>) {
    if let Some(chunk) = chunk {
        chunk.shutdown().await;
    }
    if let Some(groups) = groups {
        groups.shutdown().await;
    }
}
