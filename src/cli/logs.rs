//! `logs`: a job's lines and its output, from history and as they come.
//!
//! Owns: paging, resuming a broken follow, and what of it is printed as it is. Must not know: how a line is drawn.

use futures_util::StreamExt as _;

use super::args::Global;
use super::args_output::{Logs, StreamArg};
use super::exit::Result;
use super::out::Out;
use super::pieces::Lines;
use super::{connect, now_ms, show, wire};

/// A broken follow is taken up again where it stopped, this often in a row.
const RESUMES_MAX: u32 = 20;

pub async fn run(global: &Global, args: Logs, out: Out) -> Result {
    let mut client = connect::grpc(global).await?;
    if args.tail == Some(0) && !args.follow {
        return Ok(());
    }
    let mut printer = Printer::new(&args, out);
    let mut request = wire::QueryLogsRequest {
        job_id: args.id,
        limit: 1_000,
        min_level: wire::LogLevel::from(args.level) as i32,
        streams: args.streams.into_iter().map(|stream| wire::LogStream::from(stream) as i32).collect(),
        resource_id: args.resource,
        from_ms: args.since.map_or(0, |age_ms| now_ms().saturating_sub(age_ms).max(1)),
        text: args.text,
        regex: args.grep,
        ignore_case: args.ignore_case,
        follow: args.follow,
        tail: args.tail.unwrap_or(0),
        ..Default::default()
    };
    let (mut resumes, mut has_begun) = (0, false);
    loop {
        let mut pages = client.query_logs(request.clone()).await.map_err(connect::refused)?;
        let mut ended = false;
        let broken = loop {
            match pages.next().await {
                Some(Ok(page)) => {
                    page.records.iter().try_for_each(|record| printer.print(record))?;
                    (resumes, has_begun) = (0, true);
                    request.offset = page.next_offset;
                    ended = page.end;
                }
                None => break None,
                Some(Err(error)) => break Some(connect::refused(error)),
            }
        };
        match broken {
            // A page without follow stops at its limit: go on behind it. A tail comes whole.
            None if !args.follow && !ended && request.tail == 0 => {}
            None => return printer.end(),
            Some(failure) if !args.follow || resumes == RESUMES_MAX || !connect::passing(&failure) => {
                printer.end()?;
                return Err(failure);
            }
            Some(_) => {
                resumes += 1;
                // Before its first page a tail was only looked for.
                if has_begun {
                    request.tail = 0;
                }
                tokio::time::sleep(connect::RESUME_WAIT).await;
                client = connect::grpc(global).await?;
            }
        }
    }
}

/// How a record is put on the screen or into the pipe.
struct Printer {
    out: Out,
    manner: Manner,
    /// Of standard output and standard error: what waits for its line's end.
    held: [(wire::LogStream, Lines, wire::LogRecord); 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Json,
    /// Only output is shown: its bytes as they are.
    Raw,
    /// The same, for somebody's eyes.
    Tamed,
    /// Each line with its time and stream, between the job's own lines.
    Lines {
        /// Records were picked: neighbours here need not be neighbours there.
        apart: bool,
    },
}

impl Printer {
    fn new(args: &Logs, out: Out) -> Self {
        let only_output = !args.streams.is_empty() && !args.streams.contains(&StreamArg::Job);
        let manner = match (out.is_json(), only_output) {
            (true, _) => Manner::Json,
            (false, true) if out.to_terminal() => Manner::Tamed,
            (false, true) => Manner::Raw,
            (false, false) => Manner::Lines { apart: !args.text.is_empty() || !args.grep.is_empty() },
        };
        let held = [wire::LogStream::Stdout, wire::LogStream::Stderr]
            .map(|stream| (stream, Lines::default(), wire::LogRecord::default()));
        Self { out, manner, held }
    }

    fn print(&mut self, record: &wire::LogRecord) -> Result {
        let out = self.out;
        let chunk = match (&record.content, self.manner) {
            (_, Manner::Json) => return out.json(record),
            (Some(wire::log_record::Content::Chunk(chunk)), _) => chunk,
            (_, Manner::Raw | Manner::Tamed | Manner::Lines { .. }) => return out.line(show::log_line(record)),
        };
        match self.manner {
            Manner::Json => Ok(()),
            Manner::Raw => out.raw(chunk),
            Manner::Tamed => out.raw(show::tamed_output(chunk).as_bytes()),
            Manner::Lines { apart } => {
                let Some((_, lines, whose)) = self.held.iter_mut().find(|(stream, ..)| *stream == record.stream())
                else {
                    return out.line(show::log_line(record));
                };
                // A line has the time of the piece in which it ends; nothing else of the record is shown.
                *whose = wire::LogRecord { content: None, ..record.clone() };
                lines.feed(chunk, |line| out.line(show::output_line(whose, line)))?;
                if apart { lines.end(|line| out.line(show::output_line(whose, line))) } else { Ok(()) }
            }
        }
    }

    fn end(&mut self) -> Result {
        let out = self.out;
        for (_, lines, whose) in &mut self.held {
            lines.end(|line| out.line(show::output_line(whose, line)))?;
        }
        Ok(())
    }
}
