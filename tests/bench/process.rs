//! What the kernel says about a process: processor time, memory, and when it ended.

use std::process::Child;
use std::time::{Duration, Instant};

/// Linux counts in hundredths of a second, whatever the machine.
const TICKS_PER_SECOND: f64 = 100.0;

/// Resident bytes now and at their highest.
pub fn memory(pid: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0)
    };
    (kib("VmRSS:") << 10, kib("VmHWM:") << 10)
}

/// State letter, and processor seconds in user and kernel mode together.
fn stat(pid: u32) -> (char, f64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything.
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    let state = fields.first().and_then(|state| state.chars().next()).unwrap_or('?');
    (state, (ticks(11) + ticks(12)) / TICKS_PER_SECOND)
}

pub fn cpu_seconds(pid: u32) -> f64 {
    stat(pid).1
}

/// What one run took.
#[derive(Clone, Copy, Default)]
pub struct Cost {
    pub seconds: f64,
    pub cpu_seconds: f64,
    pub peak_bytes: u64,
}

/// Waits for a child's end, `begun` its beginning. Its figures are read while it is a zombie: then they are final. False: it failed.
pub fn to_the_end(mut child: Child, begun: Instant) -> (Cost, bool) {
    let pid = child.id();
    let mut cost = Cost::default();
    loop {
        let (state, cpu_seconds) = stat(pid);
        cost.peak_bytes = cost.peak_bytes.max(memory(pid).1);
        if matches!(state, 'Z' | 'X' | '?') {
            cost.seconds = begun.elapsed().as_secs_f64();
            cost.cpu_seconds = cpu_seconds;
            return (cost, child.wait().is_ok_and(|status| status.success()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
