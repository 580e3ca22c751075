//! How the records stood at marks in the log, for comparing replicas. Each is kept for a while, and only the last few.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use weft_core::view::View;

/// Marks that are kept.
const KEPT: usize = 2;
/// How long one is kept.
const KEEP: Duration = Duration::from_secs(30);

struct Marked {
    mark: u64,
    since: Instant,
    view: Arc<dyn View + Send + Sync>,
}

/// The marks of one replica.
#[derive(Default)]
pub(crate) struct Marks(Mutex<VecDeque<Marked>>);

impl Marks {
    /// The records stand so at this mark.
    pub(crate) fn keep(&self, mark: u64, view: Arc<dyn View + Send + Sync>) {
        let mut marks = self.0.lock();
        marks.push_back(Marked { mark, since: Instant::now(), view });
        if marks.len() > KEPT {
            marks.pop_front();
        }
    }

    /// How they stood, if that is still kept.
    pub(crate) fn view(&self, mark: u64) -> Option<Arc<dyn View + Send + Sync>> {
        self.0.lock().iter().find(|marked| marked.mark == mark).map(|marked| marked.view.clone())
    }

    /// Lets go what was kept long enough. Whoever reads it still goes on.
    pub(crate) fn forget(&self) {
        self.0.lock().retain(|marked| marked.since.elapsed() < KEEP);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_the_last_marks_are_kept_and_not_for_ever() {
        let marks = Marks::default();
        for mark in 1..=3 {
            marks.keep(mark, Arc::new(BTreeMap::<Bytes, Bytes>::new()));
        }
        assert_eq!([1, 2, 3].map(|mark| marks.view(mark).is_some()), [false, true, true]);
        tokio::time::advance(KEEP).await;
        marks.forget();
        assert!(marks.view(3).is_none());
    }
}
