//! `dlq`: what was given up, and what becomes of it.
//!
//! Owns: its four verbs. Must not know: what a replay does inside.

use super::args::{Change, DlqVerb, Global, Selector};
use super::exit::{Failure, Result};
use super::out::{Out, table};
use super::{connect, now_ms, show, wire, words};
use crate::client;

pub async fn run(global: &Global, verb: DlqVerb, out: Out) -> Result {
    let client = connect::grpc(global).await?;
    match verb {
        DlqVerb::List { selector, limit } => {
            let mut request =
                wire::ListDeadLettersRequest { selector: Some(wanted(&selector, vec![])), ..Default::default() };
            let mut letters = Vec::new();
            let mut left = limit;
            loop {
                request.page_size = left.clamp(1, 1_000);
                let page = client.list_dead_letters(request.clone()).await.map_err(connect::refused)?;
                left = left.saturating_sub(u32::try_from(page.dead_letters.len()).unwrap_or(u32::MAX));
                letters.extend(page.dead_letters);
                if page.next_page_token.is_empty() || left == 0 {
                    break;
                }
                request.page_token = page.next_page_token;
            }
            if out.is_json() { letters.iter().try_for_each(|letter| out.json(letter)) } else { list(&letters, out) }
        }
        DlqVerb::Show { id } => {
            let letter = client.get_dead_letter(wire::GetDeadLetterRequest { id }).await.map_err(connect::refused)?;
            if out.is_json() { out.json(&letter) } else { out.line(one(&letter)) }
        }
        DlqVerb::Replay(change) => {
            let request = wire::ReplayDeadLettersRequest { selector: Some(picked(change)) };
            let dry_run = request.selector.as_ref().is_some_and(|selector| selector.dry_run);
            let reply = client.replay_dead_letters(request).await.map_err(refused)?;
            if out.is_json() {
                return out.json(&reply);
            }
            let done = if dry_run { "would be queued again" } else { "queued again" };
            let number = if dry_run { reply.matched } else { reply.replayed };
            out.line(format_args!("{done}: {}", words::count(number.into(), "dead letter")))?;
            reply.job_ids.iter().try_for_each(|job| out.line(format_args!("  job {job}")))
        }
        DlqVerb::Purge(change) => {
            let request = wire::PurgeDeadLettersRequest { selector: Some(picked(change)) };
            let dry_run = request.selector.as_ref().is_some_and(|selector| selector.dry_run);
            let reply = client.purge_dead_letters(request).await.map_err(refused)?;
            if out.is_json() {
                return out.json(&reply);
            }
            let done = if dry_run { "would be deleted" } else { "deleted" };
            let number = if dry_run { reply.matched } else { reply.purged };
            out.line(format_args!("{done}: {}", words::count(number.into(), "dead letter")))
        }
    }
}

/// The daemon speaks of its own field; here it is a flag.
fn refused(error: client::Error) -> Failure {
    let needs_all = error.to_string().contains("confirm_all");
    let failure = connect::refused(error);
    if needs_all { failure.hint("select some of them, or say --all") } else { failure }
}

fn wanted(selector: &Selector, ids: Vec<String>) -> wire::DeadLetterSelector {
    wire::DeadLetterSelector {
        ids,
        job_id: selector.job.clone(),
        code_prefix: selector.code.clone(),
        host: selector.host.clone(),
        before_ms: selector.older_than.map_or(0, |age| now_ms() - age),
        ..Default::default()
    }
}

fn picked(change: Change) -> wire::DeadLetterSelector {
    let Change { ids, selector, max, dry_run, all } = change;
    wire::DeadLetterSelector { max, dry_run, confirm_all: all, ..wanted(&selector, ids) }
}

fn list(letters: &[wire::DeadLetterTask], out: Out) -> Result {
    if letters.is_empty() {
        return out.line("no dead letters");
    }
    let now = now_ms();
    let mut rows = table(["id", "resource", "code", "attempts", "died", "why"]);
    for letter in letters {
        let resource = letter.task.as_ref().map_or("", |task| task.resource_id.as_str());
        rows.add_row([
            letter.id.clone(),
            words::tame(resource),
            letter.failure_code.clone(),
            letter.attempts.to_string(),
            words::ago(letter.failed_at_ms, now),
            words::short(&words::tame(&letter.failure_message), 80),
        ]);
    }
    out.table(&rows)
}

fn one(letter: &wire::DeadLetterTask) -> String {
    let mut lines = vec![format!("dead letter {}", letter.id)];
    if let Some(task) = &letter.task {
        lines.push(format!("  job       {} ({}, tenant {})", task.job_id, task.job_type, task.tenant));
        lines.push(format!("  resource  {}  {}", words::tame(&task.resource_id), words::tame(&task.url)));
    }
    let died = words::time(letter.failed_at_ms);
    lines.push(format!("  died      {died} after {}", words::count(letter.attempts.into(), "attempt")));
    if let Some(failure) = &letter.failure {
        lines.push(format!("  why       {}", show::failure(failure)));
        let mut context: Vec<_> = failure.context.iter().collect();
        context.sort();
        lines.extend(context.iter().map(|(name, value)| format!("            {name} {}", words::tame(value))));
    }
    for (name, sentence) in [("means", &letter.meaning), ("to do", &letter.action)] {
        // Older daemons do not say.
        if !sentence.is_empty() {
            lines.push(format!("  {name:<9} {sentence}"));
        }
    }
    lines.push(format!("  replay    fetchbox dlq replay {}", letter.id));
    lines.join("\n")
}
