//! Questions every test asks, each with its pages turned to the end.

use fetchbox::client::Client;
use futures_util::TryStreamExt as _;

use super::{in_time, pb};

pub async fn submit(client: &Client, request: pb::SubmitJobRequest) -> String {
    client.submit_job(request).await.unwrap().job_id
}

pub async fn job(client: &Client, job_id: &str) -> pb::Job {
    client.get_job(pb::GetJobRequest { job_id: job_id.to_owned() }).await.unwrap()
}

pub fn is_terminal(job: &pb::Job) -> bool {
    matches!(
        job.state(),
        pb::JobState::Partial | pb::JobState::Completed | pb::JobState::Failed | pb::JobState::Canceled
    )
}

/// Watches the job to its end.
pub async fn end_of(client: &Client, job_id: &str) -> pb::Job {
    let watched = async {
        let request = pb::WatchJobRequest { job_id: job_id.to_owned(), after_revision: 0 };
        let mut stream = client.watch_job(request).await.unwrap();
        let mut last = None;
        while let Some(job) = stream.try_next().await.unwrap() {
            last = Some(job);
        }
        last.expect("a watch sends at least the present snapshot")
    };
    let last = in_time(&format!("the end of job {job_id}"), watched).await;
    assert!(is_terminal(&last), "the watch ended before the job: {last:?}");
    last
}

/// Waits for the first snapshot that satisfies `wanted`.
pub async fn job_when(client: &Client, job_id: &str, wanted: impl Fn(&pb::Job) -> bool) -> pb::Job {
    let watched = async {
        let request = pb::WatchJobRequest { job_id: job_id.to_owned(), after_revision: 0 };
        let mut stream = client.watch_job(request).await.unwrap();
        loop {
            let job = stream.try_next().await.unwrap().expect("the job ended otherwise");
            if wanted(&job) {
                return job;
            }
        }
    };
    in_time(&format!("job {job_id}"), watched).await
}

pub async fn jobs(client: &Client) -> Vec<pb::Job> {
    let mut request = pb::ListJobsRequest { page_size: 1000, ..Default::default() };
    let mut all = Vec::new();
    loop {
        let page = client.list_jobs(request.clone()).await.unwrap();
        all.extend(page.jobs);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return all;
        }
    }
}

pub async fn tasks(client: &Client, job_id: &str) -> Vec<pb::Task> {
    let mut request = pb::ListTasksRequest { job_id: job_id.to_owned(), page_size: 1000, ..Default::default() };
    let mut all = Vec::new();
    loop {
        let page = client.list_tasks(request.clone()).await.unwrap();
        all.extend(page.tasks);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return all;
        }
    }
}

pub async fn letters(client: &Client, selector: pb::DeadLetterSelector) -> Vec<pb::DeadLetterTask> {
    let mut request =
        pb::ListDeadLettersRequest { selector: Some(selector), page_size: 1000, page_token: String::new() };
    let mut all = Vec::new();
    loop {
        let page = client.list_dead_letters(request.clone()).await.unwrap();
        all.extend(page.dead_letters);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return all;
        }
    }
}

pub async fn stats(client: &Client) -> pb::GetStatsResponse {
    client.get_stats(pb::GetStatsRequest {}).await.unwrap()
}

/// The whole log of one job, following it to the job's end.
pub async fn followed_log(client: &Client, job_id: &str) -> Vec<pb::LogRecord> {
    let request = pb::QueryLogsRequest { job_id: job_id.to_owned(), follow: true, ..Default::default() };
    let heard = async {
        let mut stream = client.query_logs(request).await.unwrap();
        let mut records = Vec::new();
        while let Some(page) = stream.try_next().await.unwrap() {
            records.extend(page.records);
        }
        records
    };
    in_time("the log's end", heard).await
}
