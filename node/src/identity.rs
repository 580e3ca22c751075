//! Who a node is, and the data folder that says so: a format version, the identity written when the node joined a
//! site and never changed after, and marks of what is only half done. Every small file carries a checksum.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use weft_core::ids::{Incarnation, NodeId, ReplicaId, SiteId};

use crate::parts::Disk;
use crate::trust::found::FOUNDING_FILE;
use crate::trust::keeper::TRUST_FILE;

/// The layout of a data folder as this version writes it.
pub const FORMAT: u32 = 1;

const FORMAT_FILE: &str = "format";
const IDENTITY_FILE: &str = "identity";
const BOOTSTRAP_FILE: &str = "bootstrap";
const JOINING_FILE: &str = "joining";
const MAP_FILE: &str = "map";
const LOG_FILE: &str = "log";
const LOCK_FILE: &str = "lock";

/// Bytes of a site's name at the most.
pub const MAX_SITE_NAME: usize = 64;

/// Who a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The site.
    pub site: SiteId,
    /// What people call the site.
    pub site_name: String,
    /// The node.
    pub node: NodeId,
    /// The life of the data folder.
    pub incarnation: Incarnation,
}

impl Identity {
    /// The node as a member of Raft groups and placement groups.
    pub fn replica(&self) -> ReplicaId {
        ReplicaId { node: self.node, incarnation: self.incarnation }
    }
}

/// Which of the node's Raft logs, one after the other, its folder holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLife {
    /// How many damaged ones were given up before it.
    pub lost: u32,
    /// Whether it was begun. What lies in its folder before is what is left of the one before.
    pub begun: bool,
}

/// What the first node of a new site has yet to write into the system group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// How many meta groups for volumes.
    pub groups: u32,
    /// Copies of each chunk of the root volume.
    pub replication: u8,
}

/// Why a data folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another process has it open.
    #[error("data folder {folder} is in use by another process: stop that one first, or name another folder")]
    InUse {
        /// Which.
        folder: String,
    },
    /// A later version wrote it.
    #[error(
        "the data folder has format {found}, this version knows formats up to {FORMAT}: \
         start it with the version that wrote it or a later one; nothing was changed"
    )]
    Future {
        /// Its format.
        found: u32,
    },
    /// It is nobody's yet.
    #[error(
        "the data folder belongs to no site yet: make a new site in it (weft cluster init) or join one (weft cluster join)"
    )]
    Fresh,
    /// It belongs to a site already.
    #[error("the data folder already belongs to node {node} of site {site}: name an empty folder")]
    Taken {
        /// Of which site.
        site: String,
        /// Its node.
        node: NodeId,
    },
    /// It holds other things.
    #[error("the data folder is not empty ({found} is in it) and not Weft's: name an empty folder")]
    Foreign {
        /// Something found in it.
        found: String,
    },
    /// A file of it is torn or was altered.
    #[error(
        "file {file} in the data folder is damaged: {why}; restore it, or empty the folder and join again as a new node"
    )]
    Damaged {
        /// Which.
        file: &'static str,
        /// In what way.
        why: String,
    },
    /// The disk failed.
    #[error("{doing}: {source}")]
    Disk {
        /// What was tried.
        doing: String,
        /// What the disk said.
        source: io::Error,
    },
}

/// Keeps other processes out of a data folder for as long as it lives.
#[derive(Debug)]
pub struct FolderLock(File);

impl FolderLock {
    /// Makes the folder if it is missing, its owner's alone, and locks it. Only for folders of the real file system.
    ///
    /// # Errors
    /// Another process holds the lock, or the folder can't be made or written.
    pub fn take(folder: &Path) -> Result<FolderLock, FolderError> {
        let disk = |source| FolderError::Disk { doing: format!("lock data folder {}", folder.display()), source };
        std::fs::create_dir_all(folder).map_err(disk)?;
        // It holds keys and everybody's files.
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).map_err(disk)?;
        let path = folder.join(LOCK_FILE);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(disk)?;
        match file.try_lock() {
            Ok(()) => Ok(FolderLock(file)),
            Err(std::fs::TryLockError::WouldBlock) => Err(FolderError::InUse { folder: folder.display().to_string() }),
            Err(std::fs::TryLockError::Error(error)) => Err(disk(error)),
        }
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Closing the file unlocks it too; a failure here changes nothing.
        let _ = self.0.unlock();
    }
}

/// The small files of a data folder that say whose it is.
pub struct Folder<'a>(pub &'a dyn Disk);

impl Folder<'_> {
    /// Whose the folder is; `None` if it is fresh.
    ///
    /// # Errors
    /// A later version wrote it, a file is damaged, the disk failed.
    pub async fn identity(&self) -> Result<Option<Identity>, FolderError> {
        let Some(format) = self.read(FORMAT_FILE).await? else { return Ok(None) };
        let found = format.number("format")?;
        if found > u64::from(FORMAT) {
            return Err(FolderError::Future { found: u32::try_from(found).unwrap_or(u32::MAX) });
        }
        let Some(fields) = self.read(IDENTITY_FILE).await? else { return Ok(None) };
        let small = |key| {
            let value = fields.number(key)?;
            u32::try_from(value).map_err(|_| fields.damaged(format!("{key} is {value}")))
        };
        Ok(Some(Identity {
            site: SiteId(small("site")?),
            site_name: fields.text("site_name")?.to_string(),
            node: NodeId(small("node")?),
            incarnation: Incarnation(fields.number("incarnation")?),
        }))
    }

    /// Refuses a folder that belongs to a site or holds other things.
    ///
    /// # Errors
    /// It does, or it can't be read.
    pub async fn must_be_fresh(&self) -> Result<(), FolderError> {
        if let Some(identity) = self.identity().await? {
            return Err(FolderError::Taken { site: identity.site_name, node: identity.node });
        }
        let ours =
            [FORMAT_FILE, BOOTSTRAP_FILE, JOINING_FILE, MAP_FILE, LOCK_FILE, TRUST_FILE, FOUNDING_FILE, "lost+found"];
        let names = self.0.list(Path::new("")).await.map_err(|source| disk_error("list the data folder", source))?;
        match names.into_iter().find(|name| !ours.iter().any(|known| name.starts_with(known))) {
            Some(found) => Err(FolderError::Foreign { found }),
            None => Ok(()),
        }
    }

    /// Makes the folder this identity's. Last step of joining.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn set_identity(&self, identity: &Identity) -> Result<(), FolderError> {
        self.write(FORMAT_FILE, &[("format", FORMAT.to_string())]).await?;
        let fields = [
            ("site", identity.site.0.to_string()),
            ("site_name", identity.site_name.clone()),
            ("node", identity.node.0.to_string()),
            ("incarnation", identity.incarnation.0.to_string()),
        ];
        self.write(IDENTITY_FILE, &fields).await
    }

    /// The mark of a new site's first node, if its first entry may not be written yet.
    ///
    /// # Errors
    /// It is damaged or the disk failed.
    pub async fn bootstrap(&self) -> Result<Option<Bootstrap>, FolderError> {
        let Some(fields) = self.read(BOOTSTRAP_FILE).await? else { return Ok(None) };
        let out_of_range = |_| fields.damaged("a number is out of range".to_string());
        Ok(Some(Bootstrap {
            groups: u32::try_from(fields.number("groups")?).map_err(out_of_range)?,
            replication: u8::try_from(fields.number("replication")?).map_err(out_of_range)?,
        }))
    }

    /// Sets or removes the mark.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn set_bootstrap(&self, mark: Option<Bootstrap>) -> Result<(), FolderError> {
        let Some(mark) = mark else { return self.remove(BOOTSTRAP_FILE).await };
        let fields = [("groups", mark.groups.to_string()), ("replication", mark.replication.to_string())];
        self.write(BOOTSTRAP_FILE, &fields).await
    }

    /// Which log the folder holds; `None` before the first.
    ///
    /// # Errors
    /// The mark is damaged or the disk failed.
    pub async fn log_life(&self) -> Result<Option<LogLife>, FolderError> {
        let Some(fields) = self.read(LOG_FILE).await? else { return Ok(None) };
        let out_of_range = |_| fields.damaged("a number is out of range".to_string());
        let lost = u32::try_from(fields.number("lost")?).map_err(out_of_range)?;
        Ok(Some(LogLife { lost, begun: fields.number("begun")? != 0 }))
    }

    /// Says which log the folder holds.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn set_log_life(&self, life: LogLife) -> Result<(), FolderError> {
        let fields = [("lost", life.lost.to_string()), ("begun", u8::from(life.begun).to_string())];
        self.write(LOG_FILE, &fields).await
    }

    /// The incarnation under which the folder asks to join: kept, so that asking again after a crash does not leave
    /// a node behind that never was.
    ///
    /// # Errors
    /// It is damaged or the disk failed.
    pub async fn joining(&self, roll: u64) -> Result<Incarnation, FolderError> {
        if let Some(fields) = self.read(JOINING_FILE).await? {
            return Ok(Incarnation(fields.number("incarnation")?));
        }
        self.write(JOINING_FILE, &[("incarnation", roll.to_string())]).await?;
        Ok(Incarnation(roll))
    }

    /// The site map the node saw last, encoded; only a hint where to ask. Damage reads as none.
    pub async fn last_map(&self) -> Option<Vec<u8>> {
        let bytes = self.0.read_small(Path::new(MAP_FILE)).await.ok()?;
        let (map, sum) = bytes.split_last_chunk::<4>()?;
        (crc32fast::hash(map) == u32::from_be_bytes(*sum)).then(|| map.to_vec())
    }

    /// Remembers the site map.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn set_last_map(&self, map: &[u8]) -> Result<(), FolderError> {
        let mut bytes = map.to_vec();
        bytes.extend_from_slice(&crc32fast::hash(map).to_be_bytes());
        self.0
            .write_small(Path::new(MAP_FILE), &bytes)
            .await
            .map_err(|source| disk_error("write map in the data folder", source))
    }

    async fn read(&self, file: &'static str) -> Result<Option<Fields>, FolderError> {
        match self.0.read_small(Path::new(file)).await {
            Ok(bytes) => Fields::parse(file, &bytes).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(disk_error(&format!("read {file} in the data folder"), source)),
        }
    }

    async fn write(&self, file: &'static str, fields: &[(&str, String)]) -> Result<(), FolderError> {
        let bytes = Fields::print(fields);
        self.0
            .write_small(Path::new(file), bytes.as_bytes())
            .await
            .map_err(|source| disk_error(&format!("write {file} in the data folder"), source))
    }

    async fn remove(&self, file: &'static str) -> Result<(), FolderError> {
        match self.0.remove(Path::new(file)).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(disk_error(&format!("remove {file} in the data folder"), error))
            }
            _ => Ok(()),
        }
    }
}

pub(crate) fn disk_error(doing: &str, source: io::Error) -> FolderError {
    FolderError::Disk { doing: doing.to_string(), source }
}

/// Lines of `key value`, then `crc32` of all before it: readable by people, and damage is noticed.
struct Fields {
    file: &'static str,
    pairs: Vec<(String, String)>,
}

impl Fields {
    fn print(fields: &[(&str, String)]) -> String {
        let mut text: String = fields.iter().map(|(key, value)| format!("{key} {value}\n")).collect();
        text.push_str(&format!("crc32 {:08x}\n", crc32fast::hash(text.as_bytes())));
        text
    }

    fn parse(file: &'static str, bytes: &[u8]) -> Result<Fields, FolderError> {
        let damaged = |why: &str| FolderError::Damaged { file, why: why.to_string() };
        let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
        let (body, sum) = text.rsplit_once("crc32 ").ok_or_else(|| damaged("its checksum is missing"))?;
        if sum.trim_end_matches('\n') != format!("{:08x}", crc32fast::hash(body.as_bytes())) {
            return Err(damaged("its checksum does not match"));
        }
        let pairs = body
            .lines()
            .map(|line| line.split_once(' ').map(|(key, value)| (key.to_string(), value.to_string())))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| damaged("a line is not a key and a value"))?;
        Ok(Fields { file, pairs })
    }

    fn text(&self, key: &str) -> Result<&str, FolderError> {
        match self.pairs.iter().find(|(known, _)| known == key) {
            Some((_, value)) => Ok(value),
            None => Err(self.damaged(format!("{key} is missing"))),
        }
    }

    fn number(&self, key: &str) -> Result<u64, FolderError> {
        self.text(key)?.parse().map_err(|_| self.damaged(format!("{key} is not a number")))
    }

    fn damaged(&self, why: String) -> FolderError {
        FolderError::Damaged { file: self.file, why }
    }
}

#[cfg(test)]
mod tests;
