//! One method per call of joblet's PersistService, which every gRPC listener serves too.
//!
//! Owns: nothing but the list, and how large its messages may be. Must not know: how a call travels.

use tonic::transport::Channel;

use super::{Answers, Client, Error};
use crate::proto::joblet::persist as pb;
use crate::proto::joblet::persist::persist_service_client::PersistServiceClient;

/// joblet's largest record is 128 MiB; around it stand its other fields.
const RECORD_BYTES_MAX: usize = 136 * 1024 * 1024;

/// What a job put out: logs, metric samples, kernel events. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Persist {
    service: PersistServiceClient<Channel>,
}

impl Client {
    /// The same connection, for what jobs put out.
    pub fn persist(&self) -> Persist {
        let service = PersistServiceClient::new(self.channel.clone())
            .max_decoding_message_size(RECORD_BYTES_MAX)
            .max_encoding_message_size(RECORD_BYTES_MAX);
        Persist { service }
    }
}

macro_rules! unary {
    ($($(#[$doc:meta])* $method:ident: $request:ident => $response:ident;)*) => {
        impl Persist {
            $($(#[$doc])*
            pub async fn $method(&self, request: pb::$request) -> Result<pb::$response, Error> {
                Ok(self.service.clone().$method(request).await?.into_inner())
            })*
        }
    };
}

macro_rules! streams {
    ($($(#[$doc:meta])* $method:ident: $request:ident => $item:ident;)*) => {
        impl Persist {
            $($(#[$doc])*
            pub async fn $method(&self, request: pb::$request) -> Result<Answers<pb::$item>, Error> {
                Ok(super::calls::answers(self.service.clone().$method(request).await?.into_inner()))
            })*
        }
    };
}

unary! {
    ping: PingRequest => PingResponse;
    /// Answered after the sync. Not safe to repeat when the answer was lost: ask first what is there.
    append_records: AppendRecordsRequest => AppendRecordsResponse;
    delete_job: DeleteJobRequest => DeleteJobResponse;
    get_job_info: GetJobInfoRequest => GetJobInfoResponse;
    list_jobs: ListJobsRequest => ListJobsResponse;
    get_stats: GetStatsRequest => GetStatsResponse;
    cleanup_old_data: CleanupRequest => CleanupResponse;
}

streams! {
    /// Of a job nobody knows: nothing, and no error. So do all of these.
    query_logs: QueryLogsRequest => LogLine;
    query_metrics: QueryMetricsRequest => Metric;
    query_exec_events: QueryTelemetryRequest => ExecEvent;
    query_connect_events: QueryTelemetryRequest => ConnectEvent;
    query_mmap_events: QueryTelemetryRequest => MmapEvent;
    query_mprotect_events: QueryTelemetryRequest => MprotectEvent;
    query_file_events: QueryTelemetryRequest => FileEvent;
    query_accept_events: QueryTelemetryRequest => AcceptEvent;
    query_socket_data_events: QueryTelemetryRequest => SocketDataEvent;
}
