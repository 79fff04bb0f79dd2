//! `jobs` and `job`.
//!
//! Owns: listing, and everything one can ask of or do to one job. Must not know: how a job is drawn; `show` does.

use super::args::{Global, Job as JobArgs, Jobs};
use super::exit::Result;
use super::out::{Out, table};
use super::{connect, now_ms, show, watch, wire, words};
use crate::client::Client;

/// What one page asks for: a round trip for each thousand rows at most.
const PAGE: u32 = 1_000;

pub async fn list(global: &Global, args: Jobs, out: Out) -> Result {
    let client = connect::grpc(global).await?;
    let mut request = wire::ListJobsRequest {
        tenant: args.tenant,
        job_type: args.job_type,
        states: args.states.into_iter().map(|state| wire::JobState::from(state) as i32).collect(),
        created_from_ms: args.since.map_or(0, |age| now_ms() - age),
        id_prefix: args.id_prefix,
        ..Default::default()
    };
    let mut jobs = Vec::new();
    let mut left = args.limit;
    loop {
        request.page_size = left.clamp(1, PAGE);
        let page = client.list_jobs(request.clone()).await.map_err(connect::refused)?;
        left = left.saturating_sub(u32::try_from(page.jobs.len()).unwrap_or(u32::MAX));
        if out.is_json() {
            page.jobs.iter().try_for_each(|job| out.json(job))?;
        } else {
            jobs.extend(page.jobs);
        }
        if page.next_page_token.is_empty() || left == 0 {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if out.is_json() { Ok(()) } else { print_list(&jobs, out) }
}

fn print_list(jobs: &[wire::Job], out: Out) -> Result {
    if jobs.is_empty() {
        return out.line("no jobs");
    }
    let now = now_ms();
    let mut rows = table(["job", "state", "type", "stored", "failed", "bytes", "accepted", "last error"]);
    for job in jobs {
        let error = job.last_error.as_ref().map_or("", |error| error.code.as_str());
        rows.add_row([
            job.job_id.clone(),
            wire::job_state(job.state),
            job.job_type.clone(),
            format!("{}/{}", job.resources_completed, job.resources_total),
            job.resources_failed.to_string(),
            words::bytes(job.bytes_stored),
            words::ago(job.created_at_ms, now),
            error.to_owned(),
        ]);
    }
    out.table(&rows)
}

pub async fn one(global: &Global, args: JobArgs, out: Out) -> Result {
    let client = connect::grpc(global).await?;
    let job_id = args.id;
    if args.explain {
        return match args.resources.as_slice() {
            [] => explain_job(&client, job_id, out).await,
            resources => explain_tasks(&client, &job_id, resources, out).await,
        };
    }
    if args.tasks {
        return tasks(&client, job_id, out).await;
    }
    if args.manifest {
        let manifest = client.get_manifest(wire::GetJobRequest { job_id }).await.map_err(connect::refused)?;
        return out.json(&manifest);
    }
    if args.watch {
        let last = watch::follow(client, global, &job_id, out).await?;
        if !out.is_json() {
            out.line(show::job(&last))?;
        }
        return wire::verdict(&last);
    }
    if args.cancel {
        let request = wire::CancelJobRequest { job_id, reason: args.reason };
        let job = client.cancel_job(request).await.map_err(connect::refused)?;
        return print(&job, out);
    }
    if args.retry {
        let request = wire::RetryJobRequest { job_id, resource_ids: args.resources };
        let reply = client.retry_job(request).await.map_err(connect::refused)?;
        if out.is_json() {
            return out.json(&reply);
        }
        return out.line(format_args!("queued again: {}", words::count(reply.requeued.into(), "resource")));
    }
    if args.delete {
        let request = wire::DeleteJobRequest { job_id, delete_objects: args.objects };
        let reply = client.delete_job(request).await.map_err(connect::refused)?;
        if out.is_json() {
            return out.json(&reply);
        }
        return out.line(format_args!("deleted, with {}", words::count(reply.objects_deleted.into(), "object")));
    }
    let job = client.get_job(wire::GetJobRequest { job_id }).await.map_err(connect::refused)?;
    print(&job, out)
}

fn print(job: &wire::Job, out: Out) -> Result {
    if out.is_json() { out.json(job) } else { out.line(show::job(job)) }
}

async fn explain_job(client: &Client, job_id: String, out: Out) -> Result {
    let story = client.explain_job(wire::ExplainJobRequest { job_id }).await.map_err(connect::refused)?;
    if out.is_json() {
        return out.json(&story);
    }
    out.line(show::story(&story))
}

async fn explain_tasks(client: &Client, job_id: &str, resources: &[String], out: Out) -> Result {
    for resource in resources {
        let request = wire::ExplainTaskRequest { job_id: job_id.to_owned(), resource_id: resource.clone() };
        let story = client.explain_task(request).await.map_err(connect::refused)?;
        if out.is_json() {
            out.json(&story)?;
        } else {
            out.line(show::task_story(&story))?;
        }
    }
    Ok(())
}

async fn tasks(client: &Client, job_id: String, out: Out) -> Result {
    let mut request = wire::ListTasksRequest { job_id, page_size: PAGE, ..Default::default() };
    let mut tasks = Vec::new();
    loop {
        let page = client.list_tasks(request.clone()).await.map_err(connect::refused)?;
        if out.is_json() {
            page.tasks.iter().try_for_each(|task| out.json(task))?;
        } else {
            tasks.extend(page.tasks);
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if out.is_json() { Ok(()) } else { out.table(&show::tasks(&tasks)) }
}
