//! Following one job to its end, as a bar, as lines or as JSON.
//!
//! Owns: resuming a broken stream, and the progress bar. Must not know: who wants to know.

use std::time::Duration;

use futures_util::StreamExt as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::args::Global;
use super::exit::{Exit, Failure, Result};
use super::out::Out;
use super::{connect, wire, words};
use crate::client::Client;

/// A daemon that restarts is waited for this long.
const RESUMES_MAX: u32 = 60;

/// Returns the job's terminal snapshot. Every change is shown on the way.
pub async fn follow(mut client: Client, global: &Global, job_id: &str, out: Out) -> Result<wire::Job> {
    let mut view = View::new(out);
    let mut after_revision = 0;
    let mut resumes = 0;
    loop {
        let failure = match stream(&client, job_id, &mut after_revision, &mut view).await {
            Ok(Some(last)) => {
                view.end();
                return Ok(last);
            }
            Ok(None) => Failure::new(Exit::Temporary, "the daemon ended the stream"),
            Err(failure) => failure,
        };
        if !connect::passing(&failure) || resumes == RESUMES_MAX {
            view.end();
            return Err(failure);
        }
        resumes += 1;
        tokio::time::sleep(connect::RESUME_WAIT).await;
        if let Ok(fresh) = connect::grpc(global).await {
            client = fresh;
        }
    }
}

/// One stream's worth. None: it ended before the job did.
async fn stream(client: &Client, job_id: &str, after: &mut u64, view: &mut View) -> Result<Option<wire::Job>> {
    let request = wire::WatchJobRequest { job_id: job_id.to_owned(), after_revision: *after };
    let mut jobs = client.watch_job(request).await.map_err(connect::refused)?;
    while let Some(job) = jobs.next().await {
        let job = job.map_err(connect::refused)?;
        *after = job.revision;
        view.show(&job)?;
        if wire::is_terminal(&job) {
            return Ok(Some(job));
        }
    }
    // Resumed behind the terminal revision, the stream has nothing left to say.
    let job = client.get_job(wire::GetJobRequest { job_id: job_id.to_owned() }).await.map_err(connect::refused)?;
    if !wire::is_terminal(&job) {
        return Ok(None);
    }
    view.show(&job)?;
    Ok(Some(job))
}

struct View {
    out: Out,
    bar: Option<ProgressBar>,
    last_line: String,
}

impl View {
    fn new(out: Out) -> Self {
        Self { out, bar: None, last_line: String::new() }
    }

    fn show(&mut self, job: &wire::Job) -> Result {
        if self.out.is_json() {
            return self.out.json(job);
        }
        if self.out.is_tty() {
            let bar = self.bar.get_or_insert_with(|| bar(job.resources_total.into()));
            update(bar, job);
            return Ok(());
        }
        // Snapshots may differ in what a line does not show.
        let line = line(job);
        if line != self.last_line {
            self.out.line(&line)?;
            self.last_line = line;
        }
        Ok(())
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// A bar over resources, on stderr.
pub fn bar(total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{spinner} [{bar:40}] {pos}/{len}  {msg}  {elapsed}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

pub fn update(bar: &ProgressBar, job: &wire::Job) {
    let ended = job.resources_completed + job.resources_failed + job.resources_canceled;
    bar.set_length(job.resources_total.into());
    bar.set_position(ended.into());
    bar.set_message(format!("{} failed, {}", job.resources_failed, words::bytes(job.bytes_stored)));
}

/// The same for a log file.
pub fn line(job: &wire::Job) -> String {
    format!(
        "{}: {} of {} stored, {} failed, {}",
        wire::job_state(job.state),
        job.resources_completed,
        job.resources_total,
        job.resources_failed,
        words::bytes(job.bytes_stored)
    )
}
