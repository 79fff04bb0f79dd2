//! A list of URLs into S3: FetchBox beside `rclone copyurl --urls`, in turns, every object's bytes checked.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fetchbox::client::{Addr, Client, Options, ipc::IpcClient};
use fetchbox::proto::fetchbox::v1::{
    JobState, Manifest, Resource, SubmitJobRequest, WatchJobRequest, submit_job_request::Source,
};
use futures_util::StreamExt as _;

use crate::flood;
use crate::process::{self, Cost};
use crate::rivals::raw_syncs;
use crate::s3::{ACCESS_KEY, SECRET_KEY};
use crate::server::{Server, scratch};
use crate::stubs::{self, BUCKET, Stub};

const PARALLEL: usize = 16;
const RESOURCES_PER_MANIFEST: usize = 1_000;
const GB: f64 = 1e9;
const MIB: f64 = 1_048_576.0;

/// Bytes of a file, how many files, and how the size is called.
pub const SIZES: [(u64, usize, &str); 3] =
    [(100, 10_000, "100 B"), (64 << 10, 10_000, "64 KiB"), (10 << 20, 100, "10 MiB")];

pub struct Plan {
    pub rounds: u64,
    /// None: found on PATH.
    pub rclone: Option<PathBuf>,
    /// Instead of each size's own count.
    pub files: Option<usize>,
    pub stores: Vec<String>,
    /// Index into SIZES.
    pub sizes: Vec<usize>,
    /// No rival: to look at one program, or to compare two versions of it in turns.
    pub alone: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Who {
    /// As it comes.
    RcloneDefaults,
    /// Without what it need not do.
    Rclone,
    FetchBox,
}

/// One run of one program, and what the two stubs took beside it.
struct Run {
    cost: Cost,
    origin_cpu: f64,
    store_cpu: f64,
    remarks: Vec<String>,
}

pub fn run(plan: &Plan) {
    let rclone = plan.rclone.clone().unwrap_or_else(|| PathBuf::from("rclone"));
    if !plan.alone {
        let version = Command::new(&rclone).arg("version").output().expect("rclone runs (--rclone PATH)");
        println!("{}", String::from_utf8_lossy(&version.stdout).lines().next().unwrap_or_default());
    }
    let mut raw = Vec::new();
    let mut table = vec![
        "| store | file | program | files/s min | median | max | MiB/s | CPU-s per GB | CPU-ms per file | peak MiB |"
            .into(),
        "|---|---|---|---|---|---|---|---|---|---|".to_owned(),
    ];
    for store in &plan.stores {
        for (bytes, files, size) in plan.sizes.iter().map(|at| SIZES[*at]) {
            let files = plan.files.unwrap_or(files);
            let names: Vec<String> = (0..files).map(|at| format!("f{at:06}")).collect();
            let digests = names.iter().map(|name| (name.clone(), digest(store, name, bytes))).collect();
            let mut runs: [Vec<Run>; 3] = Default::default();
            for round in 0..plan.rounds {
                for (who, runs) in Who::ALL.into_iter().zip(&mut runs) {
                    if plan.alone && who != Who::FetchBox {
                        continue;
                    }
                    let dir = scratch("urls");
                    raw.push(raw_syncs(&dir, Duration::from_millis(300)));
                    let run = one(who, &rclone, &dir, store, &names, bytes, &digests);
                    let _ = std::fs::remove_dir_all(&dir);
                    eprintln!(
                        "round {round}: {store}, {size}, {}: {:.0} files/s; CPU {:.2} s, origin {:.2} s, store {:.2} s; peak {} MiB; {}",
                        who.name(),
                        files as f64 / run.cost.seconds,
                        run.cost.cpu_seconds,
                        run.origin_cpu,
                        run.store_cpu,
                        run.cost.peak_bytes >> 20,
                        run.remarks.join(", ")
                    );
                    runs.push(run);
                }
            }
            let median_rate = |runs: &[Run]| middle(runs.iter().map(|run| files as f64 / run.cost.seconds).collect());
            for (who, runs) in Who::ALL.into_iter().zip(&runs).filter(|(_, runs)| !runs.is_empty()) {
                table.push(row(store, size, who, runs, files, bytes));
            }
            for (rival, name) in runs.iter().zip(["rclone, defaults", "rclone"]).filter(|(runs, _)| !runs.is_empty()) {
                let pairs: Vec<f64> =
                    rival.iter().zip(&runs[2]).map(|(a, b)| a.cost.seconds / b.cost.seconds).collect();
                let (least, most) = ends(&pairs);
                table.push(format!(
                    "| {store} | {size} | **FetchBox ÷ {name}** | {least:.2} | **{:.2}** | {most:.2} | | | | |",
                    median_rate(&runs[2]) / median_rate(rival)
                ));
            }
        }
    }
    let (least, most) = ends(&raw);
    println!("fdatasync of 512 B appended, /s: {least:.0} / {:.0} / {most:.0}", middle(raw));
    println!("{}", shown(&rclone_command(Who::Rclone, &rclone, Path::new("urls.csv"), "ENDPOINT")));
    table.iter().for_each(|line| println!("{line}"));
}

/// What that store will say of the body.
fn digest(store: &str, name: &str, bytes: u64) -> String {
    if store == "null" {
        // As the stub has it: behind its 128 bits zeros.
        format!("{:032x}{:032x}", flood::quick_digest(name, bytes), 0)
    } else {
        stubs::hex(&flood::digest(name, bytes))
    }
}

fn row(store: &str, size: &str, who: Who, runs: &[Run], files: usize, bytes: u64) -> String {
    let rates: Vec<f64> = runs.iter().map(|run| files as f64 / run.cost.seconds).collect();
    let (least, most) = ends(&rates);
    let cpu = middle(runs.iter().map(|run| run.cost.cpu_seconds).collect());
    let peak = runs.iter().map(|run| run.cost.peak_bytes).max().unwrap_or(0);
    let all = files as f64 * bytes as f64;
    let median = middle(rates);
    format!(
        "| {store} | {size} | {} | {least:.0} | {median:.0} | {most:.0} | {:.1} | {:.2} | {:.3} | {} |",
        who.name(),
        median * bytes as f64 / MIB,
        cpu / (all / GB),
        cpu * 1e3 / files as f64,
        peak >> 20
    )
}

fn middle(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(0.0)
}

fn ends(figures: &[f64]) -> (f64, f64) {
    let least = figures.iter().copied().min_by(f64::total_cmp).unwrap_or(0.0);
    (least, figures.iter().copied().max_by(f64::total_cmp).unwrap_or(0.0))
}

impl Who {
    const ALL: [Who; 3] = [Who::RcloneDefaults, Who::Rclone, Who::FetchBox];

    fn name(self) -> &'static str {
        match self {
            Who::RcloneDefaults => "rclone, defaults",
            Who::Rclone => "rclone",
            Who::FetchBox => "FetchBox",
        }
    }
}

fn one(
    who: Who,
    rclone: &Path,
    dir: &Path,
    store: &str,
    names: &[String],
    bytes: u64,
    digests: &HashMap<String, String>,
) -> Run {
    let origin = Stub::start("stub-origin");
    let stub = Stub::start(&format!("stub-{store}"));
    let addr = origin.words[0].parse().expect("the origin says its address");
    let urls: Vec<String> = names.iter().map(|name| flood::url(addr, name, bytes)).collect();
    let cost = match who {
        Who::RcloneDefaults | Who::Rclone => by_rclone(who, rclone, dir, &stub.words[0], names, &urls),
        Who::FetchBox => by_fetchbox(dir, &stub.words[0], names, &urls),
    };
    let (origin_cpu, store_cpu) = (origin.cpu_seconds(), stub.cpu_seconds());
    let (told, remarks) = stub.finish();
    // Not ours to count: manifests, and the bucket that rclone makes sure of.
    let objects = told.iter().filter(|object| !object.name.contains("manifests/") && object.name != BUCKET);
    let mut seen = 0;
    for object in objects {
        let name = object.name.rsplit('/').next().unwrap_or_default();
        assert_eq!(Some(&object.digest), digests.get(name), "{}: {} holds other bytes", who.name(), object.name);
        assert_eq!(object.bytes, bytes, "{}", object.name);
        seen += 1;
    }
    assert_eq!(seen, names.len(), "{}: objects in the store", who.name());
    Run { cost, origin_cpu, store_cpu, remarks }
}

fn by_rclone(who: Who, rclone: &Path, dir: &Path, endpoint: &str, names: &[String], urls: &[String]) -> Cost {
    let list = dir.join("urls.csv");
    let lines: Vec<String> = urls.iter().zip(names).map(|(url, name)| format!("{url},{name}\n")).collect();
    std::fs::write(&list, lines.concat()).expect("the list can be written");
    let mut command = rclone_command(who, rclone, &list, endpoint);
    let begun = Instant::now();
    let child = command.stdout(Stdio::null()).spawn().expect("rclone starts");
    let (cost, well) = process::to_the_end(child, begun);
    assert!(well, "rclone failed");
    cost
}

/// What it need not do it can be told to leave out: no bucket check, no HEAD after each object, no MD5 of its own.
fn rclone_command(who: Who, rclone: &Path, list: &Path, endpoint: &str) -> Command {
    let mut command = Command::new(rclone);
    command.args(["copyurl", "--urls"]).arg(list).arg(format!(":s3:{BUCKET}"));
    command.args(["--transfers", &PARALLEL.to_string(), "--quiet", "--config", "/dev/null"]);
    command.args(["--s3-provider", "Other", "--s3-endpoint", endpoint, "--s3-region", "us-east-1"]);
    command.args(["--s3-access-key-id", ACCESS_KEY, "--s3-secret-access-key", SECRET_KEY]);
    if who == Who::Rclone {
        command.args(["--s3-no-check-bucket", "--s3-no-head", "--s3-disable-checksum"]);
    }
    command
}

fn shown(command: &Command) -> String {
    let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
    format!("rclone {}", words.collect::<Vec<_>>().join(" "))
}

/// Settings for a daemon that stores at this endpoint, `parallel` downloads at once.
pub fn settings(dir: &Path, endpoint: &str, parallel: usize) -> Vec<(String, String)> {
    let file = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).expect("the key's file can be written");
        path.display().to_string()
    };
    let set = |name: &str, value: &str| (format!("FETCHBOX__{name}"), value.to_owned());
    vec![
        set("STORAGE__KIND", "s3"),
        set("STORAGE__BUCKET", BUCKET),
        set("STORAGE__ENDPOINT", endpoint),
        set("STORAGE__ACCESS_KEY_ID_FILE", &file("id", ACCESS_KEY)),
        set("STORAGE__SECRET_ACCESS_KEY_FILE", &file("secret", SECRET_KEY)),
        set("DISPATCH__IN_FLIGHT", &parallel.to_string()),
        set("DISPATCH__PER_HOST", &parallel.to_string()),
        set("WORKER__ALLOW_NETWORKS", "[127.0.0.0/8]"),
    ]
}

fn by_fetchbox(dir: &Path, endpoint: &str, names: &[String], urls: &[String]) -> Cost {
    let server = Server::start_with(&dir.join("data"), false, &settings(dir, endpoint, PARALLEL));
    measured(&server, names, urls)
}

/// From the first submit to the end of the last job.
pub fn measured(server: &Server, names: &[String], urls: &[String]) -> Cost {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let ipc = IpcClient::connect(server.socket(), &Options::default()).await.expect("the socket accepts");
        let grpc = Client::connect(Addr::Unix(server.grpc())).await.expect("gRPC answers");
        let resources: Vec<Resource> = names
            .iter()
            .zip(urls)
            .map(|(name, url)| Resource { id: name.clone(), url: url.clone(), ..Resource::default() })
            .collect();
        let manifests: Vec<SubmitJobRequest> = resources.chunks(RESOURCES_PER_MANIFEST).map(manifest).collect();
        let cpu_before = process::cpu_seconds(server.pid());
        let begun = Instant::now();
        let mut jobs = Vec::new();
        for manifest in manifests {
            jobs.push(ipc.submit(manifest).await.expect("accepted").job_id);
        }
        for job_id in jobs {
            let watch = grpc.watch_job(WatchJobRequest { job_id, after_revision: 0 }).await.expect("a stream");
            let last = watch.fold(None, |_, job| std::future::ready(job.ok())).await.expect("the job's end");
            assert_eq!(last.state(), JobState::Completed, "{last:?}");
        }
        let seconds = begun.elapsed().as_secs_f64();
        let cpu_seconds = process::cpu_seconds(server.pid()) - cpu_before;
        Cost { seconds, cpu_seconds, peak_bytes: server.memory().1 }
    })
}

fn manifest(resources: &[Resource]) -> SubmitJobRequest {
    let manifest = Manifest { manifest_version: "v1".into(), resources: resources.to_vec(), ..Manifest::default() };
    SubmitJobRequest { source: Some(Source::Manifest(manifest)), ..SubmitJobRequest::default() }
}
