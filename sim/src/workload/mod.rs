//! Clients at work. Every kind of work is a file with a function `client`, in the table of [`start`]: it works until its
//! time is over, writes what it was told into [`Memory`], and counts itself as finished. Laws judge what they remember.

pub mod contend;
pub mod files;
pub mod leased;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use weft_client::{Client, ConnectOptions, Cred, Error, Found, Ino, Name, Volume};

use self::leased::Arena;
use crate::run::{Faults, Violation};
use crate::world;

/// Starts the clients of a run, kinds taking turns.
pub(crate) fn start(sim: &mut turmoil::Sim<'_>, names: &[String], seed: u64, until: Duration, shared: &Shared) {
    for (id, name) in (0u64..).zip(names) {
        let shared = shared.clone();
        match id % 2 {
            0 => sim.client(name.as_str(), files::client(id, seed, until, shared)),
            _ => sim.client(name.as_str(), leased::client(id, seed, until, shared)),
        }
    }
}

/// What a name may hold: `None` no file, else the file's bytes. More than one while an outcome is unknown.
pub type Possible = Vec<Option<Bytes>>;

/// What all clients were told.
#[derive(Default)]
pub struct Memory {
    /// By name in the shared directory.
    pub names: BTreeMap<String, Possible>,
    /// Calls of clients that contend for the same names.
    pub history: contend::History,
    /// Directories that clients with write leases made and all of them contend in.
    pub arenas: Vec<Arena>,
    /// The directory of a worker's names, where it is not the shared one.
    pub places: BTreeMap<u64, Ino>,
    /// Counts.
    pub faults: Faults,
    /// The first broken law.
    pub broken: Option<Violation>,
    /// Clients that are through with their work: only then is what they remember complete.
    pub finished: u64,
}

/// Shared by the clients of one simulation.
pub type Shared = Rc<RefCell<Memory>>;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// The directory all clients work in.
pub const DIRECTORY: &[u8] = b"work";

/// Connects; asks again until a fabric that is just starting answers.
pub async fn connect() -> Result<(Client, Volume), Error> {
    connect_with(|_| {}).await
}

/// The same with other settings.
///
/// # Errors
/// None that a later attempt could mend.
pub async fn connect_with(change: impl Fn(&mut ConnectOptions)) -> Result<(Client, Volume), Error> {
    let mut options = ConnectOptions::new(world::addrs());
    options.deadline = Duration::from_secs(30);
    change(&mut options);
    loop {
        let attempt = async {
            let client = Client::connect(options.clone(), world::client_parts()).await?;
            let volume = client.volume("root").await?;
            Ok((client, volume))
        };
        match attempt.await {
            Ok(connected) => return Ok(connected),
            Err(error) => {
                let _: &Error = &error;
                tracing::info!(%error, "connect");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }
}

/// A shared directory, made by whoever comes first.
///
/// # Errors
/// The fabric did not answer in time.
pub async fn directory(volume: &Volume, name: &'static [u8]) -> Result<Ino, Error> {
    let (cred, name) = (Cred::root(), Name::parse(name)?);
    loop {
        match volume.lookup(&cred, Ino::ROOT, name.clone()).await {
            Ok(Found::Inode(attr)) => return Ok(attr.ino),
            Ok(Found::Junction(_)) => unreachable!("nobody makes junctions here"),
            Err(error) if error.errno() == libc::ENOENT => {}
            Err(error) => return Err(error),
        }
        match volume.mkdir(&cred, Ino::ROOT, name.clone(), 0o755).await {
            Ok(attr) => return Ok(attr.ino),
            Err(error) if error.errno() == libc::EEXIST => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whose name it is.
pub fn worker_of(name: &str) -> u64 {
    let id = name.strip_prefix('c').and_then(|rest| rest.split('-').next());
    id.and_then(|id| id.parse().ok()).unwrap_or(u64::MAX)
}

/// What a read found that should not be.
pub fn differs(expected: &Possible, found: &Option<Bytes>) -> String {
    let describe = |content: &Option<Bytes>| match content {
        None => "no file".to_string(),
        Some(bytes) => format!("{} bytes with sum {:08x}", bytes.len(), crate::world::sum(bytes)),
    };
    let expected: Vec<String> = expected.iter().map(describe).collect();
    format!("found {}, expected {}", describe(found), expected.join(" or "))
}

/// The whole file behind a name, `None` if there is none.
///
/// # Errors
/// The fabric did not answer in time, or an error that is no answer to the question.
pub async fn read_name(volume: &Volume, cred: &Cred, dir: Ino, name: &str) -> Result<Option<Bytes>, Error> {
    let attr = match volume.lookup(cred, dir, Name::parse(name.as_bytes().to_vec())?).await {
        Ok(Found::Inode(attr)) => attr,
        Ok(Found::Junction(_)) => unreachable!("nobody makes junctions here"),
        Err(error) if error.errno() == libc::ENOENT => return Ok(None),
        Err(error) => return Err(error),
    };
    let file = volume.open(cred, attr.ino, true, false).await?;
    let size = file.attr().await?.size;
    let mut bytes = Vec::with_capacity(size as usize);
    while (bytes.len() as u64) < size {
        let piece = file.read_at(bytes.len() as u64, (size - bytes.len() as u64).min(1 << 20) as usize).await?;
        if piece.is_empty() {
            break;
        }
        bytes.extend_from_slice(&piece);
    }
    file.close().await?;
    Ok(Some(bytes.into()))
}
