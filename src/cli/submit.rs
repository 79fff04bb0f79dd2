//! `submit`: a manifest from a file to a job id.
//!
//! Owns: reading JSON and YAML manifests, the command's own retries under one idempotency key. Must not know: what makes a
//! manifest valid; the daemon says so.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use super::args::{Global, Submit};
use super::exit::{Exit, Failure, Result};
use super::out::Out;
use super::{connect, show, watch, wire, words};
use crate::clock;

/// The daemon takes 5 MB; YAML with comments may be larger than the JSON it becomes.
const FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Tries of one submission, all under the same key. Their waits add up to about six seconds.
const TRIES_MAX: u32 = 6;

pub async fn run(global: &Global, args: Submit, out: Out) -> Result {
    let manifest = read(&args.file)?;
    let source = if args.gzip {
        wire::submit_job_request::Source::ManifestJsonGzip(gzip(&manifest)?)
    } else {
        wire::submit_job_request::Source::ManifestJson(manifest)
    };
    let request = wire::SubmitJobRequest {
        job_type: args.job_type,
        tenant: args.tenant,
        idempotency_key: args.idempotency_key.unwrap_or_else(clock::random_token),
        source: Some(source),
        trace_parent: String::new(),
        priority: wire::Priority::from(args.priority) as i32,
    };
    if args.validate {
        return validate(global, request, out).await;
    }
    let accepted = submit(global, request).await?;
    if out.is_json() {
        out.json(&accepted)?;
    } else {
        let earlier = if accepted.duplicate { " (accepted earlier)" } else { "" };
        let resources = words::count(accepted.resource_count.into(), "resource");
        out.line(format_args!("job {}  {resources}{earlier}", accepted.job_id))?;
    }
    if !args.watch {
        return Ok(());
    }
    let client = connect::grpc(global).await?;
    let last = watch::follow(client, global, &accepted.job_id, out).await?;
    if !out.is_json() {
        out.line(show::job(&last))?;
    }
    wire::verdict(&last)
}

/// Through the native socket where it is known, else by gRPC.
async fn submit(global: &Global, request: wire::SubmitJobRequest) -> Result<wire::SubmitJobResponse> {
    let doors = connect::doors(global)?;
    let mut tries = 0;
    loop {
        tries += 1;
        let result = match &doors.ipc {
            Some(path) => {
                let client = connect::ipc(path).await?;
                client.submit(request.clone()).await
            }
            None => connect::grpc(global).await?.submit_job(request.clone()).await,
        };
        let error = match result {
            Ok(accepted) => return Ok(accepted),
            Err(error) => error,
        };
        // 0.1 s, 0.2 s, … 3.2 s, each with half of it random; the same key makes the retry harmless.
        let backoff = Duration::from_millis(100 << tries).mul_f64(0.5 + clock::random_unit() / 2.0);
        if !error.retryable() || tries == TRIES_MAX || error.retry_after().is_some_and(|wait| wait > backoff * 4) {
            return Err(connect::refused(error));
        }
        tokio::time::sleep(error.retry_after().unwrap_or_default().max(backoff)).await;
    }
}

async fn validate(global: &Global, request: wire::SubmitJobRequest, out: Out) -> Result {
    let client = connect::grpc(global).await?;
    let reply = client.validate_manifest(request).await.map_err(connect::refused)?;
    if out.is_json() {
        out.json(&reply)?;
    } else if reply.valid {
        out.line(format_args!("valid: {}", words::count(reply.tasks.len() as u64, "resource")))?;
        for task in &reply.tasks {
            out.line(format_args!("  {} -> {}/{}", words::tame(&task.resource_id), task.bucket, task.key))?;
        }
    } else {
        out.line(format_args!("not valid: {}", words::count(reply.violations.len() as u64, "problem")))?;
        for violation in &reply.violations {
            out.line(format_args!("  {}: {}", words::tame(&violation.path), words::tame(&violation.message)))?;
        }
    }
    if reply.valid { Ok(()) } else { Err(Failure::silent(Exit::Failed)) }
}

/// The manifest as JSON; a JSON file byte for byte.
fn read(path: &Path) -> Result<Vec<u8>> {
    let (name, bytes) = if path == Path::new("-") {
        ("standard input".to_owned(), bounded(std::io::stdin().lock()))
    } else {
        (path.display().to_string(), std::fs::File::open(path).and_then(bounded))
    };
    let bytes = bytes.map_err(|error| Failure::failed(format_args!("{name}: {error}")))?;
    to_json(bytes).map_err(|message| Failure::failed(format_args!("{name}: {message}")))
}

fn bounded(from: impl std::io::Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("is larger than {}", words::bytes(FILE_BYTES_MAX))));
    }
    Ok(bytes)
}

/// JSON stays as it is, so that metadata reaches the daemon verbatim; anything else is read as YAML.
fn to_json(bytes: Vec<u8>) -> std::result::Result<Vec<u8>, String> {
    let Err(not_json) = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes) else { return Ok(bytes) };
    let text = std::str::from_utf8(&bytes).map_err(|error| format!("is not UTF-8: {error}"))?;
    match serde_yaml::from_str::<serde_yaml::Value>(text) {
        Ok(value @ serde_yaml::Value::Mapping(_)) if !text.trim_start().starts_with('{') => {
            serde_json::to_vec(&value).map_err(|error| format!("cannot be written as JSON: {error}"))
        }
        // What opens like JSON was meant as JSON: its own message says more.
        _ if text.trim_start().starts_with('{') => Err(not_json.to_string()),
        Ok(_) => Err("is not a manifest: a mapping with manifest_version and resources".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_manifest_is_sent_byte_for_byte() {
        let json = br#"{ "metadata": {"n": 1.0e2, "b":1, "a":2} }"#.to_vec();
        assert_eq!(to_json(json.clone()).unwrap(), json);
    }

    #[test]
    fn a_yaml_manifest_becomes_json_in_the_same_order() {
        let yaml = b"# mine\nmanifest_version: v1\nresources:\n  - id: a\n    url: http://x/\n".to_vec();
        let json = String::from_utf8(to_json(yaml).unwrap()).unwrap();
        assert_eq!(json, r#"{"manifest_version":"v1","resources":[{"id":"a","url":"http://x/"}]}"#);
    }

    #[test]
    fn a_broken_manifest_is_told_with_its_line() {
        assert!(to_json(b"{\n \"a\": ,\n}".to_vec()).unwrap_err().contains("line 2"));
        assert!(to_json(b"a: 1\na: 2\n".to_vec()).unwrap_err().contains("duplicate"));
        assert!(to_json(b"just words".to_vec()).unwrap_err().contains("manifest"));
        assert!(to_json(vec![0xff, 0xfe]).unwrap_err().contains("UTF-8"));
    }
}
