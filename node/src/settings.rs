//! What an operator can set. Settings are data: they can be printed, read back and compared. Every one says its unit,
//! its default and when to touch it; the same words are the documentation of the Rust field and of the TOML file.

mod file;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use weft_core::site::Labels;

/// Why settings can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The file can't be read.
    #[error("read settings {file}: {why}")]
    Read {
        /// Which.
        file: String,
        /// Why not.
        why: String,
    },
    /// The text is not TOML, or a value is of the wrong kind.
    #[error("{file} line {line}: {why}")]
    Syntax {
        /// Where.
        file: String,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// A key that means nothing.
    #[error("unknown key {key} in {file} line {line}{}", did_you_mean(.nearest))]
    UnknownKey {
        /// The key, with its table: `raft.hartbeat_ms`.
        key: String,
        /// Where.
        file: String,
        /// Counted from 1.
        line: usize,
        /// What was probably meant.
        nearest: Option<String>,
    },
    /// A value makes no sense.
    #[error("setting {key} in {file}: {why}")]
    Invalid {
        /// The key, with its table.
        key: String,
        /// Where the settings come from.
        file: String,
        /// Why not.
        why: String,
    },
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|key| format!(": did you mean {key}?")).unwrap_or_default()
}

/// Defines a struct of settings, its defaults, and the words about each key from the same doc comments.
macro_rules! settings {
    ($(#[doc = $about:literal])* $name:ident { $($(#[doc = $doc:literal])* $field:ident: $type:ty = $default:expr,)* }) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[doc = $doc])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> $name {
                $name { $($field: $default,)* }
            }
        }

        impl $name {
            const KEYS: &[file::Key] = &[$(file::Key { name: stringify!($field), about: &[$($doc),*] },)*];
        }
    };
}

settings! {
    /// Settings of one node.
    Settings {
        /// The data folder: identity, logs, records, chunks. Default "weft-data" in the current folder. One folder
        /// belongs to one node for ever; put it on the disk that should hold the data.
        data: PathBuf = PathBuf::from("weft-data"),
        /// Address and port to listen on for other nodes and clients, `host:port`; port 0 takes any free one.
        /// Default "127.0.0.1:7400". A site in plain text (`weft dev`) takes
        /// loopback addresses only.
        listen: String = "127.0.0.1:7400".into(),
        /// Address at which others reach this node, `host:port`. Default empty: the same as `listen`. Set it when
        /// `listen` is 0.0.0.0 or the node sits behind a port mapping.
        advertise: String = String::new(),
        /// Address of the HTTP port with /metrics and /healthz, `host:port`. Default "127.0.0.1:7401"; empty
        /// switches it off.
        http: String = "127.0.0.1:7401".into(),
        /// Whether the node holds replicas of metadata groups. Default true. Set it to false on nodes added for
        /// space alone.
        meta: bool = true,
        /// Whether the node holds chunks of file data. Default true.
        chunk: bool = true,
        /// Addresses of other nodes of the site, `host:port`, asked when the folder remembers none that answers.
        /// Default empty: the folder remembers the site map by itself. Set it when nodes changed their addresses
        /// while this one was down.
        peers: Vec<String> = Vec::new(),
        /// Where metadata records are kept: "fjall" (default) or "sled" on disk, "memory" for tests (rebuilt from
        /// the log at each start). Touch it only on an empty folder.
        record_store: RecordStoreKind = RecordStoreKind::Fjall,
        /// Milliseconds between heartbeats of this node to the site. Default 500; at most a third of `lease_ms`.
        heartbeat_ms: u64 = 500,
        /// Milliseconds for which a heartbeat lets a chunk server acknowledge writes. A silent node is called away
        /// after it and 10 %. Default 3000. Longer: slower failover; shorter: nodes under load are called away.
        /// The same on all nodes of a site.
        lease_ms: u64 = 3000,
        /// Seconds of silence after which others take the place of a node: its chunks are copied to other nodes, its
        /// replicas of metadata move. Default 600. Longer: a machine may be down for a while without being replaced;
        /// shorter: fewer copies are missing for long. The same on all nodes of a site.
        repair_after_s: u64 = 600,
        /// Threads that serve requests; others write to the disk. Default 0: one per processor. Set it to the node's
        /// share of the processors where several nodes are on one machine: handing work to a thread that sleeps costs
        /// more than doing it.
        threads: usize = 0,
        /// Requests that one connection may have in progress at a time; further ones wait. Default 512.
        requests_per_connection: usize = 512,
        /// Where the node's machine stands, so that copies are kept apart.
        labels: LabelSettings = LabelSettings::default(),
        /// Raft: replication of metadata.
        raft: RaftSettings = RaftSettings::default(),
        /// The record store below the metadata.
        records: RecordSettings = RecordSettings::default(),
        /// The chunk server.
        chunks: ChunkSettings = ChunkSettings::default(),
    }
}

settings! {
    /// Where a node's machine stands. Copies of a chunk are kept on other hosts, in other racks, in other zones as far
    /// as there are such.
    LabelSettings {
        /// The machine. Default empty: the host of the address at which others reach the node.
        host: String = String::new(),
        /// The rack it is in. Default empty: not known. Set it on all nodes or on none.
        rack: String = String::new(),
        /// The zone, room or building it is in. Default empty: not known. Set it on all nodes or on none.
        zone: String = String::new(),
    }
}

settings! {
    /// Replication of metadata.
    RaftSettings {
        /// Milliseconds between heartbeats of a group's leader. Default 150. The same on all nodes of a site.
        heartbeat_ms: u64 = 150,
        /// Shortest wait in milliseconds for a leader before an election. Default 600; at least three heartbeats.
        election_min_ms: u64 = 600,
        /// Longest wait in milliseconds for a leader before an election. Default 1200. Raise both where the network
        /// between the nodes is slow.
        election_max_ms: u64 = 1200,
        /// Entries between two snapshot points of a group; the log before one is given back. Default 50000.
        /// Lower: less log on disk and a shorter start; higher: fewer flushes of the record store.
        snapshot_every: u64 = 50_000,
        /// Entries kept behind a snapshot point, so that a replica that lags a little needs no snapshot.
        /// Default 10000.
        keep_logs: u64 = 10_000,
        /// Entries in one message to a follower at the most. Default 512.
        max_batch: u64 = 512,
        /// MiB of recent log entries of all groups kept in memory. Default 32.
        cache_mib: u64 = 32,
        /// Milliseconds between two heartbeats of a session that clients are asked for. Default 2000.
        keepalive_ms: u64 = 2000,
    }
}

settings! {
    /// The record store below the metadata.
    RecordSettings {
        /// MiB of memory for the store's block cache. Default 64. Raise it when the metadata no longer fits and
        /// the disk is read for stat and readdir.
        cache_mib: u64 = 64,
        /// MiB of hot records kept before the store. Default 32.
        hot_mib: u64 = 32,
    }
}

settings! {
    /// The chunk server.
    ChunkSettings {
        /// MiB of one segment file. Default 64. Only new segments are affected.
        segment_mib: u64 = 64,
        /// MiB left free on the disk: below it the server takes no new chunks and says it is full. Default 512.
        reserve_mib: u64 = 512,
        /// MiB of memory for the chunk index's cache. Default 64.
        index_cache_mib: u64 = 64,
        /// Puts in progress at a time; further ones are told to come again. Default 64 (of at most 4 MiB each).
        max_puts: usize = 64,
        /// MiB per second for copying chunks to a server that was away. Default 200; 0: no limit.
        catch_up_mib_s: u64 = 200,
        /// Seconds for which chunks that no file names any more stay, for readers that hold an old map of their file.
        /// Default 60. Shorter: room comes back sooner; longer: fewer readers have to ask again.
        keep_freed_s: u64 = 60,
        /// Seconds that one walk through all chunks takes at least, which looks for chunks that were stored and never
        /// named, and for those of placement groups this node has left. Default 14400. Shorter finds them sooner, for
        /// more questions to the metadata.
        walk_s: u64 = 14_400,
        /// MiB per second for rereading all chunks, to find what rots before anybody needs it. Default 8; 0: nothing is
        /// reread. Lower it where the disk has no time to spare; a round over a full disk takes its bytes by this.
        scrub_mib_s: u64 = 8,
        /// Seconds between two rounds of rereading. Default 21600.
        scrub_pause_s: u64 = 21_600,
        /// Seconds between two comparisons of what is here with what the other members of the placement groups have.
        /// Default 600; 0: only once after each start. It reads indexes, not chunks.
        compare_s: u64 = 600,
        /// Seconds for which a chunk must be missing here before it is fetched from a member that has it: it may be on
        /// its way, or being deleted. Default 60. Not so after an absence: then all that is missing is fetched at once.
        missing_s: u64 = 60,
    }
}

/// Which record store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordStoreKind {
    /// Log-structured, the default.
    #[default]
    Fjall,
    /// B-tree like.
    Sled,
    /// In memory.
    Memory,
}

impl Settings {
    /// Reads settings from a TOML file.
    ///
    /// # Errors
    /// The file can't be read, is not TOML, has an unknown key or a value that makes no sense.
    pub fn load(path: &Path) -> Result<Settings, SettingsError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| SettingsError::Read { file: file.clone(), why: error.to_string() })?;
        Settings::parse(&text, &file)
    }

    /// Reads settings from TOML text; `file` is what errors call it.
    ///
    /// # Errors
    /// It is not TOML, has an unknown key or a value that makes no sense.
    pub fn parse(text: &str, file: &str) -> Result<Settings, SettingsError> {
        let settings = file::parse(text, file)?;
        settings.check(file)?;
        Ok(settings)
    }

    /// The settings as TOML, each with its words. Reading it back gives the same settings.
    pub fn documented_toml(&self) -> String {
        file::print(self)
    }

    /// Checks what types can't say; `file` is what errors call the source.
    ///
    /// # Errors
    /// A value makes no sense.
    pub fn check(&self, file: &str) -> Result<(), SettingsError> {
        let refuse =
            |key: &str, why: String| Err(SettingsError::Invalid { key: key.to_string(), file: file.to_string(), why });
        if self.data.as_os_str().is_empty() {
            return refuse("data", "no folder is named".into());
        }
        for (key, addr) in [("listen", &self.listen), ("advertise", &self.advertise), ("http", &self.http)] {
            if key != "listen" && addr.is_empty() {
                continue;
            }
            if let Err(why) = check_addr(addr) {
                return refuse(key, why);
            }
        }
        for peer in &self.peers {
            if let Err(why) = check_addr(peer) {
                return refuse("peers", why);
            }
        }
        if self.advertise.is_empty() && ["0.0.0.0", "[::]"].iter().any(|any| self.listen.starts_with(any)) {
            return refuse("advertise", format!("needed, since others can't reach {}", self.listen));
        }
        if !self.meta && !self.chunk {
            return refuse("meta", "a node needs a role: meta, chunk or both".into());
        }
        if self.heartbeat_ms == 0 || self.lease_ms < 3 * self.heartbeat_ms {
            return refuse(
                "lease_ms",
                format!("{} is less than three heartbeats of {} ms", self.lease_ms, self.heartbeat_ms),
            );
        }
        for (key, label) in
            [("labels.host", &self.labels.host), ("labels.rack", &self.labels.rack), ("labels.zone", &self.labels.zone)]
        {
            if let Err(why) = check_label(label) {
                return refuse(key, why);
            }
        }
        let raft = &self.raft;
        if raft.heartbeat_ms == 0 || raft.election_min_ms < 3 * raft.heartbeat_ms {
            return refuse(
                "raft.election_min_ms",
                format!("{} is less than three heartbeats of {} ms", raft.election_min_ms, raft.heartbeat_ms),
            );
        }
        if raft.election_max_ms <= raft.election_min_ms {
            return refuse(
                "raft.election_max_ms",
                format!("{} is not above election_min_ms {}", raft.election_max_ms, raft.election_min_ms),
            );
        }
        if self.chunks.segment_mib < 8 || self.chunks.segment_mib > 4096 {
            return refuse("chunks.segment_mib", format!("{} is not within 8 to 4096", self.chunks.segment_mib));
        }
        for (key, value) in [
            ("repair_after_s", self.repair_after_s),
            ("requests_per_connection", self.requests_per_connection as u64),
            ("raft.snapshot_every", raft.snapshot_every),
            ("raft.max_batch", raft.max_batch),
            ("raft.keepalive_ms", raft.keepalive_ms),
            ("chunks.max_puts", self.chunks.max_puts as u64),
        ] {
            if value == 0 {
                return refuse(key, "0 makes no sense here".into());
            }
        }
        Ok(())
    }

    /// What of the node would be reached in plain text from other machines: for sites without certificates.
    pub fn beyond_loopback(&self) -> Option<&str> {
        [&self.listen, &self.advertise]
            .into_iter()
            .find(|addr| !addr.is_empty() && !is_loopback(addr))
            .map(String::as_str)
    }

    /// Where the machine of a node stands that others reach at `addr`.
    pub fn labels_at(&self, addr: &str) -> Labels {
        let LabelSettings { host, rack, zone } = self.labels.clone();
        let of_addr = || addr.rsplit_once(':').map_or(addr, |(host, _)| host).to_string();
        Labels { host: if host.is_empty() { of_addr() } else { host }, rack, zone }
    }

    /// Where others reach a node that really listens on `bound`.
    pub fn advertised(&self, bound: &str) -> String {
        if self.advertise.is_empty() { bound.to_string() } else { self.advertise.clone() }
    }
}

/// Whether only this machine reaches an address.
fn is_loopback(addr: &str) -> bool {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// An address is `host:port`; the host may be a name, an IPv4 address or an IPv6 address in brackets.
pub(crate) fn check_addr(addr: &str) -> Result<(), String> {
    let Some((host, port)) = addr.rsplit_once(':') else {
        return Err(format!("{addr:?} is not host:port"));
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let bad_host = match bare {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_err(),
        None => host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == ':' || c == '/'),
    };
    if bad_host || port.parse::<u16>().is_err() {
        return Err(format!("{addr:?} is not host:port"));
    }
    Ok(())
}

/// Bytes of a label at the most.
const MAX_LABEL: usize = 255;

/// A label is one word that prints, or nothing.
pub(crate) fn check_label(label: &str) -> Result<(), String> {
    if label.len() > MAX_LABEL || label.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!("{label:?} is not one word of at most {MAX_LABEL} bytes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
