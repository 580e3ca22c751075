//! `DIR/dev.json`: what scripts and tests want to know of a running `weft dev`, and what the next one must know.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::{Doing, Failure};

/// The name of the file.
pub(crate) const FILE: &str = "dev.json";
/// The layout of the folder as this version makes it.
const FORMAT: u32 = 1;

/// The file's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) format: u32,
    pub(crate) state: State,
    /// Of `weft dev` itself, while it runs.
    pub(crate) pid: Option<u32>,
    /// Where the site is mounted, while it is.
    pub(crate) mount: Option<PathBuf>,
    pub(crate) nodes: Vec<NodeRecord>,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// Not everything stands yet.
    Starting,
    /// Everything that was asked for stands.
    Ready,
    /// Nothing runs.
    Stopped,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    pub(crate) number: u32,
    pub(crate) addr: String,
    pub(crate) http: String,
    pub(crate) folder: PathBuf,
    pub(crate) config: PathBuf,
    /// While it runs.
    pub(crate) pid: Option<u32>,
}

impl Record {
    /// One of nodes that do not run yet.
    pub(crate) fn new(nodes: Vec<NodeRecord>) -> Record {
        Record { format: FORMAT, state: State::Starting, pid: Some(std::process::id()), mount: None, nodes }
    }

    /// The record of a folder, if it has one.
    pub(crate) fn read(dir: &Path) -> Result<Option<Record>, Failure> {
        let path = dir.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.doing(format!("read {}", path.display()))?,
        };
        let bad = |why: String| {
            Failure::new(format!("read {}: {why}", path.display()))
                .hint("name another folder with --dir, or repair the file")
        };
        let record: Record = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        if record.format != FORMAT {
            return Err(bad(format!("format {} is not known to this version of weft", record.format)));
        }
        Ok(Some(record))
    }

    /// Replaces the record of a folder.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), Failure> {
        let doing = format!("write {}", dir.join(FILE).display());
        let mut text = serde_json::to_string_pretty(self).map_err(|error| Failure::new(format!("{doing}: {error}")))?;
        text.push('\n');
        let half = dir.join(format!(".{FILE}.half"));
        let mut file = std::fs::File::create(&half).doing(&doing)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).doing(&doing)?;
        std::fs::rename(&half, dir.join(FILE)).doing(&doing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), None);
        let node = NodeRecord {
            number: 1,
            addr: "127.0.0.1:7400".into(),
            http: "127.0.0.1:7401".into(),
            folder: dir.path().join("n1"),
            config: dir.path().join("n1/node.toml"),
            pid: Some(7),
        };
        let record = Record { mount: Some("/mnt".into()), ..Record::new(vec![node]) };
        record.write(dir.path()).unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), Some(record.clone()));

        Record { format: 2, ..record }.write(dir.path()).unwrap();
        assert!(Record::read(dir.path()).unwrap_err().what().unwrap().contains("format 2"));
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(Record::read(dir.path()).is_err());
    }
}
