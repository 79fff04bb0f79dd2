//! Large objects at once into a store that hashes: what memory they take, and whether what is stored is what was sent.

use std::collections::HashMap;

use crate::flood;
use crate::server::{Server, scratch};
use crate::stubs::{Stub, Told};
use crate::urls;

const MIB: u64 = 1 << 20;
/// What the daemon may take besides the buffers its configuration names.
const BASE_BYTES: u64 = 64 * MIB;
/// storage.multipart_bytes by default: what one upload keeps in memory.
const PART_BYTES: u64 = 8 * MIB;

pub fn run(objects: u64, bytes: u64) {
    let dir = scratch("big");
    let (origin, store) = (Stub::start("stub-origin-digesting"), Stub::start("stub-null-sha256"));
    let addr = origin.words[0].parse().expect("the origin says its address");
    let names: Vec<String> = (0..objects).map(|at| format!("o{at}")).collect();
    let locations: Vec<String> = names.iter().map(|name| flood::url(addr, name, bytes)).collect();
    let server = Server::start_with(&dir.join("data"), false, &urls::settings(&dir, &store.words[0], objects as usize));
    let cost = urls::measured(&server, &names, &locations);
    drop(server);
    let (origin_cpu, store_cpu) = (origin.cpu_seconds(), store.cpu_seconds());
    let (sent, (stored, remarks)) = (origin.finish().0, store.finish());
    let _ = std::fs::remove_dir_all(&dir);

    let by_name = |told: Vec<Told>| -> HashMap<String, (u64, String)> {
        let objects = told.into_iter().filter(|object| !object.name.contains("manifests/"));
        objects.map(|t| (t.name.rsplit('/').next().unwrap_or_default().to_owned(), (t.bytes, t.digest))).collect()
    };
    let (sent, stored) = (by_name(sent), by_name(stored));
    let equal = names.iter().filter(|name| sent.contains_key(*name) && sent.get(*name) == stored.get(*name)).count();
    let whole = stored.values().filter(|(stored, _)| *stored == bytes).count();
    let total = objects * bytes;
    let limit = BASE_BYTES + objects * PART_BYTES;
    println!(
        "{objects} × {} MiB at once: {:.1} s, {:.0} MiB/s",
        bytes / MIB,
        cost.seconds,
        (total / MIB) as f64 / cost.seconds
    );
    println!(
        "CPU: fetchbox {:.1} s ({:.2} s per GB), origin {origin_cpu:.1} s, store {store_cpu:.1} s",
        cost.cpu_seconds,
        cost.cpu_seconds / (total as f64 / 1e9)
    );
    println!("digests on the wire and in the store equal: {equal} of {objects}; whole: {whole} of {objects}");
    println!("requests at the store: {}", remarks.join(", "));
    println!(
        "resident at most {:.1} MiB; 64 MiB + {objects} × {} MiB of buffers = {} MiB: {}",
        cost.peak_bytes as f64 / MIB as f64,
        PART_BYTES / MIB,
        limit / MIB,
        if cost.peak_bytes <= limit { "kept" } else { "EXCEEDED" }
    );
}
