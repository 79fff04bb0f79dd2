//! `logs`: a job's lines, from history and as they come.
//!
//! Owns: paging, and resuming a broken follow. Must not know: how a line is drawn.

use futures_util::StreamExt as _;

use super::args::{Global, Logs};
use super::exit::Result;
use super::out::Out;
use super::{connect, show, wire};

/// A broken follow is taken up again where it stopped, this often in a row.
const RESUMES_MAX: u32 = 20;

pub async fn run(global: &Global, args: Logs, out: Out) -> Result {
    let mut client = connect::grpc(global).await?;
    let mut request = wire::QueryLogsRequest {
        job_id: args.id,
        limit: 1_000,
        min_level: wire::LogLevel::from(args.level) as i32,
        resource_id: args.resource,
        text: args.text,
        follow: args.follow,
        tail: args.tail.unwrap_or(0),
        ..Default::default()
    };
    if args.tail == Some(0) && !args.follow {
        return Ok(());
    }
    let mut resumes = 0;
    loop {
        let mut pages = client.query_logs(request.clone()).await.map_err(connect::refused)?;
        let mut ended = false;
        let broken = loop {
            match pages.next().await {
                Some(Ok(page)) => {
                    for record in &page.records {
                        if out.is_json() { out.json(record)? } else { out.line(show::log_line(record))? }
                    }
                    resumes = 0;
                    request.offset = page.next_offset;
                    ended = page.end;
                }
                None => break None,
                Some(Err(error)) => break Some(connect::refused(error)),
            }
        };
        match broken {
            // A page without follow stops at its limit: go on behind it. A tail is one page by itself.
            None if !args.follow && !ended && request.tail == 0 => {}
            None => return Ok(()),
            Some(failure) if !args.follow || resumes == RESUMES_MAX || !connect::passing(&failure) => {
                return Err(failure);
            }
            Some(_) => {
                resumes += 1;
                request.tail = 0;
                tokio::time::sleep(connect::RESUME_WAIT).await;
                client = connect::grpc(global).await?;
            }
        }
    }
}
