//! Why a resource that could start does not, as far as the ledger knows: switches, and what its last attempt met.
//!
//! Owns: that reason, in words. Must not know: rates and places in use; they pass within seconds.

use super::words::code_at;
use crate::model::{Controls, FailureCode, JobType, RetryClass, Task, TaskState, clean_text};

/// As in "it waits: the queue is paused". `storage_alarm`: why the object store takes nothing, empty while it does. None: it only waits for its time or its turn, or it waits no more.
pub fn reason(controls: &Controls, storage_alarm: &str, job_type: &JobType, task: &Task) -> Option<String> {
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
    if let Some(host) = host_of(&task.spec.url).filter(|host| controls.paused_hosts.contains(host)) {
        return Some(format!("host {host} is paused until `fetchbox resume --host {host}`"));
    }
    if !storage_alarm.is_empty() {
        return Some(format!("the object store takes nothing now ({})", clean_text(storage_alarm)));
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

    #[test]
    fn a_switch_somebody_turned_is_named_with_the_way_to_turn_it_back() {
        let job_type = JobType::parse("gallery").unwrap();
        let waiting = task(0, TaskState::Ready);
        let held = |change: ControlChange| reason(&Controls::default().after(&change), "", &job_type, &waiting);
        assert!(held(ControlChange::Pause).unwrap().contains("fetchbox resume"));
        assert!(held(ControlChange::PauseJobType(job_type.clone())).unwrap().contains("--job-type gallery"));
        assert!(held(ControlChange::PauseHost("h:80".into())).unwrap().contains("--host h:80"));
        assert_eq!(held(ControlChange::PauseHost("other:80".into())), None);
        assert_eq!(held(ControlChange::Drain), None, "a drained queue is worked empty");
        let canceled = task(0, TaskState::Canceled);
        assert_eq!(reason(&Controls::default().after(&ControlChange::Pause), "", &job_type, &canceled), None);
    }

    #[test]
    fn a_store_that_takes_nothing_is_told_as_the_reason_and_not_as_the_resources_fault() {
        let mut waiting = task(0, TaskState::RetryWait { not_before_ms: 9 });
        let told = |alarm: &str, task: &Task| reason(&Controls::default(), alarm, &JobType::default(), task);
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
