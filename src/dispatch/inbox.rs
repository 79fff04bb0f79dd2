//! What others leave for the loop: small, merged, never a queue.
//!
//! Must not know: the loop.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Merged news since the loop looked last.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// A task became due at this time by a verb of the handle.
    pub due_at_ms: Option<i64>,
    pub controls: bool,
}

#[derive(Debug, Default)]
pub(super) struct Inbox {
    news: Mutex<News>,
    bell: Notify,
}

impl Inbox {
    /// Something changed that the loop can see by itself.
    pub fn poke(&self) {
        self.bell.notify_one();
    }

    pub fn due_at(&self, at_ms: i64) {
        let mut news = self.news();
        news.due_at_ms = Some(news.due_at_ms.map_or(at_ms, |earlier| earlier.min(at_ms)));
        drop(news);
        self.poke();
    }

    pub fn controls_changed(&self) {
        self.news().controls = true;
        self.poke();
    }

    pub fn take(&self) -> News {
        std::mem::take(&mut *self.news())
    }

    pub async fn rung(&self) {
        self.bell.notified().await;
    }

    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
