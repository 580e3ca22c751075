//! The real parts of a node: this machine's clock, randomness, disk and network.

use std::time::{SystemTime, UNIX_EPOCH};

use rand::TryRngCore;
use rand::rngs::OsRng;
use weft_core::time::Timestamp;

use crate::parts::{Clock, Dice};

/// The machine's wall clock.
pub struct RealClock;

impl Clock for RealClock {
    fn now(&self) -> Timestamp {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => Timestamp { secs: since.as_secs() as i64, nanos: since.subsec_nanos() },
            // Before 1970 the parts of a second count forwards from the earlier second.
            Err(before) => {
                let before = before.duration();
                let nanos = (1_000_000_000 - before.subsec_nanos()) % 1_000_000_000;
                Timestamp { secs: -(before.as_secs() as i64) - i64::from(nanos != 0), nanos }
            }
        }
    }
}

/// The operating system's randomness.
pub struct OsDice;

impl Dice for OsDice {
    fn roll(&self) -> u64 {
        // Without randomness ids may collide and marks may be forged: there is no way to go on.
        OsRng.try_next_u64().expect("the operating system gives random bytes")
    }
}
