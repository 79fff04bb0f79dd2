//! One line of a file: a record as JSON, with the field names of joblet's messages.
//!
//! Owns: both directions, and what older versions called things. Must not know: files, gzip, the daemon.

use std::borrow::Cow;
use std::fmt;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, SerializeOptions};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::layout::FileKind;
use crate::model::JobName;
use crate::proto::joblet::{ipc, persist};
use crate::proto::{self};

static POOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| DescriptorPool::decode(proto::DESCRIPTORS).ok());

/// A record of one job and kind. Two are the same record if they are equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Unix nanoseconds.
    pub timestamp: i64,
    pub sequence: u64,
    /// Of a log its bytes; else the message of `joblet.ipc`, encoded with its job's name.
    pub data: Vec<u8>,
}

/// Why a line is no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine(pub String);

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn bad(why: impl fmt::Display) -> BadLine {
    BadLine(why.to_string())
}

/// Order and names as joblet writes them; zero values are left out.
#[derive(Serialize)]
struct LogOut<'a> {
    job_uuid: &'a str,
    stream: i32,
    #[serde(skip_serializing_if = "is_zero")]
    timestamp: i64,
    #[serde(skip_serializing_if = "is_none_of_it")]
    sequence: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    content: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands references over")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands references over")]
fn is_none_of_it(number: &u64) -> bool {
    *number == 0
}

/// Which stream it is says its file. Zero values are left out, so all that a record must have is its job.
#[derive(Deserialize)]
struct LogIn<'a> {
    #[serde(borrow, default)]
    job_uuid: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    job_id: Option<Cow<'a, str>>,
    #[serde(default)]
    timestamp: i64,
    #[serde(default)]
    sequence: u64,
    #[serde(borrow, default)]
    content: Option<Cow<'a, str>>,
}

/// A message's own time and count, and itself again as we write it: fields this version does not know are gone.
macro_rules! settled {
    ($message:ident, $bytes:expr, $job:expr) => {{
        let mut message = ipc::$message::decode($bytes).map_err(bad)?;
        message.job_uuid = $job.as_str().to_owned();
        (message.timestamp, message.sequence, message)
    }};
}

impl Entry {
    /// From the message of `joblet.ipc` that belongs to the kind. Not for logs.
    pub fn of_message(kind: FileKind, job: &JobName, bytes: &[u8]) -> Result<Self, BadLine> {
        macro_rules! entry {
            ($message:ident) => {{
                let (timestamp, sequence, message) = settled!($message, bytes, job);
                Entry { timestamp, sequence, data: message.encode_to_vec() }
            }};
        }
        Ok(match kind {
            FileKind::Stdout | FileKind::Stderr => return Err(bad("a log is no message")),
            FileKind::Metrics => {
                let (timestamp, sequence, mut message) = settled!(Metric, bytes, job);
                // Every answer about metrics carries data: a sample without any is one with nothing in it.
                message.data.get_or_insert_default();
                Entry { timestamp, sequence, data: message.encode_to_vec() }
            }
            FileKind::Exec => entry!(ExecEvent),
            FileKind::Connect => entry!(ConnectEvent),
            FileKind::File => entry!(FileEvent),
            FileKind::Accept => entry!(AcceptEvent),
            FileKind::SocketData => entry!(SocketDataEvent),
            FileKind::Mmap => entry!(MmapEvent),
            FileKind::Mprotect => entry!(MprotectEvent),
        })
    }

    /// From a line without its end.
    pub fn parse(kind: FileKind, job: &JobName, line: &[u8]) -> Result<Self, BadLine> {
        match kind {
            FileKind::Stdout | FileKind::Stderr => {
                // A list would do as well for serde.
                if !line.trim_ascii_start().starts_with(b"{") {
                    return Err(no_json(line, &"no JSON object"));
                }
                let log: LogIn<'_> = serde_json::from_slice(line).map_err(|error| no_json(line, &error))?;
                if [&log.job_uuid, &log.job_id].into_iter().flatten().all(|job| job.is_empty()) {
                    return Err(no_json(line, &NO_JOB));
                }
                let content = log.content.unwrap_or_default();
                let data =
                    STANDARD.decode(content.as_bytes()).map_err(|error| bad(format_args!("content: {error}")))?;
                Ok(Self { timestamp: log.timestamp, sequence: log.sequence, data })
            }
            other => {
                let mut fields: Map<String, Value> =
                    serde_json::from_slice(line).map_err(|error| no_json(line, &error))?;
                if !modernize(other, &mut fields) {
                    return Err(no_json(line, &NO_JOB));
                }
                let descriptor = descriptor(other)?;
                let options = DeserializeOptions::new().deny_unknown_fields(false);
                let message = DynamicMessage::deserialize_with_options(descriptor, Value::Object(fields), &options)
                    .map_err(bad)?;
                Self::of_message(other, job, &message.encode_to_vec())
            }
        }
    }

    /// Appends the line with its end.
    pub fn write(&self, kind: FileKind, job: &JobName, into: &mut Vec<u8>) -> Result<(), BadLine> {
        match kind {
            FileKind::Stdout | FileKind::Stderr => {
                let line = LogOut {
                    job_uuid: job.as_str(),
                    stream: kind.stream() as i32,
                    timestamp: self.timestamp,
                    sequence: self.sequence,
                    content: STANDARD.encode(&self.data),
                };
                serde_json::to_writer(&mut *into, &line).map_err(bad)?;
            }
            other => {
                let message = DynamicMessage::decode(descriptor(other)?, self.data.as_slice()).map_err(bad)?;
                let options = SerializeOptions::new()
                    .use_proto_field_name(true)
                    .stringify_64_bit_integers(false)
                    .use_enum_numbers(true)
                    .skip_default_fields(true);
                message.serialize_with_options(&mut serde_json::Serializer::new(&mut *into), &options).map_err(bad)?;
            }
        }
        into.push(b'\n');
        Ok(())
    }

    /// As the daemon takes it.
    pub fn record(self, kind: FileKind) -> persist::OutputRecord {
        persist::OutputRecord {
            r#type: u32::try_from(kind.message_type() as i32).unwrap_or_default(),
            timestamp: self.timestamp,
            sequence: self.sequence,
            stream: kind.stream() as i32,
            data: self.data,
        }
    }
}

/// Every version writes one of the two. Whose record it is says the folder all the same: folders can be renamed.
const NO_JOB: &str = "neither job_uuid nor job_id";

/// What stands in a line that is none, its beginning only: it may be megabytes of noise.
fn no_json(line: &[u8], error: &dyn fmt::Display) -> BadLine {
    const SHOWN_BYTES: usize = 40;
    let shown = line.get(..SHOWN_BYTES.min(line.len())).unwrap_or_default();
    bad(format_args!("{error}, in {:?}", String::from_utf8_lossy(shown)))
}

/// Names that other versions used. False: no version wrote this.
fn modernize(kind: FileKind, fields: &mut Map<String, Value>) -> bool {
    let jobs = [fields.remove("job_id"), fields.remove("job_uuid")];
    if kind == FileKind::SocketData {
        for (other, ours) in [("dst_addr", "addr"), ("dst_port", "port")] {
            if let Some(value) = fields.remove(other) {
                fields.entry(ours).or_insert(value);
            }
        }
    }
    jobs.iter().flatten().any(|job| job.as_str().is_some_and(|job| !job.is_empty()))
}

fn descriptor(kind: FileKind) -> Result<prost_reflect::MessageDescriptor, BadLine> {
    let name = match kind {
        FileKind::Stdout | FileKind::Stderr => "joblet.ipc.LogLine",
        FileKind::Metrics => "joblet.ipc.Metric",
        FileKind::Exec => "joblet.ipc.ExecEvent",
        FileKind::Connect => "joblet.ipc.ConnectEvent",
        FileKind::File => "joblet.ipc.FileEvent",
        FileKind::Accept => "joblet.ipc.AcceptEvent",
        FileKind::SocketData => "joblet.ipc.SocketDataEvent",
        FileKind::Mmap => "joblet.ipc.MmapEvent",
        FileKind::Mprotect => "joblet.ipc.MprotectEvent",
    };
    POOL.as_ref().and_then(|pool| pool.get_message_by_name(name)).ok_or_else(|| bad(format_args!("no type {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> JobName {
        JobName::parse("j1").unwrap()
    }

    fn text(entry: &Entry, kind: FileKind) -> String {
        let mut line = Vec::new();
        entry.write(kind, &job(), &mut line).unwrap();
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_log_line_of_either_version_is_read_and_written_as_joblet_does() {
        for key in ["job_id", "job_uuid"] {
            let line = format!(r#"{{"{key}":"j1","stream":1,"timestamp":7000000000,"sequence":3,"content":"aGkK"}}"#);
            let entry = Entry::parse(FileKind::Stdout, &job(), line.as_bytes()).unwrap();
            assert_eq!(entry, Entry { timestamp: 7_000_000_000, sequence: 3, data: b"hi\n".to_vec() });
            let written = r#"{"job_uuid":"j1","stream":1,"timestamp":7000000000,"sequence":3,"content":"aGkK"}"#;
            assert_eq!(text(&entry, FileKind::Stdout), format!("{written}\n"));
        }
    }

    #[test]
    fn zero_values_are_left_out_and_found_again() {
        let nothing = Entry::parse(FileKind::Stderr, &job(), br#"{"job_id":"j1"}"#).unwrap();
        assert_eq!(nothing, Entry { timestamp: 0, sequence: 0, data: Vec::new() });
        assert_eq!(text(&nothing, FileKind::Stderr), "{\"job_uuid\":\"j1\",\"stream\":2}\n");
    }

    #[test]
    fn any_bytes_survive() {
        let all: Vec<u8> = (0..=255).collect();
        let entry = Entry { timestamp: i64::MAX, sequence: u64::MAX, data: all };
        let line = text(&entry, FileKind::Stdout);
        assert_eq!(Entry::parse(FileKind::Stdout, &job(), line.trim_end().as_bytes()).unwrap(), entry);
    }

    #[test]
    fn metrics_and_events_keep_every_field_in_joblets_names() {
        let cases = [
            (
                FileKind::Metrics,
                r#"{"job_uuid":"j1","timestamp":9223372036854775807,"sequence":1,"data":{"cpu_usage":0.25,"memory_usage":1048576,"disk_io":{"read_bytes":9007199254740993},"network_io":{}}}"#,
            ),
            (
                FileKind::Exec,
                r#"{"job_uuid":"j1","timestamp":5,"sequence":18446744073709551615,"pid":7,"ppid":1,"comm":"sh","filename":"/bin/sh","args":["sh","-c","\u0001"]}"#,
            ),
            (
                FileKind::SocketData,
                r#"{"job_uuid":"j1","timestamp":5,"pid":7,"direction":"send","addr":"10.0.0.1","port":80,"protocol":"tcp","bytes":512}"#,
            ),
            (FileKind::Mmap, r#"{"job_uuid":"j1","addr":18446744073709551615,"length":4096,"prot":5,"flags":2}"#),
        ];
        for (kind, line) in cases {
            let entry = Entry::parse(kind, &job(), line.as_bytes()).unwrap();
            assert_eq!(text(&entry, kind), format!("{line}\n"));
        }
    }

    #[test]
    fn a_sample_without_data_is_one_with_nothing_in_it() {
        let entry = Entry::parse(FileKind::Metrics, &job(), br#"{"job_id":"j1","timestamp":5}"#).unwrap();
        assert_eq!(text(&entry, FileKind::Metrics), "{\"job_uuid\":\"j1\",\"timestamp\":5,\"data\":{}}\n");
    }

    #[test]
    fn what_is_no_record_says_why() {
        let why = |kind, line: &[u8]| Entry::parse(kind, &job(), line).unwrap_err().0;
        assert!(why(FileKind::Stdout, b"not json at all").contains("not json at all"));
        assert!(why(FileKind::Stdout, br#"{"job_id":"j1","content":"*"}"#).contains("content:"));
        assert!(!why(FileKind::Exec, br#"{"job_id":"j1","pid":"many"}"#).is_empty());
        assert!(!why(FileKind::Metrics, b"[]").is_empty());
        for line in [&b"[]"[..], br#"["j1",1,2,"aGkK"]"#, b"null", b"7"] {
            assert!(why(FileKind::Stdout, line).contains("no JSON object"));
        }
        for line in [&b"{}"[..], br#"{"timestamp":1}"#, br#"{"job_id":""}"#, br#"{"other":1,"sequence":2}"#] {
            assert!(why(FileKind::Stdout, line).contains("job_uuid"));
            assert!(why(FileKind::Metrics, line).contains("job_uuid"));
        }
        assert!(!why(FileKind::Stdout, br#"{"job_id":7}"#).is_empty());
        assert!(!why(FileKind::Mmap, br#"{"job_id":7}"#).is_empty());
        let long = vec![b'x'; 1 << 20];
        assert!(why(FileKind::Stdout, &long).len() < 200, "a bad line is told, not repeated");
    }
}
