//! Starts that must not succeed: each ends with its exit code, a message that names the place, and the data as it was.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;

use fetchbox::config::{TcpAt, UnixAt};
use fetchbox::objects::Kind;
use fetchbox::worker::proxy::PoolOptions;

use crate::harness::ask;
use crate::harness::binary::{Home, NotStarted, fetchbox};
use crate::harness::in_time;
use crate::harness::manifest::{resource, submission};

const DAMAGED: Option<i32> = Some(65);
const TEMPORARY: Option<i32> = Some(75);
const CONFIG: Option<i32> = Some(78);

async fn not_started(home: &Home) -> NotStarted {
    match home.try_start().await {
        Ok(daemon) => panic!("it started: {}", daemon.ready_line),
        Err(ended) => {
            assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
            ended
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_one_data_directory_is_kept_out() {
    let home = Home::new();
    let daemon = home.start().await;
    let job_id = ask::submit(&daemon.client().await, submission(&[resource("a", "http://127.0.0.1:9/a")])).await;
    let ended = not_started(&home).await;
    assert_eq!(ended.code, TEMPORARY, "{}", ended.stderr);
    assert!(ended.stderr.contains(home.data_dir().to_str().unwrap()), "{}", ended.stderr);
    let checked = home.run(&["check"]).await;
    assert_eq!(checked.status.code(), TEMPORARY, "check beside a running daemon");
    ask::job(&daemon.client().await, &job_id).await;
    daemon.kill().await;
    home.start().await.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_path_longer_than_the_system_allows_is_named_with_the_limit() {
    let mut home = Home::new();
    home.config.listen.ipc = UnixAt::Path(home.path().join("long".repeat(40)));
    let ended = not_started(&home).await;
    assert_eq!(ended.code, CONFIG, "{}", ended.stderr);
    assert!(ended.stderr.contains("longlong") && ended.stderr.contains("10"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_temporary_and_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    let mut home = Home::new();
    home.config.listen.grpc_tcp = TcpAt::At(at);
    let ended = not_started(&home).await;
    assert_eq!(ended.code, TEMPORARY, "{}", ended.stderr);
    assert!(ended.stderr.contains(&at.to_string()), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_beyond_loopback_is_refused() {
    let mut home = Home::new();
    home.config.listen.http = TcpAt::At("0.0.0.0:0".parse().unwrap());
    let ended = not_started(&home).await;
    assert_eq!(ended.code, CONFIG, "{}", ended.stderr);
    assert!(ended.stderr.contains("loopback"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_socket_and_a_plain_file_are_left_alone() {
    let mut home = Home::new();
    let path = home.path().join("taken.sock");
    let _alive = UnixListener::bind(&path).unwrap();
    home.config.listen.ipc = UnixAt::Path(path.clone());
    assert_eq!(not_started(&home).await.code, TEMPORARY);
    assert!(path.exists());
    let file = home.path().join("precious");
    std::fs::write(&file, "data").unwrap();
    home.config.listen.ipc = UnixAt::Path(file.clone());
    assert_eq!(not_started(&home).await.code, CONFIG);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "data");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_is_a_file_or_cannot_be_written_is_named() {
    let mut home = Home::new();
    let file = home.path().join("file");
    std::fs::write(&file, "").unwrap();
    home.config.data_dir = file;
    assert_eq!(not_started(&home).await.code, CONFIG);

    // The superuser may write anywhere; /proc is a place where even it may not.
    home.config.data_dir = if rustix::process::geteuid().is_root() {
        "/proc/fetchbox".into()
    } else {
        let closed = home.path().join("closed");
        std::fs::create_dir(&closed).unwrap();
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o500)).unwrap();
        closed.join("d")
    };
    let ended = not_started(&home).await;
    assert_eq!(ended.code, CONFIG, "{}", ended.stderr);
    assert!(ended.stderr.contains(home.config.data_dir.to_str().unwrap()), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_of_another_version_is_refused_and_not_touched() {
    let home = Home::new();
    home.start().await.terminate().await;
    let file = version_file(&home);
    let before = std::fs::read_to_string(&file).unwrap();
    let digits: String = before.chars().filter(char::is_ascii_digit).collect();
    std::fs::write(&file, before.replacen(&digits, "999", 1)).unwrap();
    let ended = not_started(&home).await;
    assert_eq!(ended.code, CONFIG, "{}", ended.stderr);
    assert!(ended.stderr.contains("999") && ended.stderr.contains("version"), "{}", ended.stderr);
    std::fs::write(&file, before).unwrap();
    home.start().await.kill().await;
}

fn version_file(home: &Home) -> std::path::PathBuf {
    home.data_dir().join("VERSION")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_mark_or_a_lost_database_is_damage_not_a_fresh_start() {
    let home = Home::new();
    let daemon = home.start().await;
    ask::submit(&daemon.client().await, submission(&[resource("a", "http://127.0.0.1:9/a")])).await;
    daemon.kill().await;
    let (db, aside) = (home.data_dir().join("db"), home.path().join("aside"));
    std::fs::rename(&db, &aside).unwrap();
    let ended = not_started(&home).await;
    assert_eq!(ended.code, DAMAGED, "{}", ended.stderr);
    let _ = std::fs::remove_dir_all(&db);
    std::fs::rename(&aside, &db).unwrap();
    home.start().await.kill().await;
}

async fn config_check(text: &str, environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.yml");
    std::fs::write(&file, text).unwrap();
    let mut command = fetchbox();
    command.args(["config", "check"]).arg(&file).envs(environment.iter().copied());
    let output = in_time("config check", command.output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), said)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_configuration_is_refused_with_its_place() {
    let long = format!("listen:\n  ipc: /{}\n", "x".repeat(200));
    let headers: String = (0..55).map(|at| format!("      X-{at}: a\n")).collect();
    let headers = format!("handlers:\n  photos:\n    headers:\n{headers}");
    let cases: &[(&str, &str)] = &[
        ("data_dir: a\ndata_drr: b\n", ":2:"),
        ("worker:\n  in_flihgt: 3\n", ":2:"),
        ("data_dir: a\ndata_dir: b\n", "data_dir"),
        ("worker: [1, 2]\n", "c.yml:1"),
        ("worker:\n\tx: 1\n", "c.yml:2"),
        ("worker:\n  allow_networks: [not-a-network]\n", "not-a-network"),
        ("listen:\n  http: nowhere\n", "nowhere"),
        ("listen:\n  http: 192.0.2.1:80\n", "listen.http"),
        ("storage:\n  kind: s4\n", "s4"),
        ("storage:\n  bucket: '../x'\n", "bucket"),
        ("storage:\n  kind: s3\n  access_key_id_file: a\n", "secret_access_key_file"),
        ("handlers:\n  photos:\n    handler: nobody\n", "nobody"),
        (&headers, "handlers.photos.headers"),
        (&long, "xxx"),
    ];
    for (text, place) in cases {
        let (code, said) = config_check(text, &[]).await;
        assert_eq!(code, CONFIG, "{text}: {said}");
        assert!(said.contains(place), "{text}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
    let (code, said) =
        config_check("", &[("FETCHBOX__WORKER__NOPE", "1"), ("FETCHBOX__DRAIN_DEADLINE_MS", "soon")]).await;
    assert_eq!(code, CONFIG);
    assert!(said.contains("FETCHBOX__WORKER__NOPE") && said.contains("FETCHBOX__DRAIN_DEADLINE_MS"), "{said}");
    let (code, said) = config_check("data_dir: x\n", &[("FETCHBOX__WORKER__ALLOW_NETWORKS", "[127.0.0.0/8]")]).await;
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_that_are_not_there_are_all_told_and_no_data_directory_is_made_without_them() {
    let mut home = Home::new();
    let (gone, empty) = (home.path().join("gone"), home.path().join("empty"));
    std::fs::write(&empty, "\n").unwrap();
    home.config.storage.kind = Kind::S3;
    home.config.storage.access_key_id_file = Some(gone.clone());
    home.config.storage.secret_access_key_file = Some(empty.clone());
    let pool = PoolOptions {
        endpoints: vec!["http://127.0.0.1:9".to_owned()],
        username_file: Some(empty.clone()),
        password_file: Some(gone.clone()),
        ..PoolOptions::default()
    };
    home.config.proxies.pools.insert("eu".to_owned(), pool);
    let ended = not_started(&home).await;
    assert_eq!(ended.code, CONFIG, "{}", ended.stderr);
    assert!(!home.data_dir().exists(), "made in vain");
    let text = serde_yaml::to_string(&home.config).unwrap();
    let (code, said) = config_check(&text.replace("drain_deadline_ms: ", "drain_deadline_ms: 0 #"), &[]).await;
    assert_eq!(code, CONFIG, "{said}");
    for told in [&ended.stderr, &said] {
        for (key, file) in [
            ("storage.access_key_id_file", &gone),
            ("storage.secret_access_key_file", &empty),
            ("proxies.pools.eu.username_file", &empty),
            ("proxies.pools.eu.password_file", &gone),
        ] {
            assert!(told.contains(&format!("{key}: {}: ", file.display())), "{key}: {told}");
        }
    }
    assert!(said.contains("drain_deadline_ms"), "beside everything else: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verb_without_a_daemon_and_a_wrong_verb_have_their_codes() {
    let home = Home::new();
    let lonely = home.run(&["stats"]).await;
    assert_eq!(lonely.status.code(), TEMPORARY, "{lonely:?}");
    assert!(String::from_utf8_lossy(&lonely.stderr).contains("fetchbox serve"), "{lonely:?}");
    assert_eq!(home.run(&["no-such-verb"]).await.status.code(), Some(64));
    assert_eq!(home.run(&["--help"]).await.status.code(), Some(0));
}
