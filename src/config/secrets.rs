//! Whether the files with secrets that a configuration names can be used.
//!
//! Owns: asking each room that reads some. Must not know: what they hold. Apart from the other checks because it reads files that
//! only the daemon's user may read: the verbs that look for the daemon's sockets do without it.

use super::Config;
use super::problem::Problem;
use crate::objects::Objects;
use crate::worker::proxy::Proxies;

pub fn problems(config: &Config) -> Vec<Problem> {
    let storage = Objects::secret_faults(&config.storage).into_iter();
    let storage = storage.map(|fault| match fault.split_once(": ") {
        Some((key, why)) => Problem::at(key, why),
        None => Problem::at("storage", fault),
    });
    let proxies = Proxies::secret_faults(&config.proxies).into_iter();
    storage.chain(proxies.map(|fault| Problem::at(format!("proxies.{}", fault.path), fault.message))).collect()
}
