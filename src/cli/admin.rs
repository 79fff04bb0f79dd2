//! The operator's verbs: cleanup, stats, pause, resume, drain, health.
//!
//! Owns: their requests and how their answers read. Must not know: what they do inside.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::args::{Cleanup, Global, Scope};
use super::exit::{Exit, Failure, Result};
use super::out::Out;
use super::{connect, wire, words};

pub async fn cleanup(global: &Global, args: Cleanup, out: Out) -> Result {
    let client = connect::grpc(global).await?;
    let request = wire::CleanupOldDataRequest {
        older_than_days: args.older_than_days,
        kinds: args.kinds.into_iter().map(|kind| wire::CleanupKind::from(kind) as i32).collect(),
        dry_run: args.dry_run,
        max_deletes: args.max,
        compact: args.compact,
    };
    let reply = client.cleanup_old_data(request).await.map_err(connect::refused)?;
    if out.is_json() {
        return out.json(&reply);
    }
    let mut text = if args.dry_run { "would delete" } else { "deleted" }.to_owned();
    for (kind, number) in sorted(&reply.deleted) {
        let _ = write!(text, "\n  {:<12} {number}", kind.to_lowercase());
    }
    let took = words::duration(reply.duration_ms);
    let _ = write!(text, "\n{} in {took}", words::bytes(reply.reclaimed_bytes));
    if reply.more {
        text.push_str("; more is left: run it again");
    }
    out.line(text)
}

pub async fn stats(global: &Global, out: Out) -> Result {
    let client = connect::grpc(global).await?;
    let stats = client.get_stats(wire::GetStatsRequest {}).await.map_err(connect::refused)?;
    if out.is_json() {
        return out.json(&stats);
    }
    let mut text = format!(
        "queue         {} waiting, {} running, oldest waits {}",
        stats.queue_depth,
        stats.tasks_in_flight,
        words::duration(stats.queue_lag_ms)
    );
    let _ = write!(text, "\nintake        {}", switches(stats.paused, stats.draining));
    paused(&mut text, &stats.paused_job_types, &stats.paused_hosts);
    if !stats.storage_alarm.is_empty() {
        let _ = write!(text, "\nSTORAGE       {}", words::tame(&stats.storage_alarm));
    }
    let _ = write!(
        text,
        "\njobs          {}",
        listed(&stats.jobs_by_state, |name| name.replace("JOB_STATE_", "").to_lowercase(), |n| n.to_string())
    );
    let _ = write!(text, "\ndead letters  {}", stats.dlq_size);
    if stats.dlq_size > 0 {
        let _ = write!(text, ": {}", listed(&stats.dlq_by_code, str::to_owned, |n| n.to_string()));
    }
    let _ = write!(text, "\ntables        {}", listed(&stats.bytes_by_keyspace, str::to_owned, words::bytes));
    let _ = write!(
        text,
        "\njournal       {}, group {}\ndisk          {} free",
        words::bytes(stats.journal_bytes),
        stats.sequence,
        words::bytes(stats.free_disk_bytes)
    );
    out.line(text)
}

pub async fn control(global: &Global, switch: wire::Switch, scope: Scope, out: Out) -> Result {
    let client = connect::grpc(global).await?;
    let Scope { job_type, host } = scope;
    let action = wire::ControlAction::from(switch) as i32;
    let reply =
        client.control_queue(wire::ControlQueueRequest { action, job_type, host }).await.map_err(connect::refused)?;
    if out.is_json() {
        return out.json(&reply);
    }
    let mut text = switches(reply.paused, reply.draining).to_owned();
    paused(&mut text, &reply.paused_job_types, &reply.paused_hosts);
    out.line(text)
}

fn switches(paused: bool, draining: bool) -> &'static str {
    match (paused, draining) {
        (false, false) => "open, tasks are started",
        (true, false) => "open, paused: nothing new is started",
        (false, true) => "refused: draining, the queue is worked empty",
        (true, true) => "refused: draining, and paused: nothing new is started",
    }
}

fn paused(text: &mut String, job_types: &[String], hosts: &[String]) {
    for (what, names) in [("job types", job_types), ("hosts", hosts)] {
        if !names.is_empty() {
            let _ = write!(text, "\n  paused {what}: {}", names.join(", "));
        }
    }
}

pub async fn health(global: &Global, out: Out) -> Result {
    let client = connect::grpc(global).await?;
    let health = client.get_health(wire::GetHealthRequest {}).await.map_err(connect::refused)?;
    if out.is_json() {
        out.json(&health)?;
    } else {
        let word = if health.ready { "ready" } else { "NOT READY" };
        let mut text = format!("{word} (fetchbox {})", health.version);
        for check in &health.checks {
            let _ = write!(text, "\n  {:<11} {}", check.name, if check.ok { "ok" } else { "FAILED" });
            if !check.message.is_empty() {
                let _ = write!(text, ": {}", words::tame(&check.message));
            }
        }
        out.line(text)?;
    }
    if health.ready { Ok(()) } else { Err(Failure::silent(Exit::Temporary)) }
}

fn sorted(map: &HashMap<String, u64>) -> Vec<(&String, &u64)> {
    let mut rows: Vec<_> = map.iter().collect();
    rows.sort();
    rows
}

fn listed(map: &HashMap<String, u64>, name: fn(&str) -> String, number: fn(u64) -> String) -> String {
    let rows: Vec<String> = sorted(map)
        .into_iter()
        .filter(|(_, count)| **count > 0)
        .map(|(key, count)| format!("{} {}", number(*count), name(key)))
        .collect();
    if rows.is_empty() { "none".to_owned() } else { rows.join(", ") }
}
