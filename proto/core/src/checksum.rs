//! CRC-32 over blocks of 4 KiB, seeded with the chunk's id and the block's number, so that bytes of another chunk or
//! another place fail as surely as flipped ones.

use crate::ids::ChunkId;
use crate::limits::BLOCK;

/// The sum of block `block` of chunk `id`. `data` is the block's bytes: [`BLOCK`] of them, fewer at a chunk's end.
pub fn block_sum(id: ChunkId, block: u32, data: &[u8]) -> u32 {
    let mut seed = [0u8; 20];
    seed[..8].copy_from_slice(&id.client.0.to_be_bytes());
    seed[8..16].copy_from_slice(&id.counter.to_be_bytes());
    seed[16..].copy_from_slice(&block.to_be_bytes());
    let mut hasher = crc32fast::Hasher::new_with_initial(crc32fast::hash(&seed));
    hasher.update(data);
    hasher.finalize()
}

/// The sums of all blocks of `data`, whose first byte is byte `first_block * BLOCK` of the chunk.
pub fn block_sums(id: ChunkId, first_block: u32, data: &[u8]) -> Vec<u32> {
    data.chunks(BLOCK as usize).zip(first_block..).map(|(block, n)| block_sum(id, n, block)).collect()
}

/// The number of the first block whose sum is not the expected one, if any. `sums` must have one per block.
pub fn first_bad_block(id: ChunkId, first_block: u32, data: &[u8], sums: &[u32]) -> Option<u32> {
    let found = block_sums(id, first_block, data);
    if found.len() != sums.len() {
        return Some(first_block + found.len().min(sums.len()) as u32);
    }
    found.iter().zip(sums).position(|(a, b)| a != b).map(|at| first_block + at as u32)
}
