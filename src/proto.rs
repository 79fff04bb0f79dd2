//! The generated types of `proto/`, and the descriptor set they came from.
//!
//! Owns: nothing of its own. Must not know: any room.

#![allow(missing_docs, clippy::all, clippy::pedantic)]

pub mod fetchbox {
    pub mod v1 {
        tonic::include_proto!("fetchbox.v1");
    }
}

/// `FileDescriptorSet` of every file under `proto/`: reflection and the JSON mapping read it.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/fetchbox.bin"));
