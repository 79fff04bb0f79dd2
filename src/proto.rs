//! The generated types of `proto/`, and the descriptor set they came from.
//!
//! Owns: nothing of its own. Must not know: any room.

#![allow(missing_docs, clippy::all, clippy::pedantic)]

pub mod codec;
pub mod log_page;

pub mod fetchbox {
    pub mod v1 {
        pub use super::super::log_page::QueryLogsResponse;

        tonic::include_proto!("fetchbox.v1");
    }
}

/// joblet's wire and the services its programs ask for.
pub mod joblet {
    tonic::include_proto!("joblet");

    pub mod ipc {
        tonic::include_proto!("joblet.ipc");
    }

    pub mod persist {
        tonic::include_proto!("joblet.persist");
    }
}

/// `FileDescriptorSet` of every file under `proto/`: reflection and the JSON mapping read it.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/fetchbox.bin"));

/// The part of `google.rpc` that every gRPC client knows how to read: the shape of `grpc-status-details-bin`.
pub mod google {
    pub mod rpc {
        #[derive(Clone, PartialEq, ::prost::Message)]
        pub struct Status {
            /// The gRPC code as a number.
            #[prost(int32, tag = "1")]
            pub code: i32,
            #[prost(string, tag = "2")]
            pub message: ::prost::alloc::string::String,
            #[prost(message, repeated, tag = "3")]
            pub details: ::prost::alloc::vec::Vec<::prost_types::Any>,
        }
    }
}

/// The `Any.type_url` of `fetchbox.v1.ErrorDetail` in status details.
pub const ERROR_DETAIL_TYPE_URL: &str = "type.googleapis.com/fetchbox.v1.ErrorDetail";
