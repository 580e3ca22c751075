//! How long and how often something is tried: a deadline over everything, pauses that grow and differ.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::options::ConnectOptions;
use crate::parts::Dice;

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// One operation's tries.
pub(crate) struct Trial {
    started: Instant,
    deadline: Instant,
    attempt: Duration,
    pause: Duration,
}

impl Trial {
    /// Begins now, with the deadline of the settings.
    pub(crate) fn new(options: &ConnectOptions) -> Trial {
        Trial::within(options, options.deadline)
    }

    /// Begins now, with a deadline of its own.
    pub(crate) fn within(options: &ConnectOptions, deadline: Duration) -> Trial {
        let started = Instant::now();
        Trial { started, deadline: started + deadline, attempt: options.attempt, pause: FIRST_PAUSE }
    }

    /// How long the next attempt may take; never zero, so that a last attempt is made.
    pub(crate) fn wait(&self) -> Duration {
        self.left().min(self.attempt).max(Duration::from_millis(10))
    }

    /// The same for what moves a whole chunk.
    pub(crate) fn long_wait(&self) -> Duration {
        self.left().min(self.attempt * 2).max(Duration::from_millis(10))
    }

    /// Until the deadline.
    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Waits before the next round, at least `least`.
    ///
    /// # Errors
    /// [`Error::Unknown`] once the deadline has passed.
    pub(crate) async fn pause(&mut self, dice: &dyn Dice, least: Duration, why: &str) -> Result<()> {
        if self.left().is_zero() {
            return Err(self.over(why));
        }
        let half = self.pause / 2;
        let jitter = Duration::from_micros(dice.roll() % (half.as_micros() as u64 + 1));
        tokio::time::sleep((half + jitter).max(least).min(self.left())).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }

    /// The error of a passed deadline.
    pub(crate) fn over(&self, why: &str) -> Error {
        Error::Unknown { waited_ms: self.started.elapsed().as_millis() as u64, why: why.to_string() }
    }
}
