//! The names of one directory, as [`super::linearizable`] needs them: what clients that contend for the same names ask,
//! and what a plain directory would answer.

use std::collections::BTreeMap;

use super::linearizable::{self, Call, Model, Verdict};
use crate::run::Violation;

/// A name, by its number.
pub type NameId = u8;

/// What is asked. Files are known by the inode number that some answer told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Create a file where there is none. `call` is a number of this call alone: it stands for the file as long as
    /// nobody saw its inode number.
    Create {
        /// Number of the call.
        call: u64,
        /// Where.
        name: NameId,
        /// The inode number that its caller was told, also if that answer counts for nothing any more: the file has it
        /// if it was made at all.
        told: Option<u64>,
    },
    /// Another name for a file.
    Link {
        /// Inode number of the file.
        ino: u64,
        /// Where.
        name: NameId,
    },
    /// Remove a name.
    Unlink {
        /// Which.
        name: NameId,
    },
    /// Move a name to another one.
    Rename {
        /// From.
        source: NameId,
        /// To; never the same.
        target: NameId,
        /// What if there is something.
        mode: Mode,
    },
    /// Look a name up.
    Lookup {
        /// Which.
        name: NameId,
    },
    /// List all names, in one page.
    List,
}

/// What a rename does with its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It goes.
    Replace,
    /// There must be none.
    NoReplace,
    /// The two change places.
    Exchange,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Done,
    /// Done, or found: this inode.
    Inode(u64),
    /// Refused: nothing there.
    NoEntry,
    /// Refused: something is there.
    Exists,
    /// The names that were there, with their inodes.
    Names(BTreeMap<NameId, u64>),
}

/// One directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Directory {
    /// The call that created the file of each name.
    names: BTreeMap<NameId, u64>,
    /// Inode numbers of files, by the calls that created them, as far as anybody saw them.
    inodes: BTreeMap<u64, u64>,
}

impl Directory {
    /// Whether the file that `call` created may be inode `ino`; if so, it is from now on.
    fn is(&mut self, call: u64, ino: u64) -> bool {
        match self.inodes.get(&call) {
            Some(known) => *known == ino,
            // Inode numbers are never used again.
            None if self.inodes.values().any(|known| *known == ino) => false,
            None => {
                self.inodes.insert(call, ino);
                true
            }
        }
    }

    /// The file of inode `ino`, if it has a name.
    fn named(&self, ino: u64) -> Option<u64> {
        self.names.values().copied().find(|call| self.inodes.get(call) == Some(&ino))
    }

    /// Does what can be done, and answers as far as that is known without inode numbers.
    fn turn(&mut self, op: &Op) -> Answer {
        match *op {
            Op::Create { name, .. } | Op::Link { name, .. } if self.names.contains_key(&name) => Answer::Exists,
            Op::Create { call, name, told } => {
                if let Some(ino) = told {
                    self.is(call, ino);
                }
                self.names.insert(name, call);
                Answer::Done
            }
            Op::Link { ino, name } => match self.named(ino) {
                Some(call) => {
                    self.names.insert(name, call);
                    Answer::Done
                }
                None => Answer::NoEntry,
            },
            Op::Unlink { name } => self.names.remove(&name).map_or(Answer::NoEntry, |_| Answer::Done),
            Op::Rename { source, target, mode } => {
                let Some(moved) = self.names.get(&source).copied() else { return Answer::NoEntry };
                match (self.names.get(&target).copied(), mode) {
                    (Some(_), Mode::NoReplace) => return Answer::Exists,
                    (None, Mode::Exchange) => return Answer::NoEntry,
                    // Two names of one file: nothing to do.
                    (Some(there), _) if there == moved => return Answer::Done,
                    (Some(there), Mode::Exchange) => self.names.insert(source, there),
                    _ => self.names.remove(&source),
                };
                self.names.insert(target, moved);
                Answer::Done
            }
            Op::Lookup { .. } | Op::List => Answer::Done,
        }
    }

    fn agrees(&mut self, op: &Op, said: &Answer, answer: &Answer) -> bool {
        match (op, answer) {
            (Op::Create { call, .. }, Answer::Inode(ino)) => *said == Answer::Done && self.is(*call, *ino),
            (Op::Lookup { name }, Answer::Inode(ino)) => match self.names.get(name).copied() {
                Some(call) => self.is(call, *ino),
                None => false,
            },
            (Op::Lookup { name }, Answer::NoEntry) => !self.names.contains_key(name),
            (Op::List, Answer::Names(listed)) => {
                let names = self.names.clone();
                listed.keys().eq(names.keys()) && names.iter().all(|(name, call)| self.is(*call, listed[name]))
            }
            (Op::Lookup { .. } | Op::List | Op::Create { .. }, Answer::Done) => false,
            // A link refused for two reasons may say either.
            (Op::Link { ino, .. }, Answer::NoEntry) => *said != Answer::Done && self.named(*ino).is_none(),
            _ => said == answer,
        }
    }
}

/// One directory with files.
pub struct Names;

impl Model for Names {
    type Op = Op;
    type Answer = Answer;
    type State = Directory;

    fn step(state: &Directory, op: &Op, answer: Option<&Answer>) -> Option<Directory> {
        let mut after = state.clone();
        let said = after.turn(op);
        answer.is_none_or(|answer| after.agrees(op, &said, answer)).then_some(after)
    }
}

/// Steps of the model after which a history stays undecided.
const EFFORT: u64 = 2_000_000;
const LAW: &str = "the namespace is linearizable";

/// Judges what all clients were told: whether that could be decided.
///
/// # Errors
/// There is no order of the calls that explains their answers.
pub fn check(history: &[Call<Op, Answer>]) -> Result<bool, Violation> {
    match linearizable::check::<Names>(history, EFFORT) {
        Verdict::Linearizable => Ok(true),
        Verdict::Undecided => {
            tracing::warn!(calls = history.len(), "namespace history undecided");
            Ok(false)
        }
        Verdict::Broken { call } => {
            for (at, Call { op, start, end }) in history.iter().enumerate() {
                tracing::info!(at, ?op, start, ?end, "call of a history that nothing explains");
            }
            let what = format!("no order of {} calls explains {:?}", history.len(), history[call]);
            Err(Violation { law: LAW, what })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::linearizable::check;
    use super::Answer::{Done, Exists, Inode, NoEntry};
    use super::{Answer, BTreeMap, Call, Mode, NameId, Names, Op, Verdict};

    /// Calls one after the other; those without an answer stayed unknown.
    fn verdict(calls: &[(Op, Option<Answer>)]) -> Verdict {
        let history: Vec<Call<Op, Answer>> = (0..)
            .zip(calls)
            .map(|(at, (op, answer))| {
                let end = answer.clone().map(|answer| (2 * at + 1, answer));
                Call { op: op.clone(), start: 2 * at, end }
            })
            .collect();
        check::<Names>(&history, 100_000)
    }

    fn create(call: u64, name: NameId, answer: Answer) -> (Op, Option<Answer>) {
        let told = if let Inode(ino) = answer { Some(ino) } else { None };
        (Op::Create { call, name, told }, Some(answer))
    }

    fn lookup(name: NameId, answer: Answer) -> (Op, Option<Answer>) {
        (Op::Lookup { name }, Some(answer))
    }

    fn rename(mode: Mode, answer: Answer) -> (Op, Option<Answer>) {
        (Op::Rename { source: 1, target: 2, mode }, Some(answer))
    }

    #[test]
    fn a_plain_life_of_names_is_lawful() {
        let listed = BTreeMap::from([(1, 11), (2, 10)]);
        let calls = [
            create(0, 1, Inode(10)),
            create(1, 1, Exists),
            create(2, 2, Inode(11)),
            rename(Mode::NoReplace, Exists),
            rename(Mode::Exchange, Done),
            (Op::List, Some(Answer::Names(listed))),
            rename(Mode::Replace, Done),
            lookup(1, NoEntry),
            lookup(2, Inode(11)),
            (Op::Link { ino: 10, name: 1 }, Some(NoEntry)),
            (Op::Link { ino: 11, name: 1 }, Some(Done)),
            (Op::Unlink { name: 2 }, Some(Done)),
            lookup(1, Inode(11)),
        ];
        assert_eq!(verdict(&calls), Verdict::Linearizable);
    }

    #[test]
    fn two_creators_of_one_name_are_found() {
        let calls = [create(0, 1, Inode(10)), create(1, 1, Inode(11))];
        assert_eq!(verdict(&calls), Verdict::Broken { call: 1 });
    }

    #[test]
    fn a_stale_negative_lookup_is_found() {
        assert_eq!(verdict(&[create(0, 1, Inode(10)), lookup(1, NoEntry)]), Verdict::Broken { call: 1 });
    }

    #[test]
    fn a_name_missing_in_a_list_is_found() {
        let calls = [create(0, 1, Inode(10)), (Op::List, Some(Answer::Names(BTreeMap::new())))];
        assert_eq!(verdict(&calls), Verdict::Broken { call: 1 });
    }

    #[test]
    fn an_exchange_done_twice_is_found() {
        let mut calls = vec![create(0, 1, Inode(10)), create(1, 2, Inode(11)), rename(Mode::Exchange, Done)];
        calls.push(lookup(1, Inode(11)));
        assert_eq!(verdict(&calls), Verdict::Linearizable);
        calls[3] = lookup(1, Inode(10));
        assert_eq!(verdict(&calls), Verdict::Broken { call: 3 });
    }

    #[test]
    fn an_unknown_create_may_be_seen_late_but_is_one_file() {
        let unknown = (Op::Create { call: 0, name: 1, told: None }, None);
        let mut calls = vec![unknown, lookup(1, NoEntry), lookup(1, Inode(10)), lookup(1, Inode(10))];
        assert_eq!(verdict(&calls), Verdict::Linearizable);
        calls[3] = lookup(1, Inode(11));
        assert_eq!(verdict(&calls), Verdict::Broken { call: 3 });
    }

    /// What one was told and then lost may have happened all the same, with a link to the file besides.
    #[test]
    fn a_link_to_a_file_of_a_lost_answer_may_have_been_made() {
        let lost = |told| (Op::Create { call: 0, name: 1, told }, None);
        let link = (Op::Link { ino: 10, name: 2 }, None);
        let calls = |told| [lost(told), link.clone(), rename(Mode::NoReplace, Exists), lookup(2, Inode(10))];
        assert_eq!(verdict(&calls(Some(10))), Verdict::Linearizable);
        assert_eq!(verdict(&calls(Some(11))), Verdict::Broken { call: 2 });
    }
}
