//! The output of running jobs: committed in batches over all jobs, sealed into blocks by job and kind.
//!
//! Owns: what an append writes, the part that is not sealed yet (in memory, and in batch rows that can bring it back), blocks with
//! their heads, the sealer. Must not know: sockets, clocks, what a record's data mean.
//!
//! ```text
//! append ─▶ Batch row (all jobs, one sync) ─▶ tails in memory ─▶ sealer ─▶ BlockHead + Block rows, Batch rows gone
//! reader ◀── blocks below the tail's first ordinal, then the tail as it stood when the read began
//! ```

mod batch;
mod block;
mod chunk;
mod codec;
mod counts;
mod edges;
mod filter;
mod pack;
mod recover;
mod rollup;
mod sample;
mod slab;
mod tails;

use serde::{Deserialize, Serialize};

pub use batch::OutputBatch;
pub use block::BlockHead;
pub use chunk::Chunk;
pub use codec::Window;
pub use counts::{Counts, LiveCounts};
pub use edges::{Edge, Edges, edge_index, edges_of};
pub use filter::TextFilter;
pub use recover::{recover, sealed_end};
pub use rollup::{RESOLUTIONS_S as ROLLUPS_S, Rollup, recompute as recompute_rollups};
pub use sample::{sample, time_of as sample_time};
pub use tails::{Done, Due, Tail, Tails};

pub(super) use batch::{BatchRow, Committed, FoundPiece, Piece, PieceRow, batch_keys, read_batches};
pub(super) use block::{BlockRows, build as build_block, open_behind, read_block, read_head, rebuild_head};
pub(super) use codec::encoded_bytes;

/// Values longer than this are cut into rows of this size: the journal's audit reads rows whole.
pub const PART_BYTES: usize = 8 << 20;

/// Section `store.output` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Bytes of records that are compressed into one block.
    pub block_bytes: usize,
    /// Bytes of output kept in memory until they are sealed, of all jobs together. Half as much again makes appends wait.
    pub tail_bytes_max: usize,
    /// Output that waits longer than this is sealed however little it is.
    pub seal_after_ms: u64,
    /// zstd's level for blocks, 1 to 19. From 5 on it looks ahead before it takes a match: a tenth less of service logs than at 1, where 2
    /// to 4 gain nothing.
    pub compression_level: i32,
}

impl Default for Options {
    fn default() -> Self {
        Self { block_bytes: 256 << 10, tail_bytes_max: 48 << 20, seal_after_ms: 5_000, compression_level: 5 }
    }
}
