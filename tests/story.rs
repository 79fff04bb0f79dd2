//! `fetchbox job ID --explain` of a resource that was throttled, went through a proxy, broke off, went on and was stored: a person
//! who was not there understands what happened.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::binary::Home;
use crate::harness::manifest::{resource, submission};
use crate::harness::origin::{Behaviour, Origin};
use crate::harness::s3::S3Server;
use crate::harness::{ask, on_s3, pb, set};

const BUCKET: &str = "things";
const BODY: usize = 6_000_000;
const BREAK: usize = 2_500_000;

/// A proxy for plain http: absolute targets in, the same requests out.
async fn plain_proxy() -> (SocketAddr, Arc<AtomicU32>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicU32::new(0));
    let counted = requests.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(relay(client, counted.clone()));
        }
    });
    (addr, requests)
}

async fn relay(client: TcpStream, requests: Arc<AtomicU32>) -> Option<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let mut head = Vec::new();
    let (mut from_origin, mut to_origin) = {
        read_head(&mut from_client, &mut head).await?;
        let text = String::from_utf8_lossy(&head).into_owned();
        let host = text.split("http://").nth(1)?.split('/').next()?.to_owned();
        TcpStream::connect(host).await.ok()?.into_split()
    };
    let answers = tokio::spawn(async move {
        // Whatever ends the origin's side ends the client's.
        let _ = tokio::io::copy(&mut from_origin, &mut to_client).await;
    });
    loop {
        requests.fetch_add(1, Ordering::SeqCst);
        let text = String::from_utf8_lossy(&head).into_owned();
        let (method, rest) = text.split_once(" http://")?;
        let path = rest.find('/').map(|at| &rest[at..])?;
        to_origin.write_all(format!("{method} {path}").as_bytes()).await.ok()?;
        head.clear();
        if read_head(&mut from_client, &mut head).await.is_none() {
            answers.abort();
            return None;
        }
    }
}

async fn read_head(from: &mut tokio::net::tcp::OwnedReadHalf, head: &mut Vec<u8>) -> Option<()> {
    while !head.ends_with(b"\r\n\r\n") {
        head.push(from.read_u8().await.ok()?);
    }
    Some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_a_throttled_proxied_resumed_and_stored_resource_reads_as_a_story() {
    let origin = Origin::start().await;
    let body = || Behaviour::body(BODY, 7).versioned("\"v1\"");
    origin.on_fn("/", move |seen| match seen.hit {
        1 => Behaviour::status(429).header("Retry-After", "1"),
        2 => body().close_after(BREAK),
        _ => body(),
    });
    let (proxy, through) = plain_proxy().await;
    let s3 = S3Server::start(&[BUCKET]).await;
    let mut home = Home::new();
    on_s3(&mut home.config, &s3, BUCKET);
    let pools = format!("{{eu: {{endpoints: ['http://{proxy}']}}}}");
    set(&mut home.config, "proxies", "pools", serde_yaml::from_str::<serde_yaml::Value>(&pools).unwrap());

    let daemon = home.start().await;
    let client = daemon.client().await;
    let hint = serde_json::json!({ "primary_pool": "eu" });
    let wanted = resource("cover", &origin.url("/covers/1.jpg")).with("proxy_hint", hint);
    let job_id = ask::submit(&client, submission(&[wanted])).await;
    let end = ask::end_of(&client, &job_id).await;
    assert_eq!(end.state(), pb::JobState::Completed, "{end:?}");
    assert_eq!(u64::from(through.load(Ordering::SeqCst)), origin.hits_total(), "a request went past the proxy");
    let answers = origin.sent("/covers/1.jpg");
    assert_eq!(answers.last().map(|sent| sent.status), Some(206), "{answers:?}");

    for verb in [vec!["job", &job_id, "--explain"], vec!["job", &job_id, "--explain", "--resource", "cover"]] {
        let output = home.run(&verb).await;
        let story = String::from_utf8(output.stdout).unwrap();
        println!("$ fetchbox {}\n{story}", verb.join(" "));
        assert!(output.status.success());
        // In this order.
        let mut rest = story.as_str();
        for words in ["429", "asked to wait", "Attempt 2", "through proxy eu", "resumed at byte", BUCKET] {
            let Some(at) = rest.find(words) else { panic!("no {words:?} where it should be in\n{story}") };
            rest = &rest[at..];
        }
    }
    drop(client);
    daemon.kill().await;
}
