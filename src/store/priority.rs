//! How threads whose work nobody waits for stand back behind those that answer.
//!
//! Owns: their priority, and how long they keep a core from others. Must not know: what they do.

use std::cell::Cell;

/// Bytes of records handled before others may have the core: 0.05 to 0.4 ms of work, whatever is done with them. Left to itself, the
/// system lets a thread run until the next tick of its clock, 4 ms on many machines, however low its priority and whoever waits.
pub const GIVE_WAY_BYTES: usize = 64 << 10;

thread_local! {
    static HANDLED: Cell<usize> = const { Cell::new(0) };
}

/// Lowers the priority of this thread by `nice`, where threads have one of their own: whoever answers and commits comes first. Without
/// that, nothing is lost but the order.
pub fn stand_back(nice: i32) {
    if cfg!(target_os = "linux")
        && let Err(error) = rustix::process::nice(nice)
    {
        tracing::debug!(%error, "a thread keeps its priority");
    }
}

/// To be called wherever many records are handled, with the bytes of those that were: every [`GIVE_WAY_BYTES`] whoever waits for this
/// core has it. It costs nothing where nobody does.
pub fn give_way(bytes: usize) {
    let handled = HANDLED.get().saturating_add(bytes);
    if handled >= GIVE_WAY_BYTES {
        HANDLED.set(0);
        std::thread::yield_now();
    } else {
        HANDLED.set(handled);
    }
}
