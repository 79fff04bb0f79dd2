//! `search`: lines of output over many jobs.
//!
//! Owns: going on until the limit or the end, and what it cost. Must not know: how a line is drawn.

use futures_util::StreamExt as _;

use super::args::Global;
use super::args_output::{Search, StreamArg};
use super::exit::{Exit, Failure, Result};
use super::out::{Out, complain};
use super::{connect, now_ms, show, wire, words};

/// The daemon's own bound for one answer.
const PAGE_MAX: u32 = 10_000;

pub async fn run(global: &Global, args: Search, out: Out) -> Result {
    if args.streams.contains(&StreamArg::Job) {
        return Err(Failure::new(Exit::Usage, "search looks through stdout and stderr")
            .hint("a job's own lines: fetchbox logs ID --stream job --grep REGEX"));
    }
    let client = connect::grpc(global).await?;
    let (text, regex) = if args.regex { (String::new(), args.pattern) } else { (args.pattern, String::new()) };
    let mut request = wire::SearchLogsRequest {
        text,
        regex,
        ignore_case: args.ignore_case,
        job_ids: args.jobs,
        job_type: args.job_type,
        tenant: args.tenant,
        streams: args.streams.into_iter().map(|stream| wire::LogStream::from(stream) as i32).collect(),
        from_ms: args.since.map_or(0, |age_ms| now_ms().saturating_sub(age_ms).max(1)),
        ..Default::default()
    };
    let mut left = args.limit;
    let mut cost = wire::SearchProgress::default();
    let mut more = false;
    while left > 0 {
        request.limit = left.min(PAGE_MAX);
        let mut answers = client.search_logs(request.clone()).await.map_err(connect::refused)?;
        let mut page = wire::SearchProgress::default();
        request.page_token.clear();
        while let Some(answer) = answers.next().await {
            let answer = answer.map_err(connect::refused)?;
            for hit in &answer.hits {
                if out.is_json() {
                    out.json(hit)?;
                } else {
                    out.line(show::hit(hit))?;
                }
                left = left.saturating_sub(1);
            }
            page = answer.progress.unwrap_or(page);
            request.page_token = answer.next_page_token;
        }
        cost.blocks += page.blocks;
        cost.blocks_skipped += page.blocks_skipped;
        cost.bytes_searched += page.bytes_searched;
        more = !request.page_token.is_empty();
        if !more {
            break;
        }
    }
    let found = args.limit - left;
    if out.is_tty() {
        complain(format_args!(
            "{}{}; {} of {} blocks passed over, {} looked through",
            words::count(found.into(), "line"),
            if more { ", and there may be more" } else { "" },
            cost.blocks_skipped,
            cost.blocks,
            words::bytes(cost.bytes_searched)
        ));
    }
    if found > 0 { Ok(()) } else { Err(Failure::silent(Exit::Failed)) }
}
