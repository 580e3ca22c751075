//! The folder of a `weft dev`: which nodes there are, where their data is, on which ports they listen.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use weft_node::settings::Settings;

use super::record::{NodeRecord, Record};
use crate::failure::{Doing, Failure};
use crate::{local_node, system};

const LOCK: &str = "dev.lock";
const FIRST_PORT: u16 = 7400;
/// Each node takes one port for gRPC and one for metrics.
const PORTS_PER_NODE: u16 = 2;

/// A folder that belongs to this process.
pub(crate) struct Layout {
    /// Absolute.
    pub(crate) dir: PathBuf,
    /// At least one.
    pub(crate) nodes: Vec<NodePlace>,
    _lock: File,
}

/// One node's place.
#[derive(Clone, Debug)]
pub(crate) struct NodePlace {
    /// From 1.
    pub(crate) number: u32,
    /// With its configuration, its data and its log.
    pub(crate) folder: PathBuf,
    /// What its configuration says.
    pub(crate) settings: Settings,
}

impl NodePlace {
    /// Where it answers.
    pub(crate) fn addr(&self) -> String {
        self.settings.advertised(&self.settings.listen)
    }

    /// Its settings' file.
    pub(crate) fn config(&self) -> PathBuf {
        self.folder.join("node.toml")
    }

    /// What it logs.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// The number of its process, while it runs.
    pub(crate) fn pid_file(&self) -> PathBuf {
        self.folder.join("pid")
    }
}

impl Layout {
    /// Opens a folder, or makes it for so many nodes (default 1) on ports from `port` on (default 7400; 0: any).
    ///
    /// # Errors
    /// Another `weft dev` has it, it was made for another number of nodes or for other ports, or it can't be written.
    pub(crate) fn open(dir: &Path, nodes: Option<u32>, port: Option<u16>) -> Result<Layout, Failure> {
        std::fs::create_dir_all(dir).doing(format!("make folder {}", dir.display()))?;
        let dir = dir.canonicalize().doing(format!("find folder {}", dir.display()))?;
        let lock = lock(&dir)?;
        let record = match Record::read(&dir)? {
            Some(record) => {
                as_asked(&dir, &record, nodes, port)?;
                record
            }
            None => {
                only_ours(&dir)?;
                let nodes = fresh(&dir, nodes.unwrap_or(1), port.unwrap_or(FIRST_PORT))?;
                check_free(nodes.iter().flat_map(|node| [&node.addr, &node.http])).map_err(|failure| {
                    failure.hint("choose others with --port, for instance --port 7500, or any free ones with --port 0")
                })?;
                let record = Record::new(nodes);
                // First, so that a start that was broken off knows what it began.
                record.write(&dir)?;
                record
            }
        };
        let nodes: Vec<NodePlace> =
            record.nodes.iter().map(|node| place(&dir, node, &record)).collect::<Result<_, _>>()?;
        if nodes.is_empty() {
            return Err(Failure::new(format!("{}: its dev.json has no nodes", dir.display())));
        }
        Ok(Layout { dir, nodes, _lock: lock })
    }

    /// The administrator's credential, where the site has certificates.
    pub(crate) fn credential(&self) -> PathBuf {
        self.dir.join("credential")
    }

    /// Where the nodes answer.
    pub(crate) fn addrs(&self) -> Vec<String> {
        self.nodes.iter().map(NodePlace::addr).collect()
    }

    /// For `dev.json`; nothing runs yet.
    pub(crate) fn record(&self) -> Record {
        let node = |node: &NodePlace| NodeRecord {
            number: node.number,
            addr: node.addr(),
            http: node.settings.http.clone(),
            folder: node.folder.clone(),
            config: node.config(),
            pid: None,
        };
        Record::new(self.nodes.iter().map(node).collect())
    }
}

fn lock(dir: &Path) -> Result<File, Failure> {
    let path = dir.join(LOCK);
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.doing(format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(Failure::new(format!("another weft dev runs in {}", dir.display())).hint(
                "stop it with Ctrl-C where it runs, or name another folder with --dir and other ports with --port",
            ))
        }
        Err(std::fs::TryLockError::Error(error)) => Err(error).doing(format!("lock {}", dir.display())),
    }
}

/// Refuses to make a site among other things.
fn only_ours(dir: &Path) -> Result<(), Failure> {
    for entry in std::fs::read_dir(dir).doing(format!("list {}", dir.display()))? {
        let name = entry.doing(format!("list {}", dir.display()))?.file_name();
        if name != LOCK && !name.as_encoded_bytes().starts_with(b".dev.json") {
            let name = name.to_string_lossy();
            return Err(Failure::new(format!("{} holds other things ({name}) and no site", dir.display()))
                .hint("name an empty or a new folder with --dir"));
        }
    }
    Ok(())
}

/// Whether what is asked for fits what is there.
fn as_asked(dir: &Path, record: &Record, nodes: Option<u32>, port: Option<u16>) -> Result<(), Failure> {
    let has = record.nodes.len();
    if nodes.is_some_and(|nodes| nodes as usize != has) {
        let plural = if has == 1 { "" } else { "s" };
        return Err(Failure::usage(format!("the site in {} has {has} node{plural}", dir.display()))
            .hint("leave --nodes out, or name another folder with --dir"));
    }
    let first = record.nodes.first().and_then(|node| node.addr.rsplit_once(':')?.1.parse::<u16>().ok());
    match (port, first) {
        (Some(port @ 1..), Some(first)) if port != first => {
            Err(Failure::usage(format!("the site in {} has its first port at {first}", dir.display()))
                .hint("leave --port out, or name another folder with --dir"))
        }
        _ => Ok(()),
    }
}

/// Nodes on ports of their own.
fn fresh(dir: &Path, nodes: u32, port: u16) -> Result<Vec<NodeRecord>, Failure> {
    let ports: Vec<u16> = match port {
        0 => free_ports(nodes as usize * usize::from(PORTS_PER_NODE)).doing("find free ports")?,
        first => {
            let count = nodes as u16 * PORTS_PER_NODE;
            let last = first.checked_add(count - 1);
            let last = last.ok_or_else(|| Failure::usage(format!("there are no {count} ports from {first} on")))?;
            (first..=last).collect()
        }
    };
    let node = |(ports, number): (&[u16], u32)| {
        let folder = dir.join(format!("n{number}"));
        NodeRecord {
            number,
            addr: format!("127.0.0.1:{}", ports[0]),
            http: format!("127.0.0.1:{}", ports[1]),
            config: folder.join("node.toml"),
            folder,
            pid: None,
        }
    };
    Ok(ports.chunks(usize::from(PORTS_PER_NODE)).zip(1..).map(node).collect())
}

/// Ports that nobody listens on, different ones: all are held until all are found.
fn free_ports(count: usize) -> std::io::Result<Vec<u16>> {
    let sockets: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<_>>()?;
    sockets.iter().map(|socket| Ok(socket.local_addr()?.port())).collect()
}

/// Whether nobody listens at any of the addresses.
pub(crate) fn check_free<'a>(addrs: impl Iterator<Item = &'a String>) -> Result<(), Failure> {
    for addr in addrs.filter(|addr| !addr.is_empty()) {
        if let Err(error) = TcpListener::bind(addr.as_str()) {
            return Err(match error.kind() {
                std::io::ErrorKind::AddrInUse => Failure::new(format!("{addr} is taken by another process")),
                _ => Failure::new(format!("listen on {addr}: {error}")),
            });
        }
    }
    Ok(())
}

/// Each node's share of this machine's processors, where they have to share.
fn threads_each(nodes: usize) -> usize {
    if nodes == 1 { 0 } else { (system::processors() / nodes).max(1) }
}

/// A node's place, with its configuration written if it has none.
fn place(dir: &Path, node: &NodeRecord, record: &Record) -> Result<NodePlace, Failure> {
    // Not the record's own words for the folder: the whole may have been moved.
    let folder = dir.join(format!("n{}", node.number));
    let config = folder.join("node.toml");
    let data = folder.join("data");
    let known = config.exists();
    let mut settings = match known {
        true => local_node::load(&config)?,
        false => Settings {
            listen: node.addr.clone(),
            http: node.http.clone(),
            threads: threads_each(record.nodes.len()),
            peers: record.nodes.iter().map(|other| other.addr.clone()).filter(|addr| *addr != node.addr).collect(),
            ..Settings::default()
        },
    };
    if settings.data != data || !known {
        settings.data = data;
        std::fs::create_dir_all(&folder).doing(format!("make folder {}", folder.display()))?;
        std::fs::write(&config, settings.documented_toml()).doing(format!("write {}", config.display()))?;
    }
    Ok(NodePlace { number: node.number, folder, settings })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_folder_finds_its_nodes_and_ports_again() {
        let dir = tempfile::tempdir().unwrap();
        let first = Layout::open(dir.path(), Some(3), Some(0)).unwrap();
        let addrs = first.addrs();
        assert_eq!(addrs.len(), 3);
        first.record().write(&first.dir).unwrap();
        let data: Vec<PathBuf> = first.nodes.iter().map(|node| node.settings.data.clone()).collect();
        drop(first);

        let again = Layout::open(dir.path(), None, None).unwrap();
        assert_eq!(again.addrs(), addrs);
        assert_eq!(again.nodes.iter().map(|node| node.settings.data.clone()).collect::<Vec<_>>(), data);
        assert_eq!(again.nodes[1].settings.peers, [addrs[0].clone(), addrs[2].clone()]);
    }

    #[test]
    fn a_moved_folder_is_a_whole_site_still() {
        let dir = tempfile::tempdir().unwrap();
        let old = dir.path().join("old");
        drop(Layout::open(&old, Some(1), Some(0)).unwrap());
        let new = dir.path().join("new");
        std::fs::rename(&old, &new).unwrap();
        let moved = Layout::open(&new, None, None).unwrap();
        assert_eq!(moved.nodes[0].settings.data, new.canonicalize().unwrap().join("n1/data"));
        assert_eq!(local_node::load(&moved.nodes[0].config()).unwrap(), moved.nodes[0].settings);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path(), Some(2), Some(9000)).unwrap();
        assert_eq!(layout.addrs(), ["127.0.0.1:9000", "127.0.0.1:9002"]);
        assert_eq!(layout.nodes[1].settings.http, "127.0.0.1:9003");
        let refused = |nodes, port| Layout::open(dir.path(), nodes, port).err().unwrap();
        assert!(refused(None, None).what().unwrap().contains("another weft dev runs"));
        drop(layout);
        assert!(refused(Some(3), None).what().unwrap().contains("has 2 nodes"));
        assert!(refused(None, Some(7400)).what().unwrap().contains("first port at 9000"));
        assert!(Layout::open(dir.path(), Some(2), Some(9000)).is_ok());

        let other = tempfile::tempdir().unwrap();
        std::fs::write(other.path().join("letter.txt"), "dear").unwrap();
        let refused = Layout::open(other.path(), None, None).err().unwrap();
        assert!(refused.what().unwrap().contains("letter.txt"));
        assert!(Layout::open(&other.path().join("new"), Some(9), Some(65_530)).is_err());
    }
}
