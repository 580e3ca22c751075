//! What a node holds of trust while it runs: its own certificate, whom it believes, and the keys of capabilities. It is
//! replaced in place as the site says something new, and what must outlive the process is written to the folder first.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use weft_core::access::capability::{self, Capability};
use weft_core::access::principal::Principal;
use weft_core::ids::{ClientId, SpaceId};
use weft_core::refusal::Refusal;
use weft_core::site::trust::TrustNews;
use weft_proto::trust::{Credential, Distrust, Held, Trust, issued_by};

use crate::identity::{FolderError, disk_error};
use crate::parts::{Clock, Disk};

/// The small file of a data folder that holds the node's certificate, its key, and the authorities.
pub const TRUST_FILE: &str = "trust";

/// What a node holds of trust. A site in plain text has none.
pub struct Keeper {
    /// What its connections use.
    pub trust: Trust,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    now: Mutex<State>,
}

struct State {
    credential: Credential,
    news: Arc<TrustNews>,
}

/// Why what a folder says of trust can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The file can't be read, or holds something else.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The certificate is not good.
    #[error("this node's certificate: {0}; join again with a new token, or set the clock right")]
    Distrust(Distrust),
}

impl Keeper {
    /// What a folder has; `None` if its site is one in plain text.
    ///
    /// # Errors
    /// The file is damaged or can't be read; the certificate is not good now.
    pub async fn open(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>) -> Result<Option<Arc<Keeper>>, KeeperError> {
        let Some(credential) = read(&*disk).await? else { return Ok(None) };
        let timed = clock.clone();
        let now = Arc::new(move || timed.now().secs.max(0).unsigned_abs());
        let trust = Trust::new(&credential.held, now).map_err(KeeperError::Distrust)?;
        let now = Mutex::new(State { credential, news: Arc::default() });
        Ok(Some(Arc::new(Keeper { trust, disk, clock, now })))
    }

    /// What the site said last; version 0 before it said anything.
    pub fn news(&self) -> Arc<TrustNews> {
        self.now.lock().news.clone()
    }

    /// What lets a client store and read chunks of a space; empty while this node has heard of no key.
    pub fn capability(&self, user: &Principal, client: ClientId, space: SpaceId) -> Bytes {
        let rights = capability::READ | capability::WRITE;
        let says = Capability { client, space, tenant: user.tenant, rights, ..Capability::default() };
        super::capability::mint(&self.news(), says, self.clock.now().secs).unwrap_or_default()
    }

    /// Whether what a client shows gives it a right to the chunks of a space now.
    ///
    /// # Errors
    /// As [`super::capability::check`].
    pub fn check_capability(&self, shown: &[u8], client: ClientId, space: SpaceId, right: u8) -> Result<(), Refusal> {
        super::capability::check(&self.news(), shown, client, space, right, self.clock.now().secs)
    }

    /// Until when the node's certificate is good, in seconds since 1970.
    pub fn until(&self) -> i64 {
        self.now.lock().credential.until
    }

    /// The authorities that it believes.
    pub fn authorities(&self) -> Vec<Vec<u8>> {
        self.now.lock().credential.held.authorities.clone()
    }

    /// Takes up what the site says, if it is newer.
    ///
    /// # Errors
    /// The disk failed; what was held stays.
    pub async fn hear(&self, news: TrustNews) -> Result<(), KeeperError> {
        if news.version <= self.news().version {
            return Ok(());
        }
        self.trust.revoke(news.revoked.iter().copied().collect::<BTreeSet<_>>());
        let ders = |list: &[Bytes]| list.iter().map(|der| der.to_vec()).collect::<Vec<_>>();
        let (authorities, crosses) = (ders(&news.authorities), ders(&news.crosses));
        let held = self.now.lock().credential.clone();
        if !authorities.is_empty() && (&held.held.authorities, &held.held.crosses) != (&authorities, &crosses) {
            self.replace(Credential { held: Held { authorities, crosses, ..held.held }, until: held.until }).await?;
        }
        self.now.lock().news = Arc::new(news);
        Ok(())
    }

    /// Whether it is time for a new certificate: less than `least` seconds are left, or an authority that is not the
    /// newest signed it.
    pub fn is_old(&self, now: i64, least: i64) -> bool {
        let state = self.now.lock();
        let newest = state.news.authorities.last();
        state.credential.until - now < least
            || newest.is_some_and(|newest| !issued_by(&state.credential.held.certificate, newest))
    }

    /// Uses another certificate from now on.
    ///
    /// # Errors
    /// It is not good, or can't be written; what was held stays.
    pub async fn renew(
        &self,
        certificate: Vec<u8>,
        key: zeroize::Zeroizing<Vec<u8>>,
        until: i64,
    ) -> Result<(), KeeperError> {
        let held = self.now.lock().credential.held.clone();
        self.replace(Credential { held: Held { certificate, key, ..held }, until }).await
    }

    async fn replace(&self, credential: Credential) -> Result<(), KeeperError> {
        write(&*self.disk, &credential).await?;
        self.trust.replace(&credential.held).map_err(KeeperError::Distrust)?;
        self.now.lock().credential = credential;
        Ok(())
    }
}

/// What a folder holds of trust, if anything.
///
/// # Errors
/// It is damaged, or the disk failed.
pub async fn read(disk: &dyn Disk) -> Result<Option<Credential>, FolderError> {
    let bytes = match disk.read_small(Path::new(TRUST_FILE)).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(disk_error("read trust in the data folder", source)),
    };
    let damaged = || FolderError::Damaged { file: TRUST_FILE, why: "it is no credential".into() };
    let text = std::str::from_utf8(&bytes).map_err(|_| damaged())?;
    Credential::parse(text).map(Some).ok_or_else(damaged)
}

/// Replaces what a folder holds of trust.
///
/// # Errors
/// The disk failed.
pub async fn write(disk: &dyn Disk, credential: &Credential) -> Result<(), FolderError> {
    let text = credential.print();
    let written = disk.write_small(Path::new(TRUST_FILE), text.as_bytes()).await;
    written.map_err(|source| disk_error("write trust in the data folder", source))
}
