//! Time and identity: the only file that asks the system for either.
//!
//! Owns: wall time, monotonic time, job ids, randomness. Must not know: what they are used for.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::model::JobId;

/// Where time comes from. Cheap to clone; tests move a manual one by hand.
#[derive(Clone, Debug, Default)]
pub struct Clock(Source);

#[derive(Clone, Debug, Default)]
enum Source {
    #[default]
    System,
    Manual(Arc<Hands>),
}

/// What a manual clock shows.
#[derive(Debug)]
struct Hands {
    wall_ms: AtomicI64,
    steady_ms: AtomicI64,
}

impl Clock {
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `now_ms` until it is moved.
    pub fn manual(now_ms: i64) -> Self {
        Self(Source::Manual(Arc::new(Hands { wall_ms: AtomicI64::new(now_ms), steady_ms: AtomicI64::new(now_ms) })))
    }

    /// Unix milliseconds.
    pub fn now_ms(&self) -> i64 {
        match &self.0 {
            #[expect(clippy::disallowed_methods, reason = "the one place that may")]
            Source::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
                i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
            }
            Source::Manual(at) => at.wall_ms.load(Ordering::Relaxed),
        }
    }

    /// Milliseconds that only grow, whatever becomes of the wall clock: for what is kept in memory alone. They begin near Unix
    /// time and may part from it.
    pub fn steady_ms(&self) -> i64 {
        static BEGUN: OnceLock<(Instant, i64)> = OnceLock::new();
        match &self.0 {
            Source::System => {
                let (begun, begun_ms) = BEGUN.get_or_init(|| (Self::instant(), self.now_ms()));
                begun_ms.saturating_add(i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX))
            }
            Source::Manual(at) => at.steady_ms.load(Ordering::Relaxed),
        }
    }

    /// Moves a manual clock; a system clock does not move for anybody.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(at) = &self.0 {
            let by_ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
            at.wall_ms.fetch_add(by_ms, Ordering::Relaxed);
            at.steady_ms.fetch_add(by_ms, Ordering::Relaxed);
        }
    }

    /// Somebody sets the wall clock of a manual one back.
    #[cfg(test)]
    pub fn set_back(&self, by: Duration) {
        if let Source::Manual(at) = &self.0 {
            at.wall_ms.fetch_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::Relaxed);
        }
    }

    /// For measuring durations only.
    #[expect(clippy::disallowed_methods, reason = "the one place that may")]
    pub fn instant() -> Instant {
        Instant::now()
    }
}

/// Mints job ids: UUIDv7 in shape, and strictly increasing even when the wall clock goes back.
#[derive(Debug)]
pub struct JobIds {
    clock: Clock,
    state: Mutex<MintState>,
}

#[derive(Debug)]
struct MintState {
    last_ms: i64,
    /// 74 random bits of the last id, counted up within one millisecond.
    tail: u128,
    rng: fastrand::Rng,
}

const TAIL_BITS: u32 = 74;

impl JobIds {
    /// Every id minted is greater than `after`: pass the greatest id the store knows.
    #[expect(clippy::disallowed_methods, reason = "the one place that may")]
    pub fn new(clock: Clock, after: JobId) -> Self {
        let last_ms = after.minted_at_ms();
        // One millisecond past the greatest known id: its random tail need not be compared.
        let state = MintState { last_ms, tail: u128::MAX, rng: fastrand::Rng::new() };
        Self { clock, state: Mutex::new(state) }
    }

    pub fn mint(&self) -> JobId {
        let now = self.clock.now_ms();
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // A small random step keeps ids unguessable enough and leaves room for 2^40 ids a millisecond.
        let step = u128::from(state.rng.u32(1..));
        let next = state.tail.saturating_add(step);
        if now > state.last_ms || next >> TAIL_BITS != 0 {
            state.last_ms = now.max(state.last_ms + 1);
            // The top tail bit starts clear so that there is room to count.
            state.tail = state.rng.u128(..) >> (128 - TAIL_BITS + 1);
        } else {
            state.tail = next;
        }
        id_from(state.last_ms, state.tail)
    }
}

/// Lays 48 bits of time and 74 of tail around version 7 and variant 10.
fn id_from(ms: i64, tail: u128) -> JobId {
    let time = u128::from(ms.unsigned_abs() & ((1 << 48) - 1));
    let high = (tail >> 62) & 0xfff;
    let low = tail & ((1 << 62) - 1);
    JobId::from_bytes(((time << 80) | (7 << 76) | (high << 64) | (0b10 << 62) | low).to_be_bytes())
}

/// Uniform in `0.0..1.0`, for jitter.
#[expect(clippy::disallowed_methods, reason = "the one place that may")]
pub fn random_unit() -> f64 {
    fastrand::f64()
}

/// 128 random bits as 32 hexadecimal digits, for idempotency keys and boot ids.
#[expect(clippy::disallowed_methods, reason = "the one place that may")]
pub fn random_token() -> String {
    format!("{:032x}", fastrand::u128(..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_when_the_clock_goes_back_a_year() {
        let clock = Clock::manual(1_800_000_000_000);
        let first = JobIds::new(clock, JobId::MIN).mint();
        let earlier = Clock::manual(1_700_000_000_000);
        let ids = JobIds::new(earlier, first);
        let mut last = first;
        for _ in 0..10_000 {
            let id = ids.mint();
            assert!(id > last, "{id} after {last}");
            last = id;
        }
    }

    #[test]
    fn steady_time_goes_on_when_the_wall_clock_is_set_back() {
        let clock = Clock::manual(1_000);
        clock.set_back(Duration::from_secs(3_600));
        clock.advance(Duration::from_secs(1));
        assert_eq!((clock.now_ms(), clock.steady_ms()), (2_000 - 3_600_000, 2_000));
        let system = Clock::system();
        assert!((system.steady_ms() - system.now_ms()).abs() < 60_000);
    }

    #[test]
    fn an_id_is_a_uuid_of_version_seven() {
        let id = JobIds::new(Clock::manual(1_800_000_000_000), JobId::MIN).mint();
        let uuid = uuid::Uuid::from_bytes(*id.as_bytes());
        assert_eq!(uuid.get_version_num(), 7);
        assert_eq!(uuid.get_variant(), uuid::Variant::RFC4122);
        assert_eq!(id.minted_at_ms(), 1_800_000_000_000);
    }
}
