//! Threads that stand back: what is done there gives way to what somebody waits for.
//!
//! Owns: their runtime and their priority. Must not know: what runs on them.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::priority::stand_back;

/// How far they stand back where the cores are all busy: to a third of what a thread that answers gets, and three times what the sealer
/// gets.
const NICE: i32 = 5;

/// A runtime of such threads. Dropped, also within another runtime, it ends without waiting for what still blocks.
pub struct Background {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl Background {
    pub fn start() -> io::Result<Self> {
        let mut runtime = Builder::new_multi_thread();
        let runtime = runtime.enable_all().thread_name("background").on_thread_start(|| stand_back(NICE));
        runtime.build().map(|runtime| Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_machine_answers_before_it_takes_more_output_in() {
        let mine = rustix::process::nice(0).unwrap();
        let background = Background::start().unwrap();
        let theirs = background.handle().spawn(async { rustix::process::nice(0).unwrap() });
        let theirs = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(theirs).unwrap();
        assert_eq!(theirs, (mine + NICE).min(19));
        assert_eq!(rustix::process::nice(0).unwrap(), mine, "this thread stays where it was");
    }
}
