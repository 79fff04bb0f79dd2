//! Why a resource that could start does not: switches, the object store, a host that is left alone, and what its last attempt met.
//!
//! Owns: that reason, in words. Must not know: rates and places in use; they pass within seconds.

use super::words::{code_at, when};
use crate::model::{Controls, FailureCode, JobType, RetryClass, Task, TaskState, clean_text};

/// What only the dispatcher knows.
pub struct Present<'a> {
    /// Why the object store takes nothing now; empty while it does.
    pub storage_alarm: &'a str,
    /// Until when (Unix ms) nothing is sent to this `host:port`, and whether it asked for that; else it does not answer.
    pub host: &'a dyn Fn(&str) -> Option<(i64, bool)>,
}

/// As in "it waits: the queue is paused". None: it only waits for its time or its turn, or it waits no more.
pub fn reason(controls: &Controls, present: &Present<'_>, job_type: &JobType, task: &Task) -> Option<String> {
    match task.state {
        TaskState::Ready | TaskState::RetryWait { .. } => {}
        TaskState::Leased { .. } | TaskState::Done { .. } | TaskState::Dead { .. } | TaskState::Canceled => {
            return None;
        }
    }
    if controls.paused {
        return Some("the queue is paused until `fetchbox resume`".to_owned());
    }
    if controls.paused_job_types.contains(job_type) {
        return Some(format!("job type {job_type} is paused until `fetchbox resume --job-type {job_type}`"));
    }
    let host = host_of(&task.spec.url);
    if let Some(host) = host.as_ref().filter(|host| controls.paused_hosts.contains(*host)) {
        return Some(format!("host {host} is paused until `fetchbox resume --host {host}`"));
    }
    if !present.storage_alarm.is_empty() {
        return Some(format!("the object store takes nothing now ({})", clean_text(present.storage_alarm)));
    }
    if let Some((host, (until_ms, has_asked))) = host.and_then(|host| (present.host)(&host).map(|hold| (host, hold))) {
        let until = when(until_ms);
        let why = match has_asked {
            true => format!("host {host} asked to be left alone until {until}"),
            false => format!("host {host} does not answer and is asked again at {until}"),
        };
        // One that was told to wait for itself keeps its time, whatever becomes of the host.
        let has_own_time = matches!(task.state, TaskState::RetryWait { not_before_ms } if not_before_ms >= until_ms);
        let or_else = if has_own_time { String::new() } else { format!(", or after `fetchbox resume --host {host}`") };
        return Some(why + &or_else);
    }
    let last = task.last_failure.as_ref()?;
    if last.code.class() == RetryClass::Parked {
        return Some(format!("the object store took nothing ({}), which counts as no attempt", code_at(last)));
    }
    (last.code == FailureCode::DownloadHostDown)
        .then(|| format!("host {} does not answer and is asked again now and then", last.host()))
}

/// `host:port` as pauses name it.
fn host_of(url: &str) -> Option<String> {
    let url = url::Url::parse(url).ok()?;
    Some(format!("{}:{}", url.host_str()?.trim_end_matches('.'), url.port_or_known_default()?))
}

#[cfg(test)]
mod tests {
    use super::super::tests::task;
    use super::*;
    use crate::model::{ControlChange, Failure};

    const WELL: Present<'static> = Present { storage_alarm: "", host: &|_| None };

    #[test]
    fn a_host_that_is_left_alone_is_named_with_the_time_and_the_way_to_go_on() {
        let mut waiting = task(0, TaskState::Ready);
        waiting.spec.url = "http://h/a".into();
        let held = |has_asked: bool| {
            let host = move |name: &str| (name == "h:80").then_some((90_000, has_asked));
            let present = Present { host: &host, ..WELL };
            reason(&Controls::default(), &present, &JobType::default(), &waiting).unwrap()
        };
        assert_eq!(
            held(true),
            "host h:80 asked to be left alone until 1970-01-01T00:01:30Z, or after `fetchbox resume --host h:80`"
        );
        assert!(held(false).starts_with("host h:80 does not answer and is asked again at 1970-01-01T00:01:30Z"));
        waiting.state = TaskState::RetryWait { not_before_ms: 90_500 };
        let present = Present { host: &|_| Some((90_000, true)), ..WELL };
        let own = reason(&Controls::default(), &present, &JobType::default(), &waiting).unwrap();
        assert!(own.ends_with("1970-01-01T00:01:30Z"), "{own}");
    }

    #[test]
    fn a_switch_somebody_turned_is_named_with_the_way_to_turn_it_back() {
        let job_type = JobType::parse("gallery").unwrap();
        let waiting = task(0, TaskState::Ready);
        let held = |change: ControlChange| reason(&Controls::default().after(&change), &WELL, &job_type, &waiting);
        assert!(held(ControlChange::Pause).unwrap().contains("fetchbox resume"));
        assert!(held(ControlChange::PauseJobType(job_type.clone())).unwrap().contains("--job-type gallery"));
        assert!(held(ControlChange::PauseHost("h:80".into())).unwrap().contains("--host h:80"));
        assert_eq!(held(ControlChange::PauseHost("other:80".into())), None);
        assert_eq!(held(ControlChange::Drain), None, "a drained queue is worked empty");
        let canceled = task(0, TaskState::Canceled);
        assert_eq!(reason(&Controls::default().after(&ControlChange::Pause), &WELL, &job_type, &canceled), None);
    }

    #[test]
    fn a_store_that_takes_nothing_is_told_as_the_reason_and_not_as_the_resources_fault() {
        let mut waiting = task(0, TaskState::RetryWait { not_before_ms: 9 });
        let told = |storage_alarm: &str, task: &Task| {
            reason(&Controls::default(), &Present { storage_alarm, ..WELL }, &JobType::default(), task)
        };
        let why = |task: &Task| told("", task);
        assert_eq!(why(&waiting), None);
        let alarm = told("STORAGE_DENIED: no such bucket", &waiting).unwrap();
        assert_eq!(alarm, "the object store takes nothing now (STORAGE_DENIED: no such bucket)");
        waiting.last_failure = Some(Failure::new(FailureCode::StorageFull, "full"));
        assert!(why(&waiting).unwrap().contains("STORAGE_FULL"));
        waiting.last_failure = Some(Failure::new(FailureCode::DownloadHostDown, "x").with("host", "h:80"));
        assert!(why(&waiting).unwrap().starts_with("host h:80 does not answer"));
    }
}
