//! Whether this replica still leads, asked for a read.
//!
//! The read index of the Raft paper (section 6.4 of Ongaro's thesis), with two things left out that cost more than the
//! question: a round of appends through openraft's core, and every member that a majority does not need. A member
//! answers from the vote that it has saved.
//!
//! Why it is enough: a member saves its vote before it gives it. If, after the read began, a majority (this replica
//! counts) had given none for a newer leader, no newer leader was elected when the read began, since its majority would
//! have had a member in common with this one. Everything answered until then was answered by this leader, which applies
//! an entry before it answers, or by earlier ones, whose committed entries lie before the first of this leader's term;
//! so that one must be applied here.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::Instant;
use weft_core::broken::{self, Variant};
use weft_core::ids::ReplicaId;

use super::types::LeaderId;
use super::{Consensus, codec, kind};

/// After so long without an answer the other members are asked too.
const HEDGE: Duration = Duration::from_millis(10);
/// How long an answer may take.
const LIMIT: Duration = Duration::from_millis(500);

/// Whom to ask what.
struct Question {
    leader: LeaderId,
    /// The other voters and where they answer.
    others: Vec<(ReplicaId, String)>,
    /// How many of them make a majority with this replica.
    needed: usize,
}

impl Consensus {
    /// Whether a majority said, after this call began, that it knows of no newer leader. False where that is not
    /// known: then openraft must be asked.
    pub(super) async fn confirm(&self) -> bool {
        let Some(question) = self.question() else { return false };
        if broken::is(Variant::ReadAlone) {
            return true;
        }
        let count = question.others.len();
        let body = codec::encode(&question.leader);
        let ask = |nth: usize| {
            let (to, addr) = &question.others[nth % count];
            let (link, body) = (self.network.link(*to, addr), body.clone());
            async move { link.call(kind::CONFIRM, body, LIMIT).await.map(codec::decode::<bool>) }
        };
        let first = self.asked_first.load(Ordering::Relaxed);
        let mut answers: FuturesUnordered<_> = (first..first + question.needed).map(ask).collect();
        let (mut asked, mut confirmed) = (question.needed, 0);
        let due = Instant::now() + HEDGE;
        while confirmed < question.needed {
            let answer = tokio::select! { biased;
                answer = answers.next() => answer,
                () = tokio::time::sleep_until(due), if asked < count => {
                    answers.extend((first + asked..first + count).map(ask));
                    asked = count;
                    // The next read begins with another one.
                    self.asked_first.store((first + 1) % count, Ordering::Relaxed);
                    continue;
                }
            };
            match answer {
                Some(Ok(Ok(true))) => confirmed += 1,
                Some(Ok(_)) => return false,
                Some(Err(refusal)) => {
                    tracing::debug!(group = %self.group, %refusal, "confirm leadership");
                    self.asked_first.store((first + 1) % count, Ordering::Relaxed);
                    if asked < count {
                        answers.push(ask(first + asked));
                        asked += 1;
                    }
                }
                None => return false,
            }
        }
        true
    }

    /// `None` if this replica does not lead, has not applied an entry of its own term, or the voters are changing.
    fn question(&self) -> Option<Question> {
        let leader = self.log.vote()?.leader_id;
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let leads = metrics.state == ServerState::Leader && leader.node_id == self.me;
        if !leads || metrics.last_applied?.leader_id != leader {
            return None;
        }
        let membership = metrics.membership_config.membership();
        let [voters] = &membership.get_joint_config()[..] else { return None };
        if !voters.contains(&self.me) {
            return None;
        }
        let addr = |id: &ReplicaId| membership.get_node(id).map(|node| node.addr.clone()).unwrap_or_default();
        let others: Vec<_> = voters.iter().filter(|id| **id != self.me).map(|id| (*id, addr(id))).collect();
        Some(Question { leader, needed: voters.len() / 2, others })
    }

    /// Answers such a question: whether this replica gave its vote to nobody newer.
    pub(super) fn confirms(&self, body: Bytes) -> Result<Bytes, codec::Garbled> {
        let leader: LeaderId = codec::decode(body)?;
        Ok(codec::encode(&self.log.vote().is_some_and(|vote| vote.leader_id == leader)))
    }
}
