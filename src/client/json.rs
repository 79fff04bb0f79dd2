//! Messages as JSON lines: protobuf's own JSON mapping, with zero values printed and enums by name.
//!
//! Owns: which messages can be printed. Must not know: who prints them.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

use super::Error;
use crate::proto::DESCRIPTORS;
use crate::proto::fetchbox::v1 as pb;

static POOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).ok());

/// A message whose protobuf name is known here.
pub trait Named: prost::Message {
    /// With its package, such as `fetchbox.v1.Job`.
    const FULL_NAME: &'static str;
}

macro_rules! named {
    ($($message:ident),* $(,)?) => {
        $(impl Named for pb::$message {
            const FULL_NAME: &'static str = concat!("fetchbox.v1.", stringify!($message));
        })*

        #[cfg(test)]
        fn each_as_json() -> Vec<(&'static str, Result<String, Error>)> {
            vec![$((stringify!($message), line(&pb::$message::default()))),*]
        }
    };
}

named!(
    Job,
    Task,
    Manifest,
    LogRecord,
    DeadLetterTask,
    ErrorDetail,
    FailureInfo,
    SubmitJobResponse,
    SubmitJobsResponse,
    ValidateManifestResponse,
    ListJobsResponse,
    ListTasksResponse,
    RetryJobResponse,
    DeleteJobResponse,
    ExplainJobResponse,
    ExplainTaskResponse,
    AppendLogsResponse,
    QueryLogsResponse,
    QueryMetricsResponse,
    MetricSeries,
    SearchLogsResponse,
    SearchHit,
    ListRecentFailuresResponse,
    RecentFailure,
    ListDeadLettersResponse,
    ReplayDeadLettersResponse,
    PurgeDeadLettersResponse,
    CleanupOldDataResponse,
    GetStatsResponse,
    ControlQueueResponse,
    GetHealthResponse,
    HealthCheck,
    Pong,
);

/// One object on one line, without the line's end.
pub fn line<M: Named>(message: &M) -> Result<String, Error> {
    let unreadable = |why: String| Error::Protocol { message: format!("{} as JSON: {why}", M::FULL_NAME) };
    let pool = POOL.as_ref().ok_or_else(|| unreadable("no descriptors".to_owned()))?;
    let descriptor = pool.get_message_by_name(M::FULL_NAME).ok_or_else(|| unreadable("no descriptor".to_owned()))?;
    let bytes = message.encode_to_vec();
    let dynamic =
        DynamicMessage::decode(descriptor, bytes.as_slice()).map_err(|error| unreadable(error.to_string()))?;
    let mut json = serde_json::Serializer::new(Vec::new());
    let options = SerializeOptions::new().skip_default_fields(false);
    dynamic.serialize_with_options(&mut json, &options).map_err(|error| unreadable(error.to_string()))?;
    String::from_utf8(json.into_inner()).map_err(|error| unreadable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_can_be_printed() {
        for (name, json) in each_as_json() {
            assert!(json.is_ok(), "{name}: {json:?}");
        }
    }

    #[test]
    fn a_script_finds_zero_values_and_names_of_states() {
        let job =
            pb::Job { job_id: "j".into(), state: pb::JobState::Partial.into(), bytes_stored: 7, ..Default::default() };
        let text = line(&job).unwrap();
        assert!(!text.contains('\n'));
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["jobId"], "j");
        assert_eq!(json["state"], "JOB_STATE_PARTIAL");
        assert_eq!(json["resourcesFailed"], 0);
        assert_eq!(json["errors"], serde_json::json!([]));
        // protobuf's mapping writes 64-bit numbers as strings.
        assert_eq!(json["bytesStored"], "7");
    }
}
