//! What putting and getting trees have in common: files copied side by side, and what is half done removed when the
//! command is interrupted.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use weft_client::{Cred, Ino, Name, Volume};

use crate::args::TransferArgs;
use crate::failure::Failure;
use crate::interrupt::Troubles;
use crate::output;
use crate::progress::Progress;

/// Bytes moved at a time.
pub(crate) const PIECE: usize = 1 << 20;
/// How long the removal of half-made files may take after Ctrl-C.
const CLEAN_WITHIN: Duration = Duration::from_secs(5);

/// What all files of one transfer share. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Transfer {
    pub(crate) cred: Cred,
    pub(crate) preserve: bool,
    pub(crate) recursive: bool,
    pub(crate) progress: Arc<Progress>,
    pub(crate) troubles: Arc<Troubles>,
    unfinished: Arc<Mutex<Unfinished>>,
    slots: Arc<Semaphore>,
}

/// Files under temporary names.
#[derive(Default)]
struct Unfinished {
    next: u64,
    files: BTreeMap<u64, Half>,
}

/// A file that is not whole yet.
pub(crate) enum Half {
    /// In the site.
    Site(Volume, Ino, Name),
    /// On this machine.
    Local(PathBuf),
}

/// A half-made file; once dropped it is somebody else's or gone.
pub(crate) struct HalfMade {
    unfinished: Arc<Mutex<Unfinished>>,
    number: u64,
}

impl HalfMade {
    /// It has its real name now, or is removed.
    pub(crate) fn settled(self) {
        lock(&self.unfinished).files.remove(&self.number);
    }
}

fn lock(unfinished: &Mutex<Unfinished>) -> MutexGuard<'_, Unfinished> {
    unfinished.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Transfer {
    /// One that follows what the command line says.
    pub(crate) fn new(cred: Cred, how: &TransferArgs) -> Transfer {
        Transfer {
            cred,
            preserve: how.preserve,
            recursive: how.recursive,
            progress: Arc::new(Progress::new(how.quiet || how.json)),
            troubles: Arc::default(),
            unfinished: Arc::default(),
            slots: Arc::new(Semaphore::new(how.jobs.into())),
        }
    }

    /// Remembers a file under a temporary name until it is settled.
    pub(crate) fn half_made(&self, half: Half) -> HalfMade {
        let mut unfinished = lock(&self.unfinished);
        let number = unfinished.next;
        unfinished.next += 1;
        unfinished.files.insert(number, half);
        HalfMade { unfinished: self.unfinished.clone(), number }
    }

    /// Starts copying a file beside the others, waiting for its turn first. What goes wrong is told, and the others go on.
    pub(crate) async fn spawn(
        &self,
        tasks: &mut JoinSet<()>,
        copy: impl Future<Output = Result<(), Failure>> + Send + 'static,
    ) {
        // Never closed.
        let Ok(slot) = self.slots.clone().acquire_owned().await else { return };
        while tasks.try_join_next().is_some() {}
        let transfer = self.clone();
        tasks.spawn(async move {
            if let Err(failure) = copy.await {
                transfer.tell(&failure);
            }
            drop(slot);
        });
    }

    /// Tells of a failure that does not end the transfer.
    pub(crate) fn tell(&self, failure: &Failure) {
        self.progress.aside(|| self.troubles.tell(failure));
    }

    /// Removes what is half made. Returns what could not be, for people to remove.
    async fn clean(&self) -> Vec<String> {
        let files = std::mem::take(&mut lock(&self.unfinished).files);
        let mut left = Vec::new();
        for half in files.into_values() {
            match half {
                Half::Site(volume, parent, name) => {
                    let removal = volume.unlink(&self.cred, parent, name.clone());
                    match tokio::time::timeout(CLEAN_WITHIN, removal).await {
                        Ok(Ok(_)) => {}
                        Ok(Err(error)) if error.refusal() == Some(&weft_client::Refusal::NoEntry) => {}
                        Ok(Err(_)) | Err(_) => left.push(name.to_string()),
                    }
                }
                Half::Local(path) => match std::fs::remove_file(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => left.push(path.display().to_string()),
                    _ => {}
                },
            }
        }
        left
    }

    /// Tells how it went: the totals, and what was left behind when it was interrupted.
    pub(crate) async fn finish(&self, json: bool, result: Result<(), Failure>) -> Result<(), Failure> {
        for name in self.clean().await {
            output::note(format!("a half-made file is left behind: {name}"));
        }
        result?;
        if json {
            output::json(&self.progress.totals())?;
        }
        self.troubles.outcome()
    }
}

/// A name for a file that is not whole yet; hidden, and unlike any other.
pub(crate) fn temporary(what: &str) -> String {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(std::process::id());
    format!(".weft-{what}-{random:016x}")
}
