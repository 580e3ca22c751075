//! The index in sled: point reads in memory speed, and nothing lost when it breaks.
//!
//! sled opens garbled files silently wrong at times and panics at others, so every value carries a checksum, and the
//! store compares a digest of the whole with the segments at each start (`recover.rs`).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weft_core::ids::{ChunkId, ClientId, PgId, SpaceId};

use super::{ChunkIndex, ChunkIndexes, ChunkKey, Covered, IndexError, Place};

/// Opens sled indexes below a node's data folder.
#[derive(Clone, Debug)]
pub struct SledIndexes {
    root: PathBuf,
    cache_bytes: u64,
}

impl SledIndexes {
    /// `root` is the node's data folder; `cache_bytes` bounds sled's page cache (64 to 256 MiB measured well).
    pub fn new(root: impl Into<PathBuf>, cache_bytes: u64) -> SledIndexes {
        SledIndexes { root: root.into(), cache_bytes }
    }
}

#[async_trait::async_trait]
impl ChunkIndexes for SledIndexes {
    async fn open(&self, folder: &Path) -> Result<Arc<dyn ChunkIndex>, IndexError> {
        let path = self.root.join(folder);
        let db = guarded(|| {
            ::sled::Config::new().path(&path).cache_capacity(self.cache_bytes).flush_every_ms(Some(500)).open()
        })?;
        Ok(Arc::new(SledIndex { db }))
    }

    async fn wipe(&self, folder: &Path) -> Result<(), IndexError> {
        match std::fs::remove_dir_all(self.root.join(folder)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(IndexError(error.to_string())),
            _ => Ok(()),
        }
    }
}

/// sled answers some damage with a panic.
fn guarded<T>(work: impl FnOnce() -> Result<T, ::sled::Error>) -> Result<T, IndexError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| IndexError(error.to_string())),
        Err(_) => Err(IndexError("sled panicked".into())),
    }
}

struct SledIndex {
    db: ::sled::Db,
}

const CHUNK: u8 = b'c';
const COVERED: u8 = b's';
const KEY_LEN: usize = 29;

fn chunk_key(key: ChunkKey) -> [u8; KEY_LEN] {
    let mut out = [0; KEY_LEN];
    out[0] = CHUNK;
    out[1..5].copy_from_slice(&key.pg.0.to_be_bytes());
    out[5..13].copy_from_slice(&key.space.0.to_be_bytes());
    out[13..21].copy_from_slice(&key.chunk.client.0.to_be_bytes());
    out[21..].copy_from_slice(&key.chunk.counter.to_be_bytes());
    out
}

fn parse_key(key: &[u8]) -> Result<ChunkKey, IndexError> {
    let fields = (|| {
        let key = key.strip_prefix(&[CHUNK])?;
        let (pg, key) = key.split_first_chunk::<4>()?;
        let (space, key) = key.split_first_chunk::<8>()?;
        let (client, key) = key.split_first_chunk::<8>()?;
        let counter = <[u8; 8]>::try_from(key).ok()?;
        Some(ChunkKey {
            pg: PgId(u32::from_be_bytes(*pg)),
            space: SpaceId(u64::from_be_bytes(*space)),
            chunk: ChunkId { client: ClientId(u64::from_be_bytes(*client)), counter: u64::from_be_bytes(counter) },
        })
    })();
    fields.ok_or_else(|| IndexError("a key is garbled".into()))
}

fn covered_key(segment: u64) -> [u8; 9] {
    let mut out = [COVERED; 9];
    out[1..].copy_from_slice(&segment.to_be_bytes());
    out
}

/// The fields, then a CRC over key and fields.
fn seal<const N: usize>(key: &[u8], a: u64, b: u64, c: u32) -> [u8; N] {
    let mut out = [0; N];
    out[..8].copy_from_slice(&a.to_be_bytes());
    out[8..16].copy_from_slice(&b.to_be_bytes());
    out[16..20].copy_from_slice(&c.to_be_bytes());
    let sum = sum(key, &out[..20]);
    out[20..24].copy_from_slice(&sum.to_be_bytes());
    out
}

fn sum(key: &[u8], fields: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(fields);
    hasher.finalize()
}

fn unseal(key: &[u8], value: &[u8]) -> Result<(u64, u64, u32), IndexError> {
    let fields = (|| {
        let (fields, crc) = value.split_at_checked(20)?;
        if u32::from_be_bytes(crc.try_into().ok()?) != sum(key, fields) {
            return None;
        }
        let (a, rest) = fields.split_first_chunk::<8>()?;
        let (b, rest) = rest.split_first_chunk::<8>()?;
        Some((u64::from_be_bytes(*a), u64::from_be_bytes(*b), u32::from_be_bytes(rest.try_into().ok()?)))
    })();
    fields.ok_or_else(|| IndexError("a value does not match its checksum".into()))
}

fn parse_place(key: &[u8], value: &[u8]) -> Result<Place, IndexError> {
    let (segment, offset, len) = unseal(key, value)?;
    Ok(Place { segment, offset, len })
}

impl ChunkIndex for SledIndex {
    fn get(&self, key: ChunkKey) -> Result<Option<Place>, IndexError> {
        let key = chunk_key(key);
        let value = guarded(|| self.db.get(key))?;
        value.map(|value| parse_place(&key, &value)).transpose()
    }

    fn write(&self, changes: &[(ChunkKey, Option<Place>)], covered: &[Covered]) -> Result<(), IndexError> {
        // A batch of one outruns sled's log cleaner; a plain insert does not.
        if let ([(key, place)], []) = (changes, covered) {
            let key = chunk_key(*key);
            return guarded(|| match place {
                Some(place) => self.db.insert(key, &seal::<24>(&key, place.segment, place.offset, place.len)).map(drop),
                None => self.db.remove(key).map(drop),
            });
        }
        let mut batch = ::sled::Batch::default();
        for (key, place) in changes {
            let key = chunk_key(*key);
            match place {
                Some(place) => batch.insert(&key, &seal::<24>(&key, place.segment, place.offset, place.len)),
                None => batch.remove(&key),
            }
        }
        for covered in covered {
            let key = covered_key(covered.segment);
            batch.insert(&key, &seal::<24>(&key, covered.generation, covered.offset, 0));
        }
        guarded(|| self.db.apply_batch(batch))
    }

    fn forget(&self, segment: u64) -> Result<(), IndexError> {
        guarded(|| self.db.remove(covered_key(segment)).map(drop))
    }

    fn covered(&self) -> Result<Vec<Covered>, IndexError> {
        let mut out = Vec::new();
        for record in self.db.scan_prefix([COVERED]) {
            let (key, value) = record.map_err(|error| IndexError(error.to_string()))?;
            let (generation, offset, _) = unseal(&key, &value)?;
            let segment = key.get(1..).and_then(|number| <[u8; 8]>::try_from(number).ok());
            let segment = segment.ok_or_else(|| IndexError("a key is garbled".into()))?;
            out.push(Covered { segment: u64::from_be_bytes(segment), generation, offset });
        }
        Ok(out)
    }

    fn list(
        &self,
        pg: PgId,
        after: Option<(SpaceId, ChunkId)>,
        limit: usize,
    ) -> Result<Vec<(ChunkKey, Place)>, IndexError> {
        let mut prefix = [CHUNK; 5];
        prefix[1..].copy_from_slice(&pg.0.to_be_bytes());
        let from = match after {
            Some((space, chunk)) => {
                let mut after = chunk_key(ChunkKey { pg, space, chunk }).to_vec();
                after.push(0);
                after
            }
            None => prefix.to_vec(),
        };
        let mut out = Vec::new();
        for record in self.db.range(from..).take(limit) {
            let (key, value) = record.map_err(|error| IndexError(error.to_string()))?;
            if !key.starts_with(&prefix) {
                break;
            }
            out.push((parse_key(&key)?, parse_place(&key, &value)?));
        }
        Ok(out)
    }

    fn scan(&self, each: &mut dyn FnMut(ChunkKey, Place)) -> Result<(), IndexError> {
        let result = catch_unwind(AssertUnwindSafe(|| {
            for record in self.db.scan_prefix([CHUNK]) {
                let (key, value) = record.map_err(|error| IndexError(error.to_string()))?;
                each(parse_key(&key)?, parse_place(&key, &value)?);
            }
            Ok(())
        }));
        result.unwrap_or_else(|_| Err(IndexError("sled panicked".into())))
    }

    fn persist(&self) -> Result<(), IndexError> {
        guarded(|| self.db.flush().map(drop))
    }
}
