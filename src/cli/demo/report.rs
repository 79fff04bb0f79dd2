//! What the demo tells: where everything is, that it is whole, and why one resource is not.
//!
//! Owns: words and the proof by re-hashing. Must not know: how the job ran.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::super::exit::{Failure, Result};
use super::super::out::{Out, table};
use super::super::{connect, show, wire, words};
use super::manifest::{ITEMS, Manner, body};
use super::origin::Origin;
use crate::client::Client;
use crate::daemon::Addresses;

pub fn opening(origin: &Origin, at: &Addresses, out: Out) -> Result {
    if out.is_json() {
        return Ok(());
    }
    out.line("FetchBox demo: one job, 24 resources, one of them stumbles and one is gone.\n")?;
    let row = |name: &str, value: String| out.line(format_args!("  {name:<10} {value}"));
    row("origin", format!("http://{} (in this process)", origin.address()))?;
    if let Some(ipc) = &at.ipc {
        row("socket", ipc.display().to_string())?;
    }
    if let Some(grpc) = at.grpc_tcp {
        row("gRPC", grpc.to_string())?;
    }
    if let Some(http) = at.http {
        row("metrics", format!("http://{http}/metrics"))?;
    }
    Ok(())
}

pub fn accepted(reply: &wire::SubmitJobResponse, out: Out) -> Result {
    if out.is_json() {
        return out.json(reply);
    }
    let resources = words::count(reply.resource_count.into(), "resource");
    out.line(format_args!(
        "\nAccepted and on disk: job {}, {resources}. From here on a crash loses nothing.\n",
        reply.job_id
    ))
}

/// Everything the job left behind: all of one job's objects stand in one folder.
pub async fn results(client: &Client, job: &wire::Job, origin: &Origin, data_dir: &Path, out: Out) -> Result {
    let request = wire::ListTasksRequest { job_id: job.job_id.clone(), page_size: 1_000, ..Default::default() };
    let tasks = client.list_tasks(request).await.map_err(connect::refused)?.tasks;
    let truth: BTreeMap<&str, String> =
        ITEMS.iter().filter(|item| item.manner != Manner::Missing).map(|item| (item.name, hex(&body(item)))).collect();
    let mut rows = table(["file", "size", "attempts", "sha256"]);
    let (mut stored, mut folder) = (0, PathBuf::new());
    for task in &tasks {
        let Some((resource, object)) = task.spec.as_ref().zip(task.object.as_ref()).map(|(s, o)| (&s.resource_id, o))
        else {
            continue;
        };
        let file = object_file(data_dir, object);
        let digest = hash_file(&file).map_err(|error| Failure::failed(format_args!("{}: {error}", file.display())))?;
        if digest != object.sha256 || truth.get(resource.as_str()) != Some(&digest) {
            return Err(Failure::failed(format_args!("{} does not hold what the origin served", file.display())));
        }
        stored += 1;
        rows.add_row([resource.clone(), words::bytes(object.size_bytes), task.attempts.to_string(), digest]);
        folder = file.parent().map(Path::to_owned).unwrap_or_default();
    }
    if stored != truth.len() {
        return Err(Failure::failed(format_args!("{stored} of {} resources were stored", truth.len())));
    }
    if out.is_json() {
        return dead_json(client, job, &tasks, out).await;
    }
    out.line(format_args!("\nStored in {}/\n", folder.display()))?;
    out.table(&rows)?;
    out.line("\nEach file was hashed again just now: the digests are the ledger's and the origin's.")?;
    out.line(format_args!("\n{}\n  {} requests reached the origin.\n", show::job(job), origin.requests()))?;
    for resource in dead(&tasks) {
        let story = explain(client, job, resource).await?;
        out.line(format_args!("Why not all of them? `fetchbox job ID --explain --resource {resource}` says:\n"))?;
        out.line(show::task_story(&story))?;
    }
    Ok(())
}

async fn dead_json(client: &Client, job: &wire::Job, tasks: &[wire::Task], out: Out) -> Result {
    tasks.iter().try_for_each(|task| out.json(task))?;
    for resource in dead(tasks) {
        out.json(&explain(client, job, resource).await?)?;
    }
    Ok(())
}

async fn explain(client: &Client, job: &wire::Job, resource: &str) -> Result<wire::ExplainTaskResponse> {
    let request = wire::ExplainTaskRequest { job_id: job.job_id.clone(), resource_id: resource.to_owned() };
    client.explain_task(request).await.map_err(connect::refused)
}

fn dead(tasks: &[wire::Task]) -> impl Iterator<Item = &str> {
    let died = |task: &&wire::Task| task.state() == wire::TaskState::Dead;
    tasks.iter().filter(died).filter_map(|task| task.spec.as_ref()).map(|spec| spec.resource_id.as_str())
}

pub fn goodbye(dir: &Path, out: Out) -> Result {
    if out.is_json() {
        return Ok(());
    }
    let dir = dir.display();
    out.line(format_args!("\nThe daemon has drained and stopped. Everything is in {dir}; look at it again with"))?;
    out.line(format_args!("  fetchbox serve --data-dir {dir}/data &\n  fetchbox jobs --data-dir {dir}/data"))
}

fn object_file(data_dir: &Path, object: &wire::StoredObject) -> PathBuf {
    data_dir.join("objects").join(&object.bucket).join(&object.key)
}

fn hash_file(path: &Path) -> std::io::Result<String> {
    // The largest has 12 MiB.
    Ok(hex(&std::fs::read(path)?))
}

fn hex(bytes: &[u8]) -> String {
    base16ct::lower::encode_string(&Sha256::digest(bytes))
}
