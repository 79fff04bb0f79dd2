//! The table of the house: rooms, their arrows, and where foreign crates live.
//!
//! Owns: what is allowed. A new arrow is a decision: change it here, and say why in `docs/decisions/`.

/// One room: what its code may name, and what only its `#[cfg(test)]` parts may name besides.
pub struct Room {
    pub name: &'static str,
    pub knows: &'static [&'static str],
    pub tests_know: &'static [&'static str],
}

const fn room(name: &'static str, knows: &'static [&'static str]) -> Room {
    Room { name, knows, tests_know: &[] }
}

/// Bottom-up: a room may name only rooms above it in this list, and of those only the ones on its line.
/// `telemetry` is a leaf that every room may name.
pub const HOUSE: &[Room] = &[
    room("telemetry", &[]),
    room("model", &[]),
    room("proto", &[]),
    room("clock", &["model"]),
    room("priority", &["clock"]),
    room("objects", &["clock"]),
    room("handler", &["model", "clock"]),
    room("store", &["model", "priority"]),
    room("ingest", &["model", "clock", "priority", "store", "handler"]),
    room("worker", &["model", "clock", "objects"]),
    room("dispatch", &["model", "clock", "store", "worker", "handler", "objects"]),
    Room { name: "ledger", knows: &["model", "store"], tests_know: &["clock"] },
    room("retention", &["model", "clock", "store", "objects"]),
    Room {
        name: "api",
        knows: &["model", "clock", "ingest", "ledger", "proto", "dispatch", "retention"],
        tests_know: &["store", "handler", "client"],
    },
    room("client", &["model", "proto"]),
    room("config", &["objects", "handler", "store", "ingest", "worker", "dispatch", "retention", "api"]),
    room(
        "daemon",
        &[
            "model",
            "clock",
            "priority",
            "objects",
            "handler",
            "store",
            "ingest",
            "worker",
            "dispatch",
            "ledger",
            "retention",
            "api",
            "config",
        ],
    ),
    room("cli", &["model", "proto", "clock", "client", "config", "daemon"]),
    room("main", &["cli", "config", "daemon"]),
];

/// Items a room may take from another only by name: the arrow is allowed, the rest of the room is not.
/// (from, to, names)
pub const ONLY: &[(&str, &str, &[&str])] = &[
    // The ledger reads: it never holds a type with a write method.
    (
        "ledger",
        "store",
        &[
            "Reader",
            "JobWatch",
            "Counters",
            "Sizes",
            "Plan",
            "UploadRecord",
            "BlockHead",
            "TextFilter",
            "Tail",
            "Rollup",
            "ROLLUPS_S",
            "LogSlice",
            "OutputLimit",
            "OutputSlice",
            "Edge",
            "Edges",
            "edge_index",
            "edges_of",
        ],
    ),
];

/// Foreign crates and the rooms whose types or effects they are.
pub const FOREIGN: &[(&str, &[&str])] = &[
    ("fjall", &["store"]),
    ("object_store", &["objects"]),
    ("quick_xml", &["objects"]),
    ("reqwest", &["worker"]),
    // Only to tell its errors apart: reqwest wraps them and does not say which they are.
    ("hyper", &["worker"]),
    ("ipnet", &["worker"]),
    ("zstd", &["store"]),
    ("regex", &["ledger"]),
    ("regex_syntax", &["ledger"]),
    ("memchr", &["store", "ledger"]),
    ("infer", &["worker"]),
    ("flate2", &["ingest", "cli"]),
    ("tonic", &["api", "client", "proto"]),
    ("tonic_health", &["api"]),
    ("tonic_reflection", &["api"]),
    ("tonic_prost", &["proto"]),
    // The demo brings an origin of its own.
    ("axum", &["api", "cli"]),
    // The lines of joblet's files are messages of its wire.
    ("prost", &["proto", "store", "api", "client", "cli"]),
    ("base64", &["cli"]),
    ("prost_types", &["proto", "api", "client"]),
    ("prost_reflect", &["proto", "client", "cli"]),
    ("prometheus", &["telemetry"]),
    ("tracing_subscriber", &["telemetry"]),
    ("fastrand", &["clock"]),
    ("sd_notify", &["daemon"]),
    ("clap", &["cli", "main"]),
    ("clap_complete", &["cli"]),
    ("indicatif", &["cli"]),
    ("comfy_table", &["cli"]),
    ("serde_yaml", &["config", "cli"]),
];

/// Foreign crates that `#[cfg(test)]` code of any room may use.
pub const TEST_TOOLS: &[&str] = &["serde_yaml", "fastrand"];

/// Never in Cargo.lock: two TLS providers are one too many, and both need more than a C compiler to build.
pub const BANNED_PACKAGES: &[&str] = &["aws-lc-sys", "aws-lc-rs", "openssl-sys", "native-tls", "openssl"];

/// One version of each, or two copies of a security-relevant crate live in one binary.
pub const SINGLE_PACKAGES: &[&str] = &["ring", "rustls", "prost", "tonic", "hyper", "fjall", "object_store"];

pub const LINES_MAX: usize = 500;
