//! `export`: what a daemon keeps of jobs' output, as joblet's files.
//!
//! Owns: which jobs, and that each file is whole or absent. Must not know: what a line says, how a file is made.

use std::path::Path;

use futures_util::StreamExt as _;

use super::args::Global;
use super::args_output::Export;
use super::exit::{Exit, Failure, Result};
use super::joblet_files::{FileKind, FileWriter, Tree, kept};
use super::out::{Out, complain};
use super::{connect, wire, words};
use crate::client::Client;
use crate::client::persist::Persist;
use crate::model::JobName;

/// Jobs asked for at a time.
const PAGE: u32 = 200;

#[derive(Debug, Default)]
struct Total {
    jobs: u64,
    files: u64,
    records: u64,
    bytes: u64,
    /// Jobs that could not be written.
    left_out: u64,
}

pub async fn run(global: &Global, args: Export, out: Out) -> Result {
    let client = connect::grpc(global).await?;
    let persist = client.persist();
    let tree = Tree::new(&args.dir);
    let mut total = Total::default();
    if args.all {
        let mut request = wire::ListJobsRequest { page_size: PAGE, ..Default::default() };
        loop {
            let page = client.list_jobs(request.clone()).await.map_err(connect::refused)?;
            for job in &page.jobs {
                one(&persist, &tree, &job.job_id, out, &mut total).await?;
            }
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
    } else {
        for job in &args.jobs {
            // A job nobody knows has no output, which is what an export would show as success.
            known(&client, job).await?;
            one(&persist, &tree, job, out, &mut total).await?;
        }
    }
    tell(&total, &args.dir, out)?;
    if total.left_out == 0 { Ok(()) } else { Err(Failure::silent(Exit::Failed)) }
}

async fn known(client: &Client, job: &str) -> Result {
    let request = wire::GetJobRequest { job_id: job.to_owned() };
    client.get_job(request).await.map(drop).map_err(connect::refused)
}

async fn one(persist: &Persist, tree: &Tree, job: &str, out: Out, total: &mut Total) -> Result {
    // Its name becomes a folder's.
    let Some(job) = JobName::parse(job) else {
        complain(format_args!("left out: {job:?} cannot be the name of a folder"));
        total.left_out += 1;
        return Ok(());
    };
    let mut any = false;
    for kind in FileKind::ALL {
        if let Some((records, bytes)) = file(persist, tree, &job, kind).await? {
            any = true;
            total.files += 1;
            total.records += records;
            total.bytes += bytes;
            if out.is_json() {
                let path = tree.place(&job, kind).display().to_string();
                let line = serde_json::json!({ "job": job.as_str(), "path": path, "records": records, "bytes": bytes });
                out.line(line)?;
            }
        }
    }
    total.jobs += u64::from(any);
    Ok(())
}

/// Records and bytes of the file that was written; none where nothing is kept.
async fn file(persist: &Persist, tree: &Tree, job: &JobName, kind: FileKind) -> Result<Option<(u64, u64)>> {
    let place = tree.place(job, kind);
    let cannot = |why: &dyn std::fmt::Display| Failure::failed(format_args!("{}: {why}", place.display()));
    let mut entries = kept(persist, job, kind).await.map_err(connect::refused)?;
    let mut writer: Option<FileWriter> = None;
    let mut records = 0;
    let mut line = Vec::new();
    while let Some(entry) = entries.next().await {
        let entry = entry.map_err(connect::refused)?;
        line.clear();
        entry.write(kind, job, &mut line).map_err(|bad| cannot(&bad))?;
        let writer = match &mut writer {
            Some(writer) => writer,
            none => none.insert(FileWriter::create(&place).map_err(|error| cannot(&error))?),
        };
        writer.write(&line).map_err(|error| cannot(&error))?;
        records += 1;
        // One line may have been a hundred megabytes.
        if line.capacity() > 1024 * 1024 {
            line = Vec::new();
        }
    }
    match writer {
        None => Ok(None),
        Some(writer) => Ok(Some((records, writer.finish().map_err(|error| cannot(&error))?))),
    }
}

fn tell(total: &Total, dir: &Path, out: Out) -> Result {
    let Total { jobs, files, records, bytes, left_out } = total;
    if out.is_json() {
        return out.line(serde_json::json!({
            "jobs": jobs, "files": files, "records": records, "bytes": bytes, "leftOut": left_out,
        }));
    }
    out.line(format_args!(
        "{} of {} in {}, {}, under {}",
        words::count(*records, "record"),
        words::count(*jobs, "job"),
        words::count(*files, "file"),
        words::bytes(*bytes),
        dir.display()
    ))
}
