//! Large objects at once: memory stays what the configuration says, and what is stored is what was sent.

use crate::harness::binary::Home;
use crate::harness::flood::{self, Flood};
use crate::harness::manifest::{resource, submission};
use crate::harness::null_s3::{NullS3, Sum};
use crate::harness::{ask, few_at_once, pb};

const MIB: u64 = 1024 * 1024;
const OBJECTS: u32 = 8;
const BYTES: u64 = 64 * MIB;
/// What the daemon may take besides the buffers the configuration names.
const BASE: u64 = 64 * MIB;

#[tokio::test(flavor = "multi_thread")]
async fn eight_large_objects_at_once_take_the_memory_the_configuration_says_and_arrive_whole() {
    let origin = Flood::start(true).await;
    let s3 = NullS3::start(Sum::Sha256).await;
    let mut home = Home::new();
    let keys = ["id", "secret"].map(|name| home.path().join(name));
    keys.iter().for_each(|file| std::fs::write(file, "any").unwrap());
    let storage = &mut home.config.storage;
    storage.kind = fetchbox::objects::Kind::S3;
    storage.endpoint = Some(s3.endpoint());
    [storage.access_key_id_file, storage.secret_access_key_file] = keys.map(Some);
    few_at_once(&mut home.config, OBJECTS);
    let buffers = u64::from(OBJECTS) * home.config.storage.multipart_bytes;

    let daemon = home.start().await;
    let client = daemon.client().await;
    let name = |at: u32| format!("o{at}");
    let resources: Vec<_> = (0..OBJECTS).map(|at| resource(&name(at), &origin.url(&name(at), BYTES))).collect();
    let job_id = ask::submit(&client, submission(&resources)).await;
    let end = ask::end_of(&client, &job_id).await;
    assert_eq!((end.state(), end.resources_completed), (pb::JobState::Completed, OBJECTS), "{end:?}");

    let told = origin.told();
    assert_eq!(told.len(), OBJECTS as usize, "each body was sent once");
    let objects = s3.objects();
    for (name, bytes, sent) in told {
        assert_eq!(sent, flood::digest(&name, bytes), "the origin sent something else");
        let stored = objects.iter().find(|(key, _)| key.ends_with(&format!("/{name}"))).map(|(_, object)| object);
        let stored = stored.unwrap_or_else(|| panic!("{name} is not in the store: {:?}", objects.keys()));
        assert_eq!((stored.bytes, stored.digest, stored.writes), (bytes, sent, 1), "{name}");
    }
    assert_eq!(s3.open_uploads(), 0);
    let most = daemon.resident_most_bytes();
    println!("{OBJECTS} × {} MiB at once: {} MiB resident at most", BYTES / MIB, most / MIB);
    assert!(most <= BASE + buffers, "{} MiB resident, {} MiB are buffers", most / MIB, buffers / MIB);
    drop(client);
    daemon.kill().await;
}
