//! Sixteen clients at once in one directory, creating, renaming and unlinking at random: the final tree equals a plain
//! model fed with the group's log in its order.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use weft_client::{Client, ClientParts, ConnectOptions, Cred, Ino, Name, RenameMode};
use weft_core::entry::{Command, Entry};
use weft_core::ids::GroupId;
use weft_core::namespace::op::Op;
use weft_node::disk::RealDisk;
use weft_node::meta::read_log;
use weft_node::real::OsDice;
use weft_tests::Fabric;

const CLIENTS: u64 = 16;
const OPS: usize = 60;
const NAMES: u64 = 40;

/// The obvious tree: one directory of names, each standing for a number.
#[derive(Default)]
struct Model {
    names: BTreeMap<Bytes, u64>,
    /// Names of each inode.
    links: BTreeMap<u64, u32>,
    next: u64,
    /// Requests carried out already: a retried one is in the log twice.
    done: std::collections::BTreeSet<(u64, u64)>,
}

impl Model {
    fn drop_name(&mut self, name: &Bytes) {
        if let Some(ino) = self.names.remove(name) {
            *self.links.entry(ino).or_default() -= 1;
        }
    }

    fn feed(&mut self, entry: &Entry, dir: Ino) {
        let (Command::Op { op, .. }, Some(caller)) = (&entry.command, &entry.caller) else { return };
        if !self.done.insert((caller.client.0, caller.seq.0)) {
            return;
        }
        match op {
            Op::Mkdir { parent, .. } => {
                assert_eq!(*parent, Ino::ROOT);
                self.next = Ino::ROOT.0 + 2;
            }
            Op::Create { parent, name, exclusive, .. } if *parent == dir => {
                assert!(*exclusive);
                let name = name.to_bytes();
                if !self.names.contains_key(&name) {
                    self.names.insert(name, self.next);
                    self.links.insert(self.next, 1);
                    self.next += 1;
                }
            }
            Op::Link { ino, parent, name } if *parent == dir => {
                let name = name.to_bytes();
                if self.links.get(&ino.0).is_some_and(|links| *links > 0) && !self.names.contains_key(&name) {
                    self.names.insert(name, ino.0);
                    *self.links.entry(ino.0).or_default() += 1;
                }
            }
            Op::Unlink { parent, name } if *parent == dir => self.drop_name(&name.to_bytes()),
            Op::Rename { name, new_name, mode, .. } => {
                let (from, to) = (name.to_bytes(), new_name.to_bytes());
                let (Some(moved), target) = (self.names.get(&from).copied(), self.names.get(&to).copied()) else {
                    return;
                };
                match (mode, target) {
                    (RenameMode::NoReplace, Some(_)) | (RenameMode::Exchange, None) => {}
                    (_, Some(target)) if target == moved => {}
                    (RenameMode::Exchange, Some(target)) => {
                        self.names.insert(from, target);
                        self.names.insert(to, moved);
                    }
                    (RenameMode::Replace | RenameMode::NoReplace, _) => {
                        self.drop_name(&to);
                        self.names.remove(&from);
                        self.names.insert(to, moved);
                    }
                }
            }
            other => panic!("nobody asked for {other:?}"),
        }
    }
}

async fn connect(addrs: Vec<String>) -> Client {
    Client::connect(ConnectOptions::new(addrs), ClientParts::real()).await.expect("connect")
}

fn name(rng: &mut SmallRng) -> Name {
    Name::parse(format!("n{}", rng.random_range(0..NAMES)).into_bytes()).expect("a name")
}

async fn work(client: Client, dir: Ino, seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let volume = client.volume("root").await.expect("the root volume");
    let cred = Cred::root();
    for _ in 0..OPS {
        let (a, b) = (name(&mut rng), name(&mut rng));
        let result = match rng.random_range(0..10) {
            0..4 => volume.create(&cred, dir, a, 0o644, true).await.map(drop),
            4..6 => volume.unlink(&cred, dir, a).await.map(drop),
            6 => match volume.lookup(&cred, dir, a).await {
                Ok(weft_client::Found::Inode(attr)) => volume.link(&cred, attr.ino, dir, b).await.map(drop),
                other => other.map(drop),
            },
            choice => {
                let mode = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange][choice - 7];
                volume.rename(&cred, dir, a, dir, b, mode).await.map(drop)
            }
        };
        if let Err(error) = result {
            let errno = error.errno();
            assert!([libc::ENOENT, libc::EEXIST, libc::ESTALE].contains(&errno), "{error}");
        }
    }
    client.close().await.expect("close");
}

#[test]
fn sixteen_clients_leave_the_tree_that_the_log_says() {
    let mut fabric = Fabric::start(3);
    let addrs: Vec<String> = fabric.nodes.iter().map(|node| node.addr.clone()).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let (group, dir, found) = runtime.block_on(async {
        let client = connect(addrs.clone()).await;
        let volume = client.volume("root").await.expect("the root volume");
        let cred = Cred::root();
        let shared = Name::parse(&b"shared"[..]).expect("a name");
        let dir = volume.mkdir(&cred, Ino::ROOT, shared, 0o755).await.expect("mkdir").ino;
        let mut workers = Vec::new();
        for seed in 0..CLIENTS {
            workers.push(tokio::spawn(work(connect(addrs.clone()).await, dir, seed)));
        }
        for worker in workers {
            worker.await.expect("a worker");
        }
        let page = volume.readdir(&cred, dir, None, 4096, true).await.expect("list");
        assert!(page.end);
        assert_eq!(page.dir.size, page.entries.len() as u64);
        let found: BTreeMap<Bytes, (u64, u32)> = page
            .entries
            .into_iter()
            .map(|entry| {
                let attr = entry.attr.expect("attributes were asked for");
                (entry.name.to_bytes(), (attr.ino.0, attr.nlink))
            })
            .collect();
        let group = volume.info().group;
        client.close().await.expect("close");
        (group, dir, found)
    });
    for node in &mut fabric.nodes {
        node.stop();
    }
    let mut model = Model::default();
    for (_, entry) in runtime.block_on(logged(&fabric.nodes[0].folder.join("data"), group)) {
        model.feed(&entry, dir);
    }
    let expected: BTreeMap<Bytes, (u64, u32)> =
        model.names.iter().map(|(name, ino)| (name.clone(), (*ino, model.links[ino]))).collect();
    assert!(model.done.len() > CLIENTS as usize * OPS / 2, "only {} requests are in the log", model.done.len());
    assert_eq!(found, expected);
}

/// The entries of a group's log, in order, as a stopped node holds them.
async fn logged(data: &Path, group: GroupId) -> Vec<(u64, Entry)> {
    read_log(Arc::new(RealDisk::open(data).expect("open the folder")), Arc::new(OsDice), group)
        .await
        .expect("read the log")
}
