//! Downloads over HTTP/2 from an origin that speaks TLS on loopback.

use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Request, Response, Version, header};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::tests::origin::seeded;
use super::trap_test::{Bench, read};
use super::*;

const MIB: usize = 1024 * 1024;

/// For origin.example, valid for a hundred years and worth nothing.
const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----\n\
    MIIBoTCCAUegAwIBAgIUYASAlmbuG2KGbKKFbBV6095/UxMwCgYIKoZIzj0EAwIw\n\
    GTEXMBUGA1UEAwwOb3JpZ2luLmV4YW1wbGUwIBcNMjYxMTIxMDY1MDE3WhgPMjEy\n\
    NjEwMjgwNjUwMTdaMBkxFzAVBgNVBAMMDm9yaWdpbi5leGFtcGxlMFkwEwYHKoZI\n\
    zj0CAQYIKoZIzj0DAQcDQgAEFu4eUVVCv7vJWBSD1ReBr3jbcNFyAD/Iwpmnm9uG\n\
    4cvZTm/RTJ4SaXDATlsyJ/jxP1d1Y9v0RsXFiWIwraWBT6NrMGkwHQYDVR0OBBYE\n\
    FATQ8fPAXnY2mD/NU39Xu0+A6kd7MB8GA1UdIwQYMBaAFATQ8fPAXnY2mD/NU39X\n\
    u0+A6kd7MBkGA1UdEQQSMBCCDm9yaWdpbi5leGFtcGxlMAwGA1UdEwEB/wQCMAAw\n\
    CgYIKoZIzj0EAwIDSAAwRQIhAKqijNMd1hUEGrXkvE7uKq/68cDV0Qi4hm9V/VC4\n\
    zcQOAiBguZYay+C/UPUsc9kMaNZbVWGPrZz6IzN+z/a8cJ6D3Q==\n\
    -----END CERTIFICATE-----\n";
const KEY: &[u8] = b"-----BEGIN PRIVATE KEY-----\n\
    MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgE68joxHxb0tc4vuS\n\
    43SeervTt1QrB+cz0tnI6bx0jm2hRANCAAQW7h5RVUK/u8lYFIPVF4GveNtw0XIA\n\
    P8jCmaeb24bhy9lOb9FMnhJpcMBOWzIn+PE/V3Vj2/RGxcWJYjCtpYFP\n\
    -----END PRIVATE KEY-----\n";

/// The body with an ETag; a first answer resets its stream half-way, a range brings the rest.
async fn answer(
    request: Request<Incoming>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = io::Error>>, Infallible> {
    assert_eq!(request.version(), Version::HTTP_2);
    let body = seeded(2 * MIB, 9);
    let range = request.headers().get(header::RANGE).and_then(|range| range.to_str().ok()?.get(6..)?.strip_suffix('-'));
    let from: Option<usize> = range.and_then(|from| from.parse().ok());
    let response = Response::builder().header(header::ETAG, "\"v1\"");
    let (response, start, end) = match from {
        Some(from) => {
            let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
            (response.status(206).header(header::CONTENT_RANGE, range), from, body.len())
        }
        None => (response, 0, MIB),
    };
    let pieces: Vec<io::Result<Bytes>> =
        body[start..end].chunks(64 * 1024).map(|p| Ok(Bytes::copy_from_slice(p))).collect();
    let breaks = (from.is_none()).then(|| Err(io::Error::other("the origin broke")));
    let pieces = stream::iter(pieces.into_iter().chain(breaks)).map(|piece| piece.map(Frame::data));
    Ok(response.body(StreamBody::new(pieces)).unwrap())
}

#[tokio::test]
async fn a_stream_that_is_reset_goes_on_over_the_same_connection() {
    objects::install_tls_provider();
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE).unwrap();
    let key = PrivateKeyDer::from_pem_slice(KEY).unwrap();
    let tls = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key);
    let mut tls = tls.unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let tls = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicU32::new(0));
    let counted = connections.clone();
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            let stream = TokioIo::new(tls.accept(stream).await.unwrap());
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(stream, hyper::service::service_fn(answer)).await;
        }
    });

    let bench = Bench::trusting(CERTIFICATE).await;
    bench.trap.name("origin.example", &[&["127.0.0.1"]]);
    let spec = TaskSpec { url: format!("https://origin.example:{port}/x"), ..TaskSpec::default() };
    let mut fetched = bench.ask(&spec).await.unwrap();
    assert!(read(&mut fetched).await.1.unwrap() == seeded(2 * MIB, 9));
    let context = fetched.context();
    assert_eq!((context["http"].as_str(), context["resumes"].as_str()), ("2", "1"));
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}
