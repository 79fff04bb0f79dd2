//! Compiles `proto/` without a `protoc` on the machine: one descriptor set feeds the generated types, gRPC reflection and
//! the JSON mapping.
use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/fetchbox/v1/model.proto",
        "proto/fetchbox/v1/job.proto",
        "proto/fetchbox/v1/ledger.proto",
        "proto/fetchbox/v1/ipc.proto",
        "proto/joblet/ipc.proto",
        "proto/joblet/persist.proto",
        "proto/joblet/job.proto",
    ];
    println!("cargo:rerun-if-changed=proto");
    let set = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("fetchbox.bin"), set.encode_to_vec())?;
    // A chunk is cut out of what it came in, not copied.
    tonic_prost_build::configure()
        .bytes(".joblet.ipc")
        .bytes(".fetchbox.v1.LogRecord.chunk")
        .extern_path(".fetchbox.v1.QueryLogsResponse", "crate::proto::log_page::QueryLogsResponse")
        .codec_path("crate::proto::codec::Codec")
        .compile_fds(set)?;
    Ok(())
}
