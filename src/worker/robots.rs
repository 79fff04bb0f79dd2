//! Whether a site wants to be downloaded from: its robots.txt, kept for a while.
//!
//! Owns: reading it through the same checks as any download, and the bounded memory of it. Must not know: what its rules mean.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::classify::Failed;
use super::errand::{Asked, Errand, Step};
use super::headers;
use super::rules::{Rules, product_of};
use super::target::Target;
use crate::model::{FailureCode, ProxyHint, RetryClass};

/// The standard asks for at least 500 KiB; what follows is not read.
const TEXT_BYTES_MAX: usize = 512 * 1024;
/// For its body; until its headers are there the limits are those of any request.
const READ_MAX: Duration = Duration::from_secs(10);
/// As the standard asks; one more and the site counts as one without rules.
const REDIRECTS_MAX: usize = 5;
const KEPT_MS: i64 = 3_600_000;
/// A site whose rules cannot be had is asked again after this.
const FAILURE_KEPT_MS: i64 = 300_000;
/// Sites remembered, and what their rules may take together: most are a few hundred bytes, a hostile one is a megabyte.
const SITES_MAX: usize = 10_000;
const BYTES_MAX: usize = 32 * 1024 * 1024;

pub(super) struct Robots {
    user_agent: String,
    product: String,
    sites: Mutex<Sites>,
}

#[derive(Default)]
struct Sites {
    known: HashMap<String, Site>,
    bytes: usize,
    /// Counts uses, to tell the least recently used.
    uses: u64,
}

struct Site {
    /// One reader of a site at a time; the others take what it found.
    slot: Arc<Slot>,
    bytes: usize,
    used: u64,
}

type Slot = tokio::sync::Mutex<Option<Kept>>;

#[derive(Clone)]
struct Kept {
    until_ms: i64,
    said: Result<Arc<Rules>, (FailureCode, String)>,
}

impl Robots {
    pub(super) fn new(user_agent: &str) -> Self {
        Self { user_agent: user_agent.to_owned(), product: product_of(user_agent), sites: Mutex::default() }
    }

    /// `Err`: the site does not want it, or whether it does cannot be known now.
    pub(super) async fn permits(&self, errand: &mut Errand<'_>, target: &Target) -> Result<(), Failed> {
        let origin = site_by(target, errand.spec.proxy_hint.as_ref());
        let slot = self.slot(&origin);
        // Who reads for all may be waiting for a place that those who wait here hold, so nobody waits for ever.
        let mut held = tokio::time::timeout(READ_MAX, slot.lock()).await.ok();
        let now_ms = errand.worker.clock.now_ms();
        let known = held.as_ref().and_then(|kept| kept.as_ref()).filter(|kept| now_ms < kept.until_ms).cloned();
        let kept = match known {
            Some(kept) => kept,
            None => {
                let kept = self.read(errand, target, now_ms).await?;
                if let Some(held) = held.as_mut() {
                    **held = Some(kept.clone());
                    self.note(&origin, kept.said.as_ref().map_or(0, |rules| rules.bytes()));
                }
                kept
            }
        };
        match kept.said {
            Ok(rules) => {
                let url = target.url();
                let path = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
                rules.forbids(&path).map_or(Ok(()), |rule| {
                    let failed = Failed::new(FailureCode::DownloadRobots, "the site's robots.txt does not allow it");
                    Err(failed.with("rule", rule))
                })
            }
            Err((code, message)) => {
                let wait = u64::try_from(kept.until_ms.saturating_sub(now_ms)).map(Duration::from_millis);
                Err(Failed { retry_after: wait.ok(), ..Failed::new(code, message) })
            }
        }
    }

    /// What is worth remembering; `Err` is not: it is about this task, or the host's gate remembers it.
    async fn read(&self, errand: &mut Errand<'_>, target: &Target, now_ms: i64) -> Result<Kept, Failed> {
        let kept = |said, for_ms| Ok(Kept { until_ms: now_ms.saturating_add(for_ms), said });
        let failed = match self.text(errand, target).await {
            Ok(text) => return kept(Ok(Arc::new(Rules::parse(&text, &self.product))), KEPT_MS),
            Err(failed) => failed,
        };
        let code = failed.failure.code;
        let told = |failed: Failed| Failed {
            retry_after: failed.retry_after,
            ..Failed::new(code, format!("its robots.txt: {}", failed.failure.message))
        };
        match code {
            FailureCode::DownloadBlockedAddress | FailureCode::DownloadHostDown | FailureCode::DownloadThrottled => {
                Err(told(failed))
            }
            FailureCode::DownloadUnexpectedStatus => kept(Ok(Arc::default()), KEPT_MS),
            // 4xx, a redirect to nowhere, an encoding nobody asked for: a site without rules.
            _ if code.class() == RetryClass::Permanent => kept(Ok(Arc::default()), KEPT_MS),
            // Another proxy, or the same one in a moment, may well bring them.
            _ if errand.spec.proxy_hint.is_some() && code.class() != RetryClass::Permanent => Err(told(failed)),
            _ => kept(Err((code, told(failed).failure.message)), FAILURE_KEPT_MS),
        }
    }

    // Boxed by hand: it is rare, and an errand that may run it would be twice as large.
    fn text<'s>(
        &'s self,
        errand: &'s mut Errand<'_>,
        target: &'s Target,
    ) -> Pin<Box<dyn Future<Output = Result<String, Failed>> + Send + 's>> {
        Box::pin(async move {
            let asked = Asked { any_length: true, ..Asked::default() };
            // Without the task's own headers: they are for its resource.
            let headers = headers::outgoing(&[], &self.user_agent)
                .map_err(|message| Failed::new(FailureCode::DownloadBadUrl, message))?;
            let mut at = target.robots_txt();
            for _ in 0..=REDIRECTS_MAX {
                match errand.step(&at, headers.clone(), asked).await? {
                    Step::Body(landed, _) => {
                        let silent = || Failed::new(FailureCode::DownloadTimeout, "it did not come to its end in time");
                        let read = tokio::time::timeout(READ_MAX, body(landed.response)).await;
                        return read.map_err(|_| silent())?;
                    }
                    Step::Redirect(next) => at = next,
                    Step::NotChanged(_) | Step::NoSuchRange(_) => break,
                }
            }
            Err(Failed::new(FailureCode::DownloadRedirects, format!("more than {REDIRECTS_MAX} redirects")))
        })
    }

    fn slot(&self, origin: &str) -> Arc<Slot> {
        let mut sites = self.sites();
        sites.uses += 1;
        let used = sites.uses;
        let fresh = || Site { slot: Arc::default(), bytes: 0, used };
        let site = sites.known.entry(origin.to_owned()).or_insert_with(fresh);
        site.used = used;
        let slot = site.slot.clone();
        sites.shrink();
        slot
    }

    fn note(&self, origin: &str, bytes: usize) {
        let mut sites = self.sites();
        let Some(site) = sites.known.get_mut(origin) else { return };
        let before = std::mem::replace(&mut site.bytes, bytes);
        sites.bytes = sites.bytes.saturating_sub(before).saturating_add(bytes);
        sites.shrink();
    }

    fn sites(&self) -> MutexGuard<'_, Sites> {
        self.sites.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sites {
    fn shrink(&mut self) {
        while self.known.len() > SITES_MAX || self.bytes > BYTES_MAX {
            let oldest = self.known.iter().min_by_key(|(_, site)| site.used).map(|(origin, _)| origin.clone());
            let Some(gone) = oldest.and_then(|origin| self.known.remove(&origin)) else { return };
            self.bytes = self.bytes.saturating_sub(gone.bytes);
        }
    }
}

/// Rules are remembered for each way there: what one pool's proxies make of a site binds nobody who does not use them.
fn site_by(target: &Target, hint: Option<&ProxyHint>) -> String {
    let origin = target.url().origin().ascii_serialization();
    hint.map_or(origin.clone(), |hint| format!("{origin} {}", hint.primary_pool))
}

async fn body(mut response: reqwest::Response) -> Result<String, Failed> {
    let mut text = Vec::new();
    while text.len() < TEXT_BYTES_MAX {
        match response.chunk().await {
            Ok(Some(piece)) => text.extend_from_slice(&piece),
            Ok(None) => break,
            Err(error) => return Err(super::classify::body(error, false)),
        }
    }
    text.truncate(TEXT_BYTES_MAX);
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_sites_are_not_remembered() {
        let robots = Robots::new("fetchbox/1");
        for at in 0..SITES_MAX + 5 {
            robots.slot(&format!("http://{at}.example"));
        }
        robots.slot("http://6.example");
        assert_eq!(robots.sites().known.len(), SITES_MAX);
        assert!(!robots.sites().known.contains_key("http://4.example"));
        robots.note("http://6.example", BYTES_MAX);
        assert!(robots.sites().known.contains_key("http://6.example"));
        robots.note("http://7.example", 1);
        let sites = robots.sites();
        assert!(sites.bytes <= BYTES_MAX, "{}", sites.bytes);
    }
}
