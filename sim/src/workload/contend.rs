//! Clients that contend for the same few names of one directory, each call written down with its moments and its answer.

use std::collections::BTreeMap;

use rand::Rng;
use rand::rngs::SmallRng;
use weft_client::{Cred, Error, Found, Ino, Name, RenameMode, Volume};

use super::{Memory, Shared};
use crate::laws::linearizable::Call;
use crate::laws::namespace::{Answer, Mode, NameId, Op};
use crate::world;

/// The directory they contend in.
pub const DIRECTORY: &[u8] = b"contended";
/// Few, so that calls meet.
const NAMES: NameId = 4;

/// Calls of all clients.
pub type History = Vec<Call<Op, Answer>>;

/// Where a call is made, and with that in which history it is written down.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The directory.
    pub dir: Ino,
    /// Its number among the arenas, if it is one.
    pub arena: Option<usize>,
}

impl Place {
    fn history(self, memory: &mut Memory) -> &mut History {
        match self.arena {
            Some(arena) => &mut memory.arenas[arena].history,
            None => &mut memory.history,
        }
    }
}

fn parsed(name: NameId) -> Result<Name, Error> {
    Ok(Name::parse(vec![b'a' + name])?)
}

/// One or two calls, chosen by the dice; their numbers in the history.
pub async fn step(rng: &mut SmallRng, volume: &Volume, place: Place, shared: &Shared) -> Vec<usize> {
    let mut calls = Vec::new();
    let name = rng.random_range(0..NAMES);
    let target = (name + rng.random_range(1..NAMES)) % NAMES;
    let op = match rng.random_range(0..20) {
        0..5 => Op::Create { call: 0, name, told: None },
        5..8 => {
            let (call, answer) = record(volume, place, shared, Op::Lookup { name }).await;
            calls.push(call);
            let Some(Answer::Inode(ino)) = answer else { return calls };
            Op::Link { ino, name: target }
        }
        8..10 => Op::Unlink { name },
        10..12 => Op::Rename { source: name, target, mode: Mode::NoReplace },
        12..14 => Op::Rename { source: name, target, mode: Mode::Exchange },
        14 => Op::Rename { source: name, target, mode: Mode::Replace },
        15..18 => Op::Lookup { name },
        _ => Op::List,
    };
    calls.push(record(volume, place, shared, op).await.0);
    calls
}

/// One call that changes nothing.
pub async fn look(rng: &mut SmallRng, volume: &Volume, place: Place, shared: &Shared) {
    let op = match rng.random_bool(0.6) {
        true => Op::Lookup { name: rng.random_range(0..NAMES) },
        false => Op::List,
    };
    record(volume, place, shared, op).await;
}

/// Asks and writes down: the number of the call, and `None` if its outcome stayed unknown.
async fn record(volume: &Volume, place: Place, shared: &Shared, mut op: Op) -> (usize, Option<Answer>) {
    let at = place.history(&mut shared.borrow_mut()).len();
    if let Op::Create { call, .. } = &mut op {
        *call = at as u64;
    }
    let start = world::now().as_nanos() as u64;
    place.history(&mut shared.borrow_mut()).push(Call { op: op.clone(), start, end: None });
    let answer = match ask(volume, place.dir, &op).await {
        Ok(answer) => answer,
        Err(error) if error.errno() == libc::ENOENT => Answer::NoEntry,
        Err(error) if error.errno() == libc::EEXIST => Answer::Exists,
        Err(error) => {
            tracing::info!(?op, %error, "contended call stayed unknown");
            return (at, None);
        }
    };
    let end = world::now().as_nanos() as u64;
    tracing::debug!(?op, ?answer, start, end, "contended call");
    let mut memory = shared.borrow_mut();
    let call = &mut place.history(&mut memory)[at];
    if let (Op::Create { told, .. }, Answer::Inode(ino)) = (&mut call.op, &answer) {
        *told = Some(*ino);
    }
    call.end = Some((end, answer.clone()));
    drop(memory);
    (at, Some(answer))
}

async fn ask(volume: &Volume, dir: Ino, op: &Op) -> Result<Answer, Error> {
    let cred = Cred::root();
    Ok(match *op {
        Op::Create { name, .. } => {
            let (attr, _) = volume.create(&cred, dir, parsed(name)?, 0o644, true).await?;
            Answer::Inode(attr.ino.0)
        }
        Op::Link { ino, name } => {
            volume.link(&cred, Ino(ino), dir, parsed(name)?).await?;
            Answer::Done
        }
        Op::Unlink { name } => {
            volume.unlink(&cred, dir, parsed(name)?).await?;
            Answer::Done
        }
        Op::Rename { source, target, mode } => {
            let mode = match mode {
                Mode::Replace => RenameMode::Replace,
                Mode::NoReplace => RenameMode::NoReplace,
                Mode::Exchange => RenameMode::Exchange,
            };
            volume.rename(&cred, dir, parsed(source)?, dir, parsed(target)?, mode).await?;
            Answer::Done
        }
        Op::Lookup { name } => match volume.lookup(&cred, dir, parsed(name)?).await? {
            Found::Inode(attr) => Answer::Inode(attr.ino.0),
            Found::Junction(_) => unreachable!("nobody makes junctions here"),
        },
        Op::List => {
            let page = volume.readdir(&cred, dir, None, 100, true).await?;
            let mut names = BTreeMap::new();
            for entry in page.entries {
                let ino = entry.attr.map_or(0, |attr| attr.ino.0);
                names.insert(entry.name.as_bytes()[0] - b'a', ino);
            }
            Answer::Names(names)
        }
    })
}
