//! What stands beside our figures: Redis with `appendfsync always`, the disk and the machine themselves.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub struct Redis {
    child: Child,
    socket: String,
}

impl Redis {
    /// None when no redis-server is installed.
    pub fn start(dir: &Path) -> Option<Self> {
        let socket = dir.join("redis.sock").display().to_string();
        let child = Command::new("redis-server")
            .args(["--port", "0", "--unixsocket", &socket, "--save", "", "--appendonly", "yes"])
            .args(["--appendfsync", "always", "--auto-aof-rewrite-percentage", "0", "--dir"])
            .arg(dir)
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(5) {
            if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
                return Some(Self { child, socket });
            }
            std::thread::yield_now();
        }
        None
    }

    /// LPUSH of 200 bytes: acknowledgements a second.
    pub fn lpush(&self, connections: usize, pipeline: usize, requests: u64) -> f64 {
        let output = Command::new("redis-benchmark")
            .args(["-s", &self.socket, "-d", "200", "-t", "lpush", "--csv"])
            .args(["-c", &connections.to_string(), "-P", &pipeline.to_string(), "-n", &requests.to_string()])
            .output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with("\"LPUSH\"")).unwrap_or_default();
        line.split(',').nth(1).and_then(|field| field.trim_matches('"').parse().ok()).unwrap_or(0.0)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Appends of 512 bytes, each followed by fdatasync: how many a second.
pub fn raw_syncs(dir: &Path, length: Duration) -> f64 {
    let path = dir.join("raw");
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path).expect("the file opens");
    let begun = Instant::now();
    let mut count = 0u64;
    while begun.elapsed() < length {
        file.write_all_at(&[7; 512], count * 512).and_then(|()| file.sync_data()).expect("the disk takes it");
        count += 1;
    }
    let _ = std::fs::remove_file(path);
    count as f64 / begun.elapsed().as_secs_f64()
}

/// How much later than asked a thread wakes that sleeps a millisecond, by the p99, ms: what the machine itself adds to a wait.
pub fn late_wakes(length: Duration) -> f64 {
    const SLEEP: Duration = Duration::from_millis(1);
    let (begun, mut late) = (Instant::now(), Vec::new());
    while begun.elapsed() < length {
        let asleep = Instant::now();
        std::thread::sleep(SLEEP);
        late.push(asleep.elapsed().saturating_sub(SLEEP).as_secs_f64() * 1e3);
    }
    late.sort_by(f64::total_cmp);
    late.get(late.len() * 99 / 100).copied().unwrap_or(0.0)
}
