//! A callback that is called exactly once, whatever happens to whoever holds it.
//!
//! Owns: the promise that each request gets an answer. Must not know: which door asked.

use crate::model::{Refusal, RefusalCode};

struct Guard<T, F: FnOnce(Result<T, Refusal>)> {
    answer: Option<F>,
    _of: std::marker::PhantomData<fn(T)>,
}

impl<T, F: FnOnce(Result<T, Refusal>)> Drop for Guard<T, F> {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            answer(Err(lost()));
        }
    }
}

/// What a client is told when its request was dropped without a decision.
pub(super) fn lost() -> Refusal {
    Refusal::new(
        RefusalCode::Unavailable,
        "the daemon stopped working on this request; it may or may not have been done, send it again with the same \
         idempotency key",
    )
}

/// `answer`, called with UNAVAILABLE when the returned callback is dropped instead of called.
pub(super) fn answer_once<T, F>(answer: F) -> impl FnOnce(Result<T, Refusal>) + Send + 'static
where
    T: 'static,
    F: FnOnce(Result<T, Refusal>) + Send + 'static,
{
    let mut guard = Guard { answer: Some(answer), _of: std::marker::PhantomData };
    move |result| {
        if let Some(answer) = guard.answer.take() {
            answer(result);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_request_that_is_dropped_on_the_way_is_still_answered() {
        let (tell, told) = mpsc::channel();
        let done = answer_once(move |result: Result<u32, Refusal>| tell.send(result).unwrap());
        drop(done);
        assert_eq!(told.recv().unwrap().unwrap_err().code, RefusalCode::Unavailable);
        assert!(told.recv().is_err(), "answered twice");
    }

    #[test]
    fn an_answered_request_is_answered_once() {
        let (tell, told) = mpsc::channel();
        answer_once(move |result: Result<u32, Refusal>| tell.send(result).unwrap())(Ok(7));
        assert_eq!(told.recv().unwrap().unwrap(), 7);
        assert!(told.recv().is_err());
    }
}
