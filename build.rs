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
    // A chunk is cut out of the frame it came in, not copied.
    tonic_prost_build::configure().bytes(".joblet.ipc").compile_fds(set)?;
    Ok(())
}
