//! Keeps the leases and hears when one is wanted back.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;
use weft_core::ids::Ino;

use super::VolumeLeases;
use crate::client::Shared;
use crate::meta::Failed;
use crate::trial::Trial;

/// The least time between two requests, where they are answered at once.
const PAUSE: Duration = Duration::from_millis(20);
/// How long giving up may take before it is asked again.
const GIVING_UP: Duration = Duration::from_secs(1);

impl VolumeLeases {
    /// Gives a lease up without waiting for it.
    fn want_back(&self, dir: Ino) {
        self.inner.lock().closing.insert(dir);
        self.work.notify_one();
    }
}

/// Runs while there are leases.
pub(super) async fn run(shared: Weak<Shared>, leases: Arc<VolumeLeases>) {
    loop {
        let Some(shared) = shared.upgrade() else { return };
        if shared.open().is_err() || leases.session.ended() {
            leases.inner.lock().listening = false;
            return;
        }
        let roots = {
            let mut inner = leases.inner.lock();
            let roots = inner.local.roots();
            if roots.is_empty() && inner.taking.is_none() {
                inner.listening = false;
                return;
            }
            roots
        };
        let held: Vec<_> = roots.iter().map(|root| (leases.volume, *root)).collect();
        let mut trial = Trial::new(&shared.options);
        let sent = parking_lot::Mutex::new(Instant::now());
        let answered = shared
            .at_leader(leases.session.group, &mut trial, |addr, wait| {
                let (call, held) = (shared.session_call(&leases.session, wait), held.clone());
                let (servers, group) = (shared.servers.clone(), leases.session.group);
                // The last attempt is the one that is answered.
                *sent.lock() = Instant::now();
                async move { servers.recalls(&addr, call, group, held).await }
            })
            .await;
        let sent = sent.into_inner();
        match answered {
            Ok(recalls) => {
                let mut giving_up = Vec::new();
                for (volume, dir) in &recalls.recalled {
                    if *volume == leases.volume {
                        giving_up.push(*dir);
                    } else {
                        // Of a volume that may have no listener of its own.
                        match shared.leases.of(&shared, &leases.session, *volume) {
                            Ok(other) => other.want_back(*dir),
                            Err(error) => tracing::debug!(%volume, %error, "a lease is wanted back"),
                        }
                    }
                }
                {
                    let mut inner = leases.inner.lock();
                    for (_, dir) in &recalls.lost {
                        inner.held_until.remove(dir);
                    }
                    inner.stats.lost += recalls.lost.len() as u64;
                    giving_up.extend(recalls.lost.iter().map(|(_, dir)| *dir));
                    inner.closing.extend(giving_up.iter().copied());
                    for root in roots.iter().filter(|root| !recalls.lost.contains(&(leases.volume, **root))) {
                        inner.held_until.insert(*root, sent + recalls.lease);
                    }
                    inner.stats.recalled += recalls.recalled.len() as u64;
                }
                leases.changed.notify_waiters();
                if !giving_up.is_empty() {
                    leases.work.notify_one();
                    let given_up =
                        leases.until(&shared, |inner| giving_up.iter().all(|dir| !inner.closing.contains(dir)));
                    let _ = tokio::time::timeout(GIVING_UP, given_up).await;
                }
                tokio::time::sleep_until(sent + PAUSE).await;
            }
            Err(Failed { error, .. }) => {
                crate::session::note_end(&leases.session, &error);
                tracing::debug!(volume = %leases.volume, %error, "keep the write leases");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
