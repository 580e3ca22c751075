//! Histories are linearizable: there is one order of all calls, agreeing with time, in which a plain model gives every
//! answer that was given.
//!
//! The search is Wing and Gong's (Testing and Verifying Concurrent Objects, 1993) with Lowe's memory of configurations
//! already tried (Testing for Linearizability, 2016), on a list of events as in Porcupine
//! (<https://github.com/anishathalye/porcupine>). A call whose outcome stayed unknown has no end: it may take effect at
//! any time after its start, or never. Histories of different directories or files are checked apart, since
//! linearizability is local.

use std::collections::BTreeSet;

/// What the calls act on.
pub trait Model {
    /// What is asked.
    type Op;
    /// What is answered.
    type Answer;
    /// What the model remembers.
    type State: Clone + Ord + Default;

    /// The state after `op`, `None` if `op` cannot be answered so in `state`. Without an answer any is possible.
    fn step(state: &Self::State, op: &Self::Op, answer: Option<&Self::Answer>) -> Option<Self::State>;
}

/// One call of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call<O, A> {
    /// What was asked.
    pub op: O,
    /// When the client began to ask.
    pub start: u64,
    /// When the answer was there, and what it said; `None` if it stayed unknown.
    pub end: Option<(u64, A)>,
}

/// What the search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none. No order that was tried went past the answer of this call.
    Broken {
        /// Index of the call.
        call: usize,
    },
    /// The bound of effort was reached first.
    Undecided,
}

const HEAD: usize = 0;

/// Events in order of time, without those of the calls put into the order so far.
struct Events {
    /// Call of each event, and whether it is the call's end. The first is a sentinel.
    events: Vec<(usize, bool)>,
    next: Vec<usize>,
    prev: Vec<usize>,
    /// Event that ends each call, if any.
    ends: Vec<Option<usize>>,
}

impl Events {
    fn new<O, A>(calls: &[Call<O, A>]) -> Events {
        let mut times: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * calls.len());
        for (index, call) in calls.iter().enumerate() {
            times.push((call.start, false, index));
            times.extend(call.end.iter().map(|(end, _)| (*end, true, index)));
        }
        // At the same moment starts come first: such calls overlap.
        times.sort_unstable();
        let mut ends = vec![None; calls.len()];
        let mut events = vec![(usize::MAX, false)];
        for (_, is_end, call) in times {
            if is_end {
                ends[call] = Some(events.len());
            }
            events.push((call, is_end));
        }
        let count = events.len();
        // The event after the last is the sentinel again.
        let next = (0..count).map(|at| (at + 1) % count).collect();
        let prev = (0..count).map(|at| (at + count - 1) % count).collect();
        Events { events, next, prev, ends }
    }

    fn unlink(&mut self, at: usize) {
        let (prev, next) = (self.prev[at], self.next[at]);
        self.next[prev] = next;
        self.prev[next] = prev;
    }

    fn relink(&mut self, at: usize) {
        let (prev, next) = (self.prev[at], self.next[at]);
        self.next[prev] = at;
        self.prev[next] = at;
    }

    fn take(&mut self, start: usize) {
        self.unlink(start);
        if let Some(end) = self.ends[self.events[start].0] {
            self.unlink(end);
        }
    }

    /// Undoes the last `take` that is not undone yet.
    fn put_back(&mut self, start: usize) {
        if let Some(end) = self.ends[self.events[start].0] {
            self.relink(end);
        }
        self.relink(start);
    }
}

/// Searches for an order, trying at most `effort` steps of the model.
///
/// # Panics
/// Never: before the last answered call is in the order, its end is among the events.
pub fn check<M: Model>(calls: &[Call<M::Op, M::Answer>], effort: u64) -> Verdict {
    let mut events = Events::new(calls);
    let mut open = events.ends.iter().flatten().count();
    let mut state = M::State::default();
    let mut ordered = vec![0u64; calls.len().div_ceil(64)];
    let mut tried: BTreeSet<(Vec<u64>, M::State)> = BTreeSet::new();
    let mut stack: Vec<(usize, M::State)> = Vec::new();
    let (mut steps, mut farthest) = (0, HEAD);
    let mut at = events.next[HEAD];
    while open > 0 {
        assert!(at != HEAD, "the end of an answered call is among the events");
        let (call, is_end) = events.events[at];
        if is_end {
            farthest = farthest.max(at);
            let Some((start, before)) = stack.pop() else {
                return Verdict::Broken { call: events.events[farthest].0 };
            };
            events.put_back(start);
            let undone = events.events[start].0;
            ordered[undone / 64] &= !(1 << (undone % 64));
            open += usize::from(events.ends[undone].is_some());
            state = before;
            at = events.next[start];
            continue;
        }
        if steps == effort {
            return Verdict::Undecided;
        }
        steps += 1;
        let answer = calls[call].end.as_ref().map(|(_, answer)| answer);
        if let Some(after) = M::step(&state, &calls[call].op, answer) {
            ordered[call / 64] |= 1 << (call % 64);
            if tried.insert((ordered.clone(), after.clone())) {
                stack.push((at, std::mem::replace(&mut state, after)));
                events.take(at);
                open -= usize::from(events.ends[call].is_some());
                at = events.next[HEAD];
                continue;
            }
            ordered[call / 64] &= !(1 << (call % 64));
        }
        at = events.next[at];
    }
    Verdict::Linearizable
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// A register: writes a value, or compares and swaps, or reads.
    struct Register;

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Write(u8),
        Swap(u8, u8),
        Read,
    }

    impl Model for Register {
        type Op = Op;
        type Answer = u8;
        type State = u8;

        fn step(state: &u8, op: &Op, answer: Option<&u8>) -> Option<u8> {
            let after = match *op {
                Op::Write(value) => value,
                Op::Swap(from, to) if *state == from => to,
                Op::Swap(..) | Op::Read => *state,
            };
            let said = if matches!(op, Op::Write(_)) { after } else { *state };
            answer.is_none_or(|answer| *answer == said).then_some(after)
        }
    }

    const EFFORT: u64 = 1_000_000;

    fn call(op: Op, start: u64, end: u64, answer: u8) -> Call<Op, u8> {
        Call { op, start, end: Some((end, answer)) }
    }

    fn unknown(op: Op, start: u64) -> Call<Op, u8> {
        Call { op, start, end: None }
    }

    #[test]
    fn overlapping_calls_may_be_ordered_either_way() {
        for seen in [0, 1] {
            let calls = [call(Op::Write(1), 0, 10, 1), call(Op::Read, 5, 6, seen)];
            assert_eq!(check::<Register>(&calls, EFFORT), Verdict::Linearizable, "{seen}");
        }
    }

    #[test]
    fn a_stale_read_is_found() {
        let calls = [call(Op::Write(1), 0, 1, 1), call(Op::Read, 2, 3, 0)];
        assert_eq!(check::<Register>(&calls, EFFORT), Verdict::Broken { call: 1 });
    }

    #[test]
    fn what_one_reader_saw_a_later_one_sees() {
        let calls = [call(Op::Write(1), 0, 10, 1), call(Op::Read, 2, 3, 1), call(Op::Read, 4, 5, 0)];
        assert_eq!(check::<Register>(&calls, EFFORT), Verdict::Broken { call: 2 });
    }

    #[test]
    fn an_unknown_call_takes_effect_later_or_never_but_once() {
        let late = [unknown(Op::Write(1), 0), call(Op::Read, 5, 6, 0), call(Op::Read, 7, 8, 1)];
        assert_eq!(check::<Register>(&late, EFFORT), Verdict::Linearizable);
        assert_eq!(check::<Register>(&late[..2], EFFORT), Verdict::Linearizable);
        let twice =
            [unknown(Op::Write(1), 0), call(Op::Read, 1, 2, 1), call(Op::Write(2), 3, 4, 2), call(Op::Read, 5, 6, 1)];
        assert_eq!(check::<Register>(&twice, EFFORT), Verdict::Broken { call: 3 });
        let early = [call(Op::Read, 0, 1, 1), unknown(Op::Write(1), 2)];
        assert_eq!(check::<Register>(&early, EFFORT), Verdict::Broken { call: 0 });
    }

    #[test]
    fn a_bound_that_is_reached_is_no_pass() {
        let calls = [call(Op::Write(1), 0, 1, 1), call(Op::Read, 2, 3, 1)];
        assert_eq!(check::<Register>(&calls, 1), Verdict::Undecided);
    }

    /// Tries every order of every set of calls that has all answered ones.
    fn brute(calls: &[Call<Op, u8>], left: &mut Vec<usize>, state: u8) -> bool {
        if left.iter().all(|index| calls[*index].end.is_none()) {
            return true;
        }
        (0..left.len()).any(|at| {
            let index = left[at];
            let ended_before = |other: &usize| calls[*other].end.is_some_and(|(end, _)| end < calls[index].start);
            if left.iter().any(ended_before) {
                return false;
            }
            let answer = calls[index].end.as_ref().map(|(_, answer)| answer);
            let Some(after) = Register::step(&state, &calls[index].op, answer) else { return false };
            left.remove(at);
            let found = brute(calls, left, after);
            left.insert(at, index);
            found
        })
    }

    #[test]
    fn it_agrees_with_brute_force() {
        let mut counts = [0; 2];
        for seed in 0..20_000 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let calls: Vec<Call<Op, u8>> = (0..rng.random_range(1..7))
                .map(|_| {
                    let (a, b) = (rng.random_range(0..3), rng.random_range(0..3));
                    let op = match rng.random_range(0..3) {
                        0 => Op::Write(a),
                        1 => Op::Swap(a, b),
                        _ => Op::Read,
                    };
                    let start = rng.random_range(0..12);
                    let answer = if matches!(op, Op::Write(_)) { a } else { rng.random_range(0..3) };
                    let end = start + rng.random_range(0..8);
                    Call { op, start, end: rng.random_bool(0.8).then_some((end, answer)) }
                })
                .collect();
            let expected = brute(&calls, &mut (0..calls.len()).collect(), 0);
            counts[usize::from(expected)] += 1;
            let found = check::<Register>(&calls, EFFORT);
            assert_eq!(found == Verdict::Linearizable, expected, "seed {seed}: {calls:?}");
            assert_ne!(found, Verdict::Undecided, "seed {seed}");
        }
        assert!(counts.iter().all(|count| *count > 2_000), "both kinds are tried: {counts:?}");
    }
}
