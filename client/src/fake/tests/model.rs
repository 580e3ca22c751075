//! Whole files against a vector of bytes: random calls through two handles and from a second client, with and without
//! trouble on the way.

use std::future::Future;

use bytes::Bytes;
use proptest::prelude::*;
use weft_core::limits::MAX_CHUNK;

use crate::fake::{Fake, Trouble};
use crate::{AllocateMode, Client, Cred, File, Ino, Name, Volume};

#[derive(Clone, Debug)]
enum Step {
    Write {
        offset: u64,
        len: usize,
        fill: u8,
    },
    Append {
        len: usize,
        fill: u8,
    },
    Read {
        offset: u64,
        len: usize,
    },
    ReadAll,
    Truncate {
        size: u64,
    },
    Flush,
    /// Closes the first handle and opens another.
    Reopen,
    Punch {
        offset: u64,
        len: u64,
    },
    /// Another client writes; this one flushed before and opens again after.
    Elsewhere {
        offset: u64,
        len: usize,
        fill: u8,
    },
    /// The file is cut and written behind the client's back; it hears within a second.
    Idle,
    CopyWithin {
        from: u64,
        to: u64,
        len: u64,
    },
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0u64..30_000,
        2 => (1u64..3, 0u64..16_000).prop_map(|(chunk, at)| chunk * u64::from(MAX_CHUNK) - 8_000 + at),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let len = || prop_oneof![6 => 1usize..9_000, 1 => Just(4096usize), 1 => 100_000usize..5_000_000];
    prop_oneof![
        8 => (offset(), len(), any::<u8>()).prop_map(|(offset, len, fill)| Step::Write { offset, len, fill }),
        2 => (1usize..9_000, any::<u8>()).prop_map(|(len, fill)| Step::Append { len, fill }),
        4 => (offset(), 1usize..200_000).prop_map(|(offset, len)| Step::Read { offset, len }),
        2 => Just(Step::ReadAll),
        2 => offset().prop_map(|size| Step::Truncate { size }),
        1 => Just(Step::Truncate { size: 0 }),
        3 => Just(Step::Flush),
        2 => Just(Step::Reopen),
        1 => (offset(), 1u64..50_000).prop_map(|(offset, len)| Step::Punch { offset, len }),
        2 => (offset(), 1usize..9_000, any::<u8>())
            .prop_map(|(offset, len, fill)| Step::Elsewhere { offset, len, fill }),
        1 => Just(Step::Idle),
        1 => (offset(), offset(), 1u64..60_000).prop_map(|(from, to, len)| Step::CopyWithin { from, to, len }),
    ]
}

fn bytes(len: usize, fill: u8) -> Bytes {
    let pattern: Vec<u8> = (0..757u32).map(|at| fill.wrapping_mul(31).wrapping_add((at / 3) as u8)).collect();
    let mut bytes = pattern.repeat(len / pattern.len() + 1);
    bytes.truncate(len);
    bytes.into()
}

struct World {
    client: Client,
    volume: Volume,
    other: Volume,
    ino: Ino,
    first: File,
    second: File,
    model: Vec<u8>,
}

impl World {
    async fn new(fake: &Fake) -> World {
        let client = fake.client().await;
        let volume = client.volume("root").await.expect("there");
        let other = fake.client().await.volume("root").await.expect("there");
        let name = Name::parse("file").expect("a name");
        let (first, attr, fresh) =
            volume.create_file(&Cred::root(), Ino::ROOT, name, 0o644, true).await.expect("created");
        assert!(fresh);
        let second = volume.open(&Cred::root(), attr.ino, true, true).await.expect("opened");
        World { client, volume, other, ino: attr.ino, first, second, model: Vec::new() }
    }

    fn put(&mut self, offset: u64, data: &[u8]) {
        let end = offset as usize + data.len();
        if self.model.len() < end {
            self.model.resize(end, 0);
        }
        self.model[offset as usize..end].copy_from_slice(data);
    }

    async fn step(&mut self, step: Step) -> crate::Result<()> {
        let cred = Cred::root();
        match step {
            Step::Write { offset, len, fill } => {
                let data = bytes(len, fill);
                self.put(offset, &data);
                self.first.write_at(offset, data).await?;
            }
            Step::Append { len, fill } => {
                let data = bytes(len, fill);
                let at = self.second.append(data.clone()).await?;
                assert_eq!(at, self.model.len() as u64);
                self.put(at, &data);
            }
            Step::Read { offset, len } => self.compare(&self.second, offset, len).await?,
            Step::ReadAll => self.compare_all(&self.first).await?,
            Step::Truncate { size } => {
                self.model.resize(size as usize, 0);
                assert_eq!(self.first.truncate(size).await?.size, size);
            }
            Step::Flush => {
                self.second.flush().await?;
                assert_eq!(self.other.getattr(&cred, self.ino).await?.size, self.model.len() as u64);
            }
            Step::Reopen => {
                self.first.close().await?;
                self.first = self.volume.open(&cred, self.ino, true, true).await?;
            }
            Step::Punch { offset, len } => {
                let end = self.model.len().min((offset + len) as usize);
                if (offset as usize) < end {
                    self.model[offset as usize..end].fill(0);
                }
                self.volume.allocate(&cred, self.ino, AllocateMode::PunchHole, offset, len).await?;
            }
            Step::Elsewhere { offset, len, fill } => {
                self.first.flush().await?;
                let theirs = self.other.open(&cred, self.ino, true, true).await?;
                self.compare_all(&theirs).await?;
                let data = bytes(len, fill);
                self.put(offset, &data);
                theirs.write_at(offset, data).await?;
                theirs.close().await?;
                self.first = self.volume.open(&cred, self.ino, true, true).await?;
                self.compare_all(&self.second).await?;
            }
            Step::Idle => {
                tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
                assert_eq!(self.other.getattr(&cred, self.ino).await?.size, self.model.len() as u64);
                let theirs = self.other.open(&cred, self.ino, true, false).await?;
                self.compare_all(&theirs).await?;
            }
            Step::CopyWithin { from, to, len } => {
                if from.abs_diff(to) < len || from >= self.model.len() as u64 {
                    return Ok(());
                }
                let (copied, attr) =
                    self.volume.copy_range(&cred, self.ino, from, &self.volume, self.ino, to, len).await?;
                let data = self.model[from as usize..(from + copied) as usize].to_vec();
                self.put(to, &data);
                assert_eq!(attr.size, self.model.len() as u64);
            }
        }
        assert_eq!(self.first.attr().await?.size, self.model.len() as u64);
        assert_eq!(self.volume.getattr(&cred, self.ino).await?.size, self.model.len() as u64);
        Ok(())
    }

    async fn compare(&self, file: &File, offset: u64, len: usize) -> crate::Result<()> {
        let found = file.read_at(offset, len).await?;
        let start = self.model.len().min(offset as usize);
        let end = self.model.len().min(offset as usize + len);
        assert_eq!(found.len(), end - start, "as many bytes as there are");
        if found[..] != self.model[start..end] {
            let wrong = found.iter().zip(&self.model[start..end]).position(|(a, b)| a != b);
            panic!("other bytes {wrong:?} behind {offset}");
        }
        Ok(())
    }

    async fn compare_all(&self, file: &File) -> crate::Result<()> {
        let mut at = 0;
        while at < self.model.len() as u64 {
            self.compare(file, at, 700_000).await?;
            at += 700_000;
        }
        self.compare(file, at, 10).await
    }
}

pub(super) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
        .block_on(future)
}

fn try_all(seed: u64, trouble: Trouble, steps: Vec<Step>) {
    run(async {
        let fake = Fake::new(seed);
        let mut world = World::new(&fake).await;
        fake.trouble(trouble);
        for step in steps {
            world.step(step.clone()).await.unwrap_or_else(|error| panic!("{step:?}: {error}"));
        }
        fake.trouble(Trouble::default());
        world.step(Step::Flush).await.expect("flushed");
        world.step(Step::Reopen).await.expect("opened");
        world.step(Step::ReadAll).await.expect("read");
        world.client.close().await.expect("closed");
        fake.check();
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_file_is_a_vector_of_bytes(seed in any::<u64>(), steps in prop::collection::vec(step(), 1..30)) {
        try_all(seed, Trouble::default(), steps);
    }

    #[test]
    fn it_is_one_with_trouble_on_the_way(seed in any::<u64>(), steps in prop::collection::vec(step(), 1..30)) {
        try_all(seed, Trouble::everywhere(), steps);
    }
}
