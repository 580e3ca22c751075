//! A connected client: the site, its volumes, and what lives in one client alone.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use weft_core::entry::Cred;
use weft_core::ids::{Ino, NodeId, VolumeId};
use weft_core::name::Name;
use weft_core::namespace::inode::SlotRef;
use weft_core::namespace::query::{Answer, Found, Query};
use weft_core::refusal::Refusal;
use weft_core::site::{self, SiteMap};

use crate::budget::Budget;
use crate::chunks::{Naming, ReadCache};
use crate::error::{Error, Result};
use crate::file::FileTable;
use crate::grpc::Grpc;
use crate::lease::{LeaseStats, Leases};
use crate::options::ConnectOptions;
use crate::parts::ClientParts;
use crate::servers::{Call, NewVolume, Servers};
use crate::session::Sessions;
use crate::status::NodeReport;
use crate::topology::Topology;
use crate::trial::Trial;
use crate::volume::Volume;

/// How often idle files are looked for.
const TICK: Duration = Duration::from_millis(250);
/// How often the site map is asked for without a reason.
const MAP_EVERY: Duration = Duration::from_secs(5);

/// A client of one site. Cloning it shares it; [`Client::close`] ends it.
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
}

/// What all clones of a client share.
pub(crate) struct Shared {
    pub(crate) options: ConnectOptions,
    pub(crate) parts: ClientParts,
    pub(crate) servers: Arc<dyn Servers>,
    pub(crate) topology: Topology,
    pub(crate) sessions: Sessions,
    pub(crate) files: FileTable,
    pub(crate) leases: Leases,
    /// How often something was lost that had been answered under a write lease.
    pub(crate) losses: AtomicU64,
    pub(crate) cache: ReadCache,
    pub(crate) budget: Budget,
    /// The id handed out at connecting; 0 before.
    pub(crate) client_id: AtomicU64,
    pub(crate) naming: Naming,
    slots: Mutex<BTreeMap<SlotRef, (VolumeId, Instant)>>,
    closed: AtomicBool,
}

impl Shared {
    /// Whether calls may still be made.
    pub(crate) fn open(&self) -> Result<()> {
        match self.closed.load(Ordering::Acquire) {
            true => Err(Error::Closed),
            false => Ok(()),
        }
    }
}

impl Client {
    /// Connects through any node that answers and gets a client id.
    ///
    /// # Errors
    /// None of the addresses answered within the deadline, or the site speaks another protocol version.
    pub async fn connect(options: ConnectOptions, parts: ClientParts) -> Result<Client> {
        let servers = Arc::new(Grpc::new(parts.dial.clone(), options.data_connections));
        Client::connect_to(options, parts, servers).await
    }

    pub(crate) async fn connect_to(
        options: ConnectOptions,
        parts: ClientParts,
        servers: Arc<dyn Servers>,
    ) -> Result<Client> {
        let shared = Arc::new(Shared {
            topology: Topology::default(),
            sessions: Sessions::default(),
            files: FileTable::default(),
            leases: Leases::default(),
            losses: AtomicU64::new(0),
            cache: ReadCache::new(options.read_cache_bytes),
            budget: Budget::default(),
            client_id: AtomicU64::new(0),
            naming: Naming::default(),
            slots: Mutex::default(),
            closed: AtomicBool::new(false),
            options,
            parts,
            servers,
        });
        shared.refresh_surely().await?;
        shared.client_id.store(shared.new_client_id().await?.0, Ordering::Relaxed);
        tokio::spawn(tend(Arc::downgrade(&shared)));
        Ok(Client { shared })
    }

    /// The newest site map this client has seen.
    pub fn site_map(&self) -> Arc<SiteMap> {
        self.shared.topology.map()
    }

    /// Asks the site for its map now.
    ///
    /// # Errors
    /// No node answered within the deadline.
    pub async fn refresh_map(&self) -> Result<Arc<SiteMap>> {
        self.shared.refresh_surely().await?;
        Ok(self.site_map())
    }

    /// The volumes of the site, by id.
    ///
    /// # Errors
    /// No node answered within the deadline.
    pub async fn volumes(&self) -> Result<Vec<site::Volume>> {
        Ok(self.refresh_map().await?.volumes.clone())
    }

    /// Makes a volume whose chunks have `replication` copies (1 to 3) and waits until it can be used. With `at` also a
    /// junction to it at that path, whose parent must exist.
    ///
    /// # Errors
    /// The name is taken, or the junction can't be made (then the volume exists without it).
    pub async fn create_volume(&self, name: &str, replication: u8, at: Option<&[u8]>) -> Result<Volume> {
        let place = match at {
            Some(path) => Some(self.resolve_parent(&Cred::root(), path).await?),
            None => None,
        };
        let new = NewVolume { name: name.to_string(), replication, token: self.shared.parts.dice.roll() };
        let id = self.shared.create_volume(new).await?;
        let volume = self.ready_volume(|volume| volume.id == id, name).await?;
        if let Some(place) = place {
            let slot = SlotRef { space: volume.info.space, slot: volume.info.slot };
            place.volume.make_junction(&Cred::root(), place.parent, place.name, slot).await?;
        }
        Ok(volume)
    }

    /// Deletes a volume with everything in it, for ever. Its name is free when this returns; a moment later its group
    /// knows it no more, and who has files of it open gets errors. Its records and chunks are removed in the background,
    /// and until then the site lists it as being deleted. A junction to it at `/NAME` goes too; one elsewhere leads
    /// nowhere.
    ///
    /// # Errors
    /// There is no such volume, or it is the root volume.
    pub async fn delete_volume(&self, name: &str) -> Result<()> {
        if name == site::ROOT_VOLUME {
            return Err(Error::Refused(Refusal::Invalid { why: "the root volume is not deleted".into() }));
        }
        let volume = self.volume(name).await?;
        let slot = SlotRef { space: volume.info.space, slot: volume.info.slot };
        if let Ok(entry) = Name::parse(name.as_bytes().to_vec()) {
            let (root, cred) = (self.volume(site::ROOT_VOLUME).await?, Cred::root());
            match root.lookup(&cred, Ino::ROOT, entry.clone()).await {
                Ok(Found::Junction(leads)) if leads == slot => root.remove_junction(&cred, Ino::ROOT, entry).await?,
                Ok(_) | Err(Error::Refused(Refusal::NoEntry)) => {}
                Err(error) => return Err(error),
            }
        }
        let id = volume.id();
        self.shared.at_site(async |addr, call| self.shared.servers.delete_volume(addr, call, id).await).await?;
        self.shared.slots.lock().remove(&slot);
        let mut trial = Trial::new(&self.shared.options);
        while self.refresh_map().await?.volumes.iter().any(|volume| volume.id == id && !volume.deleting) {
            // The node that was asked has not heard of it yet.
            let why = format!("volume {name} is still in the site map");
            trial.pause(&*self.shared.parts.dice, Duration::ZERO, &why).await?;
        }
        Ok(())
    }

    /// The volume of a name.
    ///
    /// # Errors
    /// There is none (ENOENT).
    pub async fn volume(&self, name: &str) -> Result<Volume> {
        self.find_volume(|volume| volume.name == name && !volume.deleting, name).await
    }

    /// The volume of an id.
    ///
    /// # Errors
    /// There is none (ENOENT).
    pub async fn volume_by_id(&self, id: VolumeId) -> Result<Volume> {
        self.find_volume(|volume| volume.id == id, &format!("number {id}")).await
    }

    /// The volume a junction leads to.
    ///
    /// # Errors
    /// There is no such slot (ENOENT).
    pub async fn follow(&self, slot: SlotRef) -> Result<Volume> {
        let held = self.shared.slots.lock().get(&slot).copied();
        if let Some((volume, at)) = held
            && at.elapsed() <= self.shared.options.map_ttl
        {
            return self.volume_by_id(volume).await;
        }
        let known = |map: &SiteMap| map.volumes.iter().find(|v| v.space == slot.space).map(|v| v.id);
        let any = match known(&self.site_map()) {
            Some(id) => id,
            None => match known(&*self.refresh_map().await?) {
                Some(id) => id,
                None => return Err(Error::Refused(Refusal::NoSlot { slot: slot.slot })),
            },
        };
        let query = Query::Slot { space: slot.space, slot: slot.slot };
        let asked = Instant::now();
        match self.shared.query(slot.space, &Cred::root(), any, &query).await? {
            Answer::Slot(volume) => {
                self.shared.slots.lock().insert(slot, (volume, asked));
                self.volume_by_id(volume).await
            }
            _ => Err(Error::unexpected("a question about a slot")),
        }
    }

    /// What a node says of itself.
    ///
    /// # Errors
    /// The site has no such node, or it does not answer in one attempt.
    pub async fn node_status(&self, node: NodeId) -> Result<NodeReport> {
        self.shared.open()?;
        let Some(node) = self.shared.topology.node(node) else {
            return Err(Error::Refused(Refusal::Invalid { why: format!("the site has no node {node}") }));
        };
        let call = self.shared.plain_call(self.shared.options.attempt);
        Ok(self.shared.servers.node_status(&node.addr, call).await?)
    }

    /// How often something was lost that this client had been answered under a write lease: what somebody keeps of files
    /// by their versions is right only while this stays the same.
    pub fn losses(&self) -> u64 {
        self.shared.losses.load(Ordering::Acquire)
    }

    /// What write leases have spared this client.
    pub fn lease_stats(&self) -> LeaseStats {
        self.shared.leases.stats()
    }

    /// Flushes every file, ends the client's sessions, and stops its tasks. Later calls fail with [`Error::Closed`].
    ///
    /// # Errors
    /// Written data could not be made durable; the client is closed all the same.
    pub async fn close(&self) -> Result<()> {
        let mut result = Ok(());
        for file in self.shared.files.all() {
            if let Err(error) = file.settle().await {
                result = result.and(Err(error));
            }
        }
        result = result.and(self.shared.end_leases().await);
        self.shared.end_sessions().await;
        self.shared.closed.store(true, Ordering::Release);
        self.shared.cache.clear();
        result
    }

    /// A volume in the map, or in a newer one.
    async fn find_volume(&self, is_it: impl Fn(&site::Volume) -> bool, what: &str) -> Result<Volume> {
        self.shared.open()?;
        if let Some(found) = self.site_map().volumes.iter().find(|volume| is_it(volume) && volume.ready) {
            return Ok(self.make_volume(found));
        }
        match self.refresh_map().await?.volumes.iter().find(|volume| is_it(volume)) {
            Some(found) if found.ready => Ok(self.make_volume(found)),
            Some(_) => self.ready_volume(is_it, what).await,
            None => Err(Error::Refused(Refusal::NoVolume { what: what.to_string() })),
        }
    }

    /// A volume that is or will soon be in the map, once it is ready.
    async fn ready_volume(&self, is_it: impl Fn(&site::Volume) -> bool, what: &str) -> Result<Volume> {
        let mut trial = Trial::new(&self.shared.options);
        loop {
            let map = self.refresh_map().await?;
            if let Some(found) = map.volumes.iter().find(|volume| is_it(volume) && volume.ready) {
                return Ok(self.make_volume(found));
            }
            let why = format!("volume {what} is not ready");
            trial.pause(&*self.shared.parts.dice, Duration::ZERO, &why).await?;
        }
    }

    fn make_volume(&self, info: &site::Volume) -> Volume {
        Volume { client: self.clone(), info: Arc::new(info.clone()) }
    }
}

impl Shared {
    /// Asks for a volume until the outcome is known; the token makes it one volume however often it is asked for.
    async fn create_volume(&self, new: NewVolume) -> Result<VolumeId> {
        self.at_site(async |addr, call| self.servers.create_volume(addr, call, new.clone()).await).await
    }

    /// Asks one node after another until the outcome is known. Asking again must do no harm.
    pub(crate) async fn at_site<T>(&self, ask: impl AsyncFn(&str, Call) -> Result<T, Refusal>) -> Result<T> {
        let mut trial = Trial::new(&self.options);
        loop {
            self.open()?;
            let mut last = Refusal::Unknown { why: "no address to ask".into() };
            for addr in self.topology.addrs(&self.options.addrs) {
                match ask(&addr, self.plain_call(trial.wait())).await {
                    Ok(answer) => return Ok(answer),
                    Err(
                        refusal @ (Refusal::NotLeader { .. }
                        | Refusal::NotServed { .. }
                        | Refusal::Unknown { .. }
                        | Refusal::Busy { .. }
                        | Refusal::WrongRecipient { .. }
                        | Refusal::DiskFailed { .. }),
                    ) => last = refusal,
                    Err(refusal) => return Err(Error::Refused(refusal)),
                }
            }
            trial.pause(&*self.parts.dice, Duration::ZERO, &last.to_string()).await?;
        }
    }
}

/// What a client does without being asked: idle files are flushed, the map is kept fresh.
async fn tend(shared: Weak<Shared>) {
    let mut map_at = Instant::now() + MAP_EVERY;
    loop {
        tokio::time::sleep(TICK).await;
        let Some(shared) = shared.upgrade() else { return };
        if shared.open().is_err() {
            return;
        }
        for file in shared.files.all() {
            file.flush_if_idle();
        }
        if Instant::now() >= map_at {
            if let Err(refusal) = shared.refresh().await {
                tracing::debug!(%refusal, "refresh the site map");
            }
            map_at = Instant::now() + MAP_EVERY;
        }
    }
}
