//! Which multipart uploads are under way: the one request `object_store` has no call for.
//!
//! Owns: ListMultipartUploads, signed by `object_store` itself. Must not know: which of them are ours.

use std::sync::Once;

use bytes::Bytes;
use object_store::aws::AwsAuthorizer;
use object_store::client::{HttpConnector as _, HttpRequest, HttpRequestBody, ReqwestConnector};
use serde::Deserialize;

use super::s3::S3;
use super::{Error, ErrorKind, Place};

/// Pages of a thousand uploads read from one bucket: what is behind them is seen when these are gone.
const PAGES_MAX: usize = 10;

/// An upload somebody has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub place: Place,
    pub upload_id: String,
    /// By the store's clock, Unix ms.
    pub initiated_at_ms: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Page {
    is_truncated: bool,
    next_key_marker: String,
    next_upload_id_marker: String,
    upload: Vec<Entry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Entry {
    key: String,
    upload_id: String,
    initiated: String,
}

/// Below our prefix. None: the store does not know the request.
pub(super) async fn uploads(s3: &S3, bucket: &str) -> Result<Option<Vec<Listed>>, Error> {
    let mut listed = Vec::new();
    let (mut key, mut id) = (String::new(), String::new());
    for _ in 0..PAGES_MAX {
        let Some(bytes) = page(s3, bucket, &key, &id).await? else { return Ok(None) };
        let page = read(&bytes)?;
        listed.extend(page.upload.into_iter().filter_map(|entry| of_entry(bucket, entry)));
        if !page.is_truncated || page.next_key_marker.is_empty() {
            break;
        }
        (key, id) = (page.next_key_marker, page.next_upload_id_marker);
    }
    Ok(Some(listed))
}

fn read(bytes: &[u8]) -> Result<Page, Error> {
    let text = String::from_utf8_lossy(bytes);
    quick_xml::de::from_str(&text).map_err(|error| failed(format!("a list of uploads cannot be read: {error}")))
}

/// An entry without a time is nobody's to judge.
fn of_entry(bucket: &str, entry: Entry) -> Option<Listed> {
    let initiated: jiff::Timestamp = entry.initiated.parse().ok()?;
    Some(Listed {
        place: Place { bucket: bucket.to_owned(), key: entry.key },
        upload_id: entry.upload_id,
        initiated_at_ms: initiated.as_millisecond(),
    })
}

async fn page(s3: &S3, bucket: &str, key_marker: &str, id_marker: &str) -> Result<Option<Bytes>, Error> {
    let options = s3.options();
    let base = match &options.endpoint {
        Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
        None => format!("https://s3.{}.amazonaws.com", options.region),
    };
    let url = url::Url::parse(&format!("{base}/{bucket}")).map_err(|error| failed(error.to_string()))?;
    let mut url = url;
    {
        let mut query = url.query_pairs_mut();
        query.append_pair("uploads", "");
        match options.prefix.trim_matches('/') {
            "" => {}
            prefix => drop(query.append_pair("prefix", &format!("{prefix}/"))),
        }
        if !key_marker.is_empty() {
            query.append_pair("key-marker", key_marker).append_pair("upload-id-marker", id_marker);
        }
    }
    let mut request = HttpRequest::new(HttpRequestBody::empty());
    *request.uri_mut() = url.as_str().parse().map_err(|error| failed(format!("{error}")))?;
    let credential = s3.client(bucket)?.credentials().get_credential().await;
    let credential = credential.map_err(|error| super::s3_error::classify(&error))?;
    let signed = AwsAuthorizer::new(&credential, "s3", &options.region).try_authorize(&mut request, None);
    signed.map_err(|error| super::s3_error::classify(&error))?;
    let client = ReqwestConnector::default().connect(&s3.client_options());
    let client = client.map_err(|error| super::s3_error::classify(&error))?;
    let unavailable = |error: object_store::client::HttpError| Error::new(ErrorKind::Unavailable, error.to_string());
    let answer = client.execute(request).await.map_err(unavailable)?;
    let status = answer.status().as_u16();
    let body = answer.into_body().bytes().await.map_err(unavailable)?;
    match status {
        200 => Ok(Some(body)),
        // A store without this request, or credentials that may not make it: others' uploads stay as they are.
        400 | 403 | 404 | 405 | 501 => {
            static ONCE: Once = Once::new();
            ONCE.call_once(|| {
                tracing::info!(
                    bucket,
                    status,
                    "the store does not list uploads; let it expire unfinished ones by itself"
                );
            });
            Ok(None)
        }
        status => Err(Error::new(ErrorKind::Unavailable, format!("listing uploads of {bucket} was answered {status}"))),
    }
}

fn failed(message: String) -> Error {
    Error::new(ErrorKind::Failed, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_uploads_is_read_as_stores_write_it() {
        let text = r#"<?xml version="1.0" encoding="UTF-8"?>
<ListMultipartUploadsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Bucket>b</Bucket><KeyMarker></KeyMarker>
<NextKeyMarker>k2</NextKeyMarker><NextUploadIdMarker>u2</NextUploadIdMarker><MaxUploads>2</MaxUploads><IsTruncated>true</IsTruncated>
<Upload><Key>a/b &amp; c</Key><UploadId>u1</UploadId><Initiator><ID>x</ID></Initiator><StorageClass>STANDARD</StorageClass>
<Initiated>2010-11-10T20:48:33.000Z</Initiated></Upload>
<Upload><Key>k2</Key><UploadId>u2</UploadId><Initiated>soon</Initiated></Upload></ListMultipartUploadsResult>"#;
        let page = read(text.as_bytes()).unwrap();
        assert!(page.is_truncated);
        assert_eq!((page.next_key_marker.as_str(), page.upload.len()), ("k2", 2));
        let listed: Vec<_> = page.upload.into_iter().filter_map(|entry| of_entry("b", entry)).collect();
        let place = Place { bucket: "b".into(), key: "a/b & c".into() };
        assert_eq!(listed, [Listed { place, upload_id: "u1".into(), initiated_at_ms: 1_289_422_113_000 }]);
        let none = read(b"<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>");
        assert!(none.unwrap().upload.is_empty());
        assert!(read(b"<html>").is_err());
    }
}
