//! One flipped bit in a synced journal: either the daemon says so and does not serve, or everything acknowledged is there.

use std::path::{Path, PathBuf};

use crate::harness::binary::{Binary, Home};
use crate::harness::manifest::{keyed, resource, submission};
use crate::harness::{ask, pb, rounds, seed};

const JOBS: usize = 200;
const DAMAGED: i32 = 65;

/// Jobs acknowledged by a daemon that was then killed: its journal is all there is.
async fn acknowledged(home: &Home) -> Vec<String> {
    let daemon = home.start().await;
    let client = daemon.client().await;
    let pause = pb::ControlQueueRequest { action: pb::ControlAction::Pause.into(), ..Default::default() };
    client.control_queue(pause).await.unwrap();
    let mut jobs = Vec::new();
    for at in 0..JOBS {
        let manifest = submission(&[resource("a", "http://127.0.0.1:9/x"), resource("b", "http://127.0.0.1:9/y")]);
        jobs.push(ask::submit(&client, keyed(manifest, &format!("key {at}"))).await);
    }
    drop(client);
    daemon.kill().await;
    jobs
}

/// The files a crash leaves to be replayed, largest first, each with the bytes that were really written.
fn journals(data: &Path) -> Vec<(PathBuf, usize)> {
    let mut found = Vec::new();
    let mut folders = vec![data.join("db")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "jnl") {
                let bytes = std::fs::read(&path).unwrap();
                let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                found.push((path, written));
            }
        }
    }
    found.sort_by_key(|(_, written)| std::cmp::Reverse(*written));
    found
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy(&entry.path(), &target);
        } else if kind.is_file() {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

async fn serves_everything(daemon: &Binary, jobs: &[String]) -> Result<(), String> {
    let client = daemon.client().await;
    let listed = ask::jobs(&client).await;
    if listed.len() != jobs.len() {
        return Err(format!("lists {} jobs of {}", listed.len(), jobs.len()));
    }
    for job_id in jobs {
        let request = pb::GetJobRequest { job_id: job_id.clone() };
        let found = client.get_job(request.clone()).await.map_err(|error| format!("{job_id}: {error}"))?;
        let manifest = client.get_manifest(request).await.map_err(|error| format!("{job_id}: {error}"))?;
        if found.resources_total != 2 || manifest.resources.len() != 2 {
            return Err(format!("{job_id} is not what was acknowledged"));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_flipped_bit_in_a_synced_journal_is_served_as_if_nothing_were_missing() {
    let mut home = Home::new();
    let jobs = acknowledged(&home).await;
    let original = home.data_dir();
    let files = journals(&original);
    let (journal, written) = files.first().expect("a journal").clone();
    assert!(written > JOBS * 50, "{written} bytes in {}", journal.display());
    let inside = journal.strip_prefix(&original).unwrap().to_owned();

    let mut rng = fastrand::Rng::with_seed(seed());
    let (mut refused, mut served) = (0, 0);
    for flip in 0..rounds("FETCHBOX_FLIPS", 150) {
        let copied = home.path().join(format!("flip{flip}"));
        copy(&original, &copied);
        let victim = copied.join(&inside);
        let mut bytes = std::fs::read(&victim).unwrap();
        let (at, bit) = (rng.usize(..written), rng.u32(..8));
        bytes[at] ^= 1 << bit;
        std::fs::write(&victim, bytes).unwrap();
        home.config.data_dir = copied.clone();
        let place = format!("bit {bit} of byte {at} of {written}");
        match home.try_start().await {
            Ok(daemon) => {
                serves_everything(&daemon, &jobs).await.unwrap_or_else(|lost| panic!("{place}: it serves, but {lost}"));
                daemon.kill().await;
                served += 1;
            }
            Err(ended) => {
                assert_eq!(ended.code, Some(DAMAGED), "{place}: {}", ended.stderr);
                assert!(!ended.stderr.contains("panicked"), "{place}: {}", ended.stderr);
                assert!(ended.stderr.contains("check"), "{place}: no way out is named: {}", ended.stderr);
                refused += 1;
            }
        }
        std::fs::remove_dir_all(&copied).unwrap();
    }
    println!("{refused} refused to start, {served} served everything");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_read_of_a_damaged_directory_is_salvaged_and_the_rest_is_listed() {
    let mut home = Home::new();
    let jobs = acknowledged(&home).await;
    let (journal, written) = journals(&home.data_dir()).first().unwrap().clone();
    let mut bytes = std::fs::read(&journal).unwrap();
    bytes[written * 3 / 4] ^= 0x10;
    std::fs::write(&journal, bytes).unwrap();
    assert_eq!(home.try_start().await.err().expect("it must refuse").code, Some(DAMAGED));

    let checked = home.run(&["check"]).await;
    assert_eq!(checked.status.code(), Some(DAMAGED));
    let saved = home.path().join("saved");
    let salvaged = home.run(&["check", "--salvage", saved.to_str().unwrap()]).await;
    let said = String::from_utf8_lossy(&salvaged.stdout).into_owned();
    assert!(!said.trim().is_empty(), "the salvage says nothing");
    home.config.data_dir = saved;
    let daemon = home.start().await;
    let kept = ask::jobs(&daemon.client().await).await;
    assert!(kept.len() > JOBS / 4 && kept.len() <= JOBS, "{} of {JOBS} jobs were kept", kept.len());
    assert!(kept.iter().all(|job| jobs.contains(&job.job_id)));
    daemon.kill().await;
}
