//! Sessions: a client known to the group of a space, its request numbers, and what keeps it alive.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use weft_core::entry::Cred;
use weft_core::ids::{ClientId, GroupId, Ino, Seq, SpaceId, VolumeId};
use weft_core::limits::MAX_WINDOW;
use weft_core::namespace::op::Op;
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::query::{Answer, Query};
use weft_core::refusal::Refusal;

use crate::client::Shared;
use crate::error::{Error, Result};
use crate::meta::Failed;
use crate::servers::Call;
use crate::trial::Trial;

/// A session of this client in one space. Once ended it stays so; a new one gets a new client id.
pub(crate) struct Session {
    pub(crate) client: ClientId,
    pub(crate) space: SpaceId,
    pub(crate) group: GroupId,
    window: Mutex<Window>,
    moved: Notify,
    ended: AtomicBool,
    creations: Mutex<Creations>,
    /// The right to the chunks of the space, as it was given last; empty where none is needed.
    capability: Mutex<Bytes>,
}

/// Request numbers: which is next, and which are not answered yet.
struct Window {
    next: u64,
    unanswered: BTreeSet<u64>,
}

impl Window {
    fn acked_below(&self) -> u64 {
        self.unanswered.first().copied().unwrap_or(self.next)
    }
}

/// Creations and opens under way: an inode they lead to is open though the file table does not know it yet.
#[derive(Default)]
struct Creations {
    next: u64,
    under_way: BTreeSet<u64>,
}

impl Session {
    fn new(client: ClientId, space: SpaceId, group: GroupId) -> Session {
        Session {
            client,
            space,
            group,
            window: Mutex::new(Window { next: 1, unanswered: BTreeSet::new() }),
            moved: Notify::new(),
            ended: AtomicBool::new(false),
            creations: Mutex::default(),
            capability: Mutex::default(),
        }
    }

    /// The right to the chunks of its space.
    pub(crate) fn capability(&self) -> Bytes {
        self.capability.lock().clone()
    }

    pub(crate) fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.moved.notify_waiters();
    }

    /// EIO for everything of an ended session.
    pub(crate) fn check(&self) -> Result<()> {
        if self.ended() { Err(self.end_error()) } else { Ok(()) }
    }

    /// What is said about a session that has ended.
    pub(crate) fn end_error(&self) -> Error {
        Error::Refused(Refusal::SessionEnded { client: self.client, space: self.space })
    }

    /// Takes the next number, waiting while the window is full.
    async fn begin(&self, trial: &Trial) -> Result<Numbered<'_>> {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            self.check()?;
            {
                let mut window = self.window.lock();
                if window.next - window.acked_below() < MAX_WINDOW - 1 {
                    let seq = window.next;
                    window.next += 1;
                    window.unanswered.insert(seq);
                    return Ok(Numbered { session: self, seq });
                }
            }
            if tokio::time::timeout(trial.left(), moved).await.is_err() {
                return Err(trial.over("requests before this one stay unanswered"));
            }
        }
    }

    /// Marks that an inode may become open; hold it until the file table knows.
    pub(crate) fn creating(&self) -> Creating<'_> {
        let mut creations = self.creations.lock();
        creations.next += 1;
        let ticket = creations.next;
        creations.under_way.insert(ticket);
        Creating { session: self, ticket }
    }

    fn creations_begun(&self) -> u64 {
        self.creations.lock().next
    }

    fn creations_done_up_to(&self, mark: u64) -> bool {
        self.creations.lock().under_way.first().is_none_or(|first| *first > mark)
    }
}

/// A request number until its request is answered or given up: then it counts as acknowledged and is never used again.
struct Numbered<'a> {
    session: &'a Session,
    seq: u64,
}

impl Drop for Numbered<'_> {
    fn drop(&mut self) {
        self.session.window.lock().unanswered.remove(&self.seq);
        self.session.moved.notify_waiters();
    }
}

/// See [`Session::creating`].
pub(crate) struct Creating<'a> {
    session: &'a Session,
    ticket: u64,
}

impl Drop for Creating<'_> {
    fn drop(&mut self) {
        self.session.creations.lock().under_way.remove(&self.ticket);
    }
}

/// The sessions of a client, one per space.
#[derive(Default)]
pub(crate) struct Sessions {
    table: Mutex<BTreeMap<SpaceId, Arc<Session>>>,
    opening: tokio::sync::Mutex<()>,
}

impl Sessions {
    fn live(&self, space: SpaceId) -> Option<Arc<Session>> {
        self.table.lock().get(&space).filter(|session| !session.ended()).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.table.lock().values().cloned().collect()
    }
}

impl Shared {
    /// The live session of a space, opened if there is none.
    pub(crate) async fn session(self: &Arc<Self>, space: SpaceId) -> Result<Arc<Session>> {
        if let Some(session) = self.sessions.live(space) {
            return Ok(session);
        }
        let _alone = self.sessions.opening.lock().await;
        if let Some(session) = self.sessions.live(space) {
            return Ok(session);
        }
        let had_one = self.sessions.table.lock().contains_key(&space);
        let client = match had_one {
            // What is left unanswered of the ended session must not mix with what is new.
            true => self.new_client_id().await?,
            false => ClientId(self.client_id.load(Ordering::Relaxed)),
        };
        let Some(group) = self.topology.group_of(space) else {
            return Err(Error::Refused(Refusal::NoVolume { what: format!("of space {space}") }));
        };
        let session = Arc::new(Session::new(client, space, group));
        let mut trial = Trial::new(&self.options);
        let (every, capability) = self
            .at_leader(group, &mut trial, |addr, wait| {
                let call = self.session_call(&session, wait);
                async move { self.servers.open_session(&addr, call, group).await }
            })
            .await?;
        *session.capability.lock() = capability;
        self.sessions.table.lock().insert(space, session.clone());
        tokio::spawn(keep_alive(Arc::downgrade(self), session.clone(), every));
        Ok(session)
    }

    /// Asks for a client id until it has one. An id whose answer was lost stays unused.
    pub(crate) async fn new_client_id(&self) -> Result<ClientId> {
        let mut trial = Trial::new(&self.options);
        loop {
            self.open()?;
            let mut last = Refusal::Unknown { why: "no address to ask".into() };
            for addr in self.topology.addrs(&self.options.addrs) {
                match self.servers.client_id(&addr, self.plain_call(trial.wait())).await {
                    Ok(id) => return Ok(id),
                    Err(refusal @ (Refusal::WrongVersion { .. } | Refusal::NotTrusted { .. })) => {
                        return Err(Error::Refused(refusal));
                    }
                    Err(refusal) => last = refusal,
                }
            }
            trial.pause(&*self.parts.dice, Duration::ZERO, &last.to_string()).await?;
        }
    }

    pub(crate) fn session_call(&self, session: &Session, wait: Duration) -> Call {
        Call {
            client: session.client,
            space: session.space,
            map_version: self.topology.map().version,
            wait,
            ..Call::default()
        }
    }

    /// What rides along with a request for chunks of a space.
    pub(crate) fn chunk_call(&self, space: SpaceId, wait: Duration) -> Call {
        let session = self.sessions.table.lock().get(&space).cloned();
        let plain = self.plain_call(wait);
        match session {
            Some(session) => {
                let capability = session.capability.lock().clone();
                Call { client: session.client, space, capability, ..plain }
            }
            None => Call { space, ..plain },
        }
    }

    /// Changes a volume under one number of the session, asked again until the outcome is known.
    pub(crate) async fn apply_at_server(
        &self,
        session: &Session,
        cred: &Cred,
        volume: VolumeId,
        op: &Op,
    ) -> Result<Outcome, Failed> {
        self.apply_in_trial(session, cred, volume, op, &mut Trial::new(&self.options)).await
    }

    /// The same with a deadline of its own.
    pub(crate) async fn apply_in_trial(
        &self,
        session: &Session,
        cred: &Cred,
        volume: VolumeId,
        op: &Op,
        trial: &mut Trial,
    ) -> Result<Outcome, Failed> {
        let numbered = session.begin(trial).await.map_err(|error| Failed { error, ambiguous: false })?;
        let result = self
            .at_leader(session.group, trial, |addr, wait| {
                let call = Call {
                    seq: Seq(numbered.seq),
                    acked_below: Seq(session.window.lock().acked_below()),
                    cred: cred.clone(),
                    ..self.session_call(session, wait)
                };
                async move {
                    session
                        .check()
                        .map_err(|_| Refusal::SessionEnded { client: session.client, space: session.space })?;
                    self.servers.apply(&addr, call, session.group, volume, op).await
                }
            })
            .await;
        drop(numbered);
        if let Err(failed) = &result {
            note_end(session, &failed.error);
        }
        result
    }

    /// Asks about a volume.
    pub(crate) async fn query_at_server(
        &self,
        session: &Session,
        cred: &Cred,
        volume: VolumeId,
        query: &Query,
    ) -> Result<Answer> {
        let mut trial = Trial::new(&self.options);
        let result = self
            .at_leader(session.group, &mut trial, |addr, wait| {
                let call = Call { cred: cred.clone(), ..self.session_call(session, wait) };
                async move { self.servers.query(&addr, call, session.group, volume, query).await }
            })
            .await
            .map_err(Error::from);
        if let Err(error) = &result {
            note_end(session, error);
        }
        result
    }

    /// Changes a volume in the live session of its space. Where a session turns out to have ended before anything was
    /// sent in it, a new one is opened.
    pub(crate) async fn apply(
        self: &Arc<Self>,
        space: SpaceId,
        cred: &Cred,
        volume: VolumeId,
        op: &Op,
    ) -> Result<Outcome> {
        let session = self.session(space).await?;
        match self.apply_in(&session, cred, volume, op).await {
            Err(Failed { error, ambiguous: false }) if is_end(&error) => {
                let session = self.session(space).await?;
                self.apply_in(&session, cred, volume, op).await.map_err(Error::from)
            }
            result => result.map_err(Error::from),
        }
    }

    /// Asks about a volume in the live session of its space.
    pub(crate) async fn query(
        self: &Arc<Self>,
        space: SpaceId,
        cred: &Cred,
        volume: VolumeId,
        query: &Query,
    ) -> Result<Answer> {
        let session = self.session(space).await?;
        match self.query_in(&session, cred, volume, query).await {
            Err(error) if is_end(&error) => {
                let session = self.session(space).await?;
                self.query_in(&session, cred, volume, query).await
            }
            result => result,
        }
    }

    /// Ends all sessions; what can't be reached ends by itself later.
    pub(crate) async fn end_sessions(&self) {
        for session in &self.sessions.all() {
            if session.ended() {
                continue;
            }
            let mut trial = Trial::within(&self.options, self.options.attempt.min(self.options.deadline));
            let ended = self
                .at_leader(session.group, &mut trial, |addr, wait| {
                    let call = self.session_call(session, wait);
                    async move { self.servers.end_session(&addr, call, session.group).await }
                })
                .await;
            if let Err(Failed { error, .. }) = ended {
                tracing::debug!(space = %session.space, %error, "end the session");
            }
            session.end();
        }
    }
}

/// Whether a session is said to have ended. One that was open and is not known any more has ended, too.
pub(crate) fn is_end(error: &Error) -> bool {
    matches!(error.refusal(), Some(Refusal::SessionEnded { .. } | Refusal::NoSession { .. }))
}

pub(crate) fn note_end(session: &Session, error: &Error) {
    if is_end(error) && !session.ended() {
        tracing::warn!(client = %session.client, space = %session.space, "the session has ended");
        session.end();
    }
}

/// Tells the group every so often that the session lives, which chunks it will name no more, and which nameless inodes it was asked about are not open.
async fn keep_alive(shared: Weak<Shared>, session: Arc<Session>, every: Duration) {
    let every = every.clamp(Duration::from_millis(50), Duration::from_secs(30));
    let mut asked: Vec<(VolumeId, Ino)> = Vec::new();
    let mut mark = 0;
    let mut soon = false;
    loop {
        tokio::time::sleep(if soon { Duration::from_millis(1) } else { every }).await;
        let Some(shared) = shared.upgrade() else { return };
        if session.ended() || shared.open().is_err() {
            return;
        }
        // A creation or an open begun before the question may lead to an inode asked about.
        let settled = session.creations_done_up_to(mark);
        let not_open: Vec<(VolumeId, Ino)> = match settled {
            true => asked.iter().filter(|(volume, ino)| !shared.files.is_open(*volume, *ino)).copied().collect(),
            false => Vec::new(),
        };
        let named_below = shared.named_below(&session);
        let mut trial = Trial::within(&shared.options, every.max(shared.options.attempt));
        let answered = shared
            .at_leader(session.group, &mut trial, |addr, wait| {
                let (call, not_open) = (shared.session_call(&session, wait), not_open.clone());
                let servers = shared.servers.clone();
                let group = session.group;
                async move { servers.keep_alive(&addr, call, group, not_open, named_below).await }
            })
            .await;
        match answered {
            Ok((now_asked, capability)) => {
                *session.capability.lock() = capability;
                // An answer at once for what is new; what was just answered waits its turn.
                soon = !soon && now_asked.iter().any(|(volume, ino)| !shared.files.is_open(*volume, *ino));
                mark = session.creations_begun();
                asked = now_asked;
            }
            Err(Failed { error, .. }) => {
                soon = false;
                note_end(&session, &error);
                tracing::debug!(space = %session.space, %error, "keep the session alive");
            }
        }
    }
}
