//! Linearizable reads: one round of the read index serves all reads that waited for it to begin.
//!
//! There is no task for it. The first read that finds no round under way runs one itself and answers those that came
//! before it began; reads that come while it runs wait, and one of them runs the next. A runner that is dropped midway
//! hands the round on.

use std::future::Future;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use weft_core::refusal::Refusal;

enum Word {
    /// The round is over.
    Done(Result<(), Refusal>),
    /// Run the next round.
    Lead,
}

#[derive(Default)]
struct Line {
    running: bool,
    waiting: Vec<oneshot::Sender<Word>>,
}

/// Reads that wait for a round.
#[derive(Default)]
pub(crate) struct Reads {
    line: Mutex<Line>,
}

impl Reads {
    /// Returns what a round said that began after this call. `round` runs one.
    pub(crate) async fn wait<F>(&self, round: impl FnOnce() -> F) -> Result<(), Refusal>
    where
        F: Future<Output = Result<(), Refusal>>,
    {
        let waiting = {
            let mut line = self.line.lock();
            if line.running {
                let (word, wait) = oneshot::channel();
                line.waiting.push(word);
                Some(wait)
            } else {
                line.running = true;
                None
            }
        };
        if let Some(wait) = waiting {
            match wait.await {
                Ok(Word::Done(result)) => return result,
                Ok(Word::Lead) => {}
                Err(_) => return Err(Refusal::Unknown { why: "the read was given up".into() }),
            }
        }
        let mut runner = Runner { reads: self, served: std::mem::take(&mut self.line.lock().waiting) };
        let result = round().await;
        for word in std::mem::take(&mut runner.served) {
            // Whoever no longer waits needs no answer.
            let _ = word.send(Word::Done(result.clone()));
        }
        result
    }
}

/// Passes the round on when it is over, or when its runner was dropped midway.
struct Runner<'a> {
    reads: &'a Reads,
    served: Vec<oneshot::Sender<Word>>,
}

impl Drop for Runner<'_> {
    fn drop(&mut self) {
        let mut line = self.reads.line.lock();
        let mut waiting = std::mem::take(&mut self.served);
        waiting.append(&mut line.waiting);
        let mut waiting = waiting.into_iter();
        line.running = waiting.by_ref().any(|word| word.send(Word::Lead).is_ok());
        line.waiting = waiting.collect();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn reads_that_wait_share_a_round() {
        let (reads, rounds) = (Reads::default(), Cell::new(0));
        let one = || async {
            rounds.set(rounds.get() + 1);
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok(())
        };
        let all = futures::future::join_all((0..100).map(|_| reads.wait(one))).await;
        assert!(all.iter().all(Result::is_ok));
        assert_eq!(rounds.get(), 2, "the first runs alone, the other 99 together");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_runner_hands_the_round_on() {
        let reads = Reads::default();
        let never = reads.wait(|| async {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            Ok(())
        });
        let first = tokio::time::timeout(Duration::from_millis(10), never);
        let second = reads.wait(|| async { Ok(()) });
        let (first, second) = tokio::join!(first, second);
        assert!(first.is_err());
        assert!(second.is_ok());
        assert!(reads.wait(|| async { Ok(()) }).await.is_ok(), "the line is free again");
    }
}
