//! The seams: what a client does to the outside goes through these. Programs pass [`ClientParts::real`]; the simulator
//! passes its own network, clock and dice.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use weft_core::time::Timestamp;
pub use weft_proto::link::{Dial, Link, Tcp};
pub use weft_proto::trust::{Credential, CredentialError, Distrust};
use weft_proto::trust::{SecureDial, Trust};

/// All parts of one client.
#[derive(Clone)]
pub struct ClientParts {
    /// Outgoing connections.
    pub dial: Arc<dyn Dial>,
    /// Wall clock, for the times of files.
    pub clock: Arc<dyn Clock>,
    /// Randomness, for spreading chunks and retries.
    pub dice: Arc<dyn Dice>,
}

impl ClientParts {
    /// TCP, the system's clock and the system's randomness.
    pub fn real() -> ClientParts {
        ClientParts { dial: Arc::new(Tcp), clock: Arc::new(SystemClock), dice: Arc::new(SystemDice::default()) }
    }
}

impl ClientParts {
    /// The real parts, with a credential that is shown to every node; only nodes of the site it is from are believed.
    ///
    /// # Errors
    /// The credential is not good now.
    pub fn with_credential(credential: &Credential) -> Result<ClientParts, Distrust> {
        let clock = Arc::new(SystemClock);
        let now = Arc::new(|| SystemClock.now().secs.max(0).unsigned_abs());
        let trust = Trust::new(&credential.held, now)?;
        let dial = Arc::new(SecureDial::new(Arc::new(Tcp), trust));
        Ok(ClientParts { dial, clock, dice: Arc::new(SystemDice::default()) })
    }
}

/// The wall clock. Durations are measured with tokio's time, never with this.
pub trait Clock: Send + Sync + 'static {
    /// Now. May jump, also backwards.
    fn now(&self) -> Timestamp;
}

/// Randomness.
pub trait Dice: Send + Sync + 'static {
    /// 64 random bits.
    fn roll(&self) -> u64;
}

/// The system's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => Timestamp { secs: since.as_secs() as i64, nanos: since.subsec_nanos() },
            Err(_) => Timestamp::default(),
        }
    }
}

/// A generator seeded by the system.
pub struct SystemDice(Mutex<SmallRng>);

impl Default for SystemDice {
    fn default() -> SystemDice {
        SystemDice(Mutex::new(SmallRng::from_os_rng()))
    }
}

impl Dice for SystemDice {
    fn roll(&self) -> u64 {
        self.0.lock().next_u64()
    }
}
