//! Attempts at hosts: places given back, rates kept as the origin sees them, pauses and dead hosts.

use super::*;
use crate::clock::Clock as Source;
use crate::dispatch::Options;
use crate::worker::WhyNot;

fn hosts(options: &Options) -> Arc<Hosts> {
    Hosts::new(Rules::new(options), Source::manual(0), Arc::new(Inbox::default()))
}

fn places(per_host: u32) -> Arc<Hosts> {
    hosts(&Options { per_host, ..Options::default() })
}

fn picked(hosts: &Arc<Hosts>, host: &str) -> AttemptGate {
    let host: Arc<str> = host.into();
    let now_ms = hosts.clock.steady_ms();
    hosts.table().reserve(&host, now_ms);
    AttemptGate::holding(hosts.clone(), Some(host))
}

#[tokio::test]
async fn crowds_redirected_to_each_other_do_not_block_for_ever() {
    let hosts = places(2);
    let mut crowd = tokio::task::JoinSet::new();
    for (from, to) in [("a:80", "b:80"), ("a:80", "b:80"), ("b:80", "a:80"), ("b:80", "a:80")] {
        let gate = picked(&hosts, from);
        crowd.spawn(async move {
            let first = gate.enter(from).await.unwrap();
            tokio::task::yield_now().await;
            let second = gate.enter(to).await.unwrap();
            drop((first, second));
        });
    }
    tokio::time::timeout(Duration::from_secs(5), crowd.join_all()).await.expect("nobody waits for ever");
    assert_eq!(hosts.table().len(), 0);
}

#[tokio::test]
async fn a_place_is_free_when_its_permit_is_dropped_and_not_twice() {
    let hosts = places(1);
    let gate = picked(&hosts, "a:80");
    let first = gate.enter("a:80").await.unwrap();
    let again = gate.enter("a:80").await.unwrap();
    drop(first);
    assert_eq!(hosts.table().in_use("a:80"), 1, "a redirect within the host shares the place");
    drop(again);
    assert_eq!(hosts.table().in_use("a:80"), 0);
    let other = picked(&hosts, "a:80");
    drop(gate);
    assert_eq!(hosts.table().in_use("a:80"), 1);
    drop(other);
    assert_eq!(hosts.table().len(), 0);
}

#[tokio::test]
async fn an_attempt_stopped_while_it_waits_leaves_no_queue() {
    let hosts = places(1);
    let holder = picked(&hosts, "b:80");
    let gate = picked(&hosts, "a:80");
    let waiting = tokio::time::timeout(Duration::from_millis(10), gate.enter("b:80")).await;
    assert!(waiting.is_err());
    drop((holder, gate));
    assert_eq!(hosts.table().len(), 0);
}

#[tokio::test]
async fn an_origin_never_sees_more_than_its_rate_whoever_sends() {
    let options = Options { per_host: 8, per_host_per_second: 20.0, ..Options::default() };
    let hosts = Hosts::new(Rules::new(&options), Source::system(), Arc::new(Inbox::default()));
    let begun = Source::instant();
    let mut crowd = tokio::task::JoinSet::new();
    let seen: Arc<Mutex<Vec<f64>>> = Arc::default();
    for n in 0..4 {
        // Half are picked for the host, half come by redirects, and each asks three times.
        let gate = picked(&hosts, if n % 2 == 0 { "a:80" } else { "b:80" });
        let seen = seen.clone();
        crowd.spawn(async move {
            for _ in 0..3 {
                let permit = gate.enter("a:80").await.unwrap();
                seen.lock().unwrap().push(begun.elapsed().as_secs_f64());
                drop(permit);
            }
        });
    }
    crowd.join_all().await;
    let mut seen = seen.lock().unwrap().clone();
    seen.sort_by(f64::total_cmp);
    assert_eq!(seen.len(), 12);
    for (i, first) in seen.iter().enumerate() {
        for (j, last) in seen.iter().enumerate().skip(i) {
            let n = u32::try_from(j - i + 1).unwrap();
            assert!(f64::from(n) <= 2.0 + 20.0 * (last - first) + 1e-6, "{n} in {} s", last - first);
        }
    }
}

#[tokio::test]
async fn a_redirect_into_a_host_that_pauses_for_long_fails_instead_of_holding_a_place() {
    let hosts = places(4);
    let gate = picked(&hosts, "a:80");
    gate.throttled("b:80", Duration::from_secs(60));
    let Err(not_now) = gate.enter("b:80").await else { panic!("it was let in") };
    assert_eq!(not_now.why, WhyNot::Busy);
    assert_eq!(not_now.retry_after, Duration::from_secs(60));
    assert_eq!(hosts.table().in_use("a:80"), 0, "it left the first host");
}

#[tokio::test]
async fn a_redirect_into_a_host_that_pauses_for_a_moment_waits() {
    let hosts = places(4);
    let gate = picked(&hosts, "a:80");
    gate.throttled("b:80", Duration::from_millis(40));
    let early = tokio::time::timeout(Duration::from_millis(80), gate.enter("b:80")).await;
    assert!(early.is_err(), "its clock stands still: the pause is not over");
    hosts.clock.advance(Duration::from_millis(40));
    tokio::time::timeout(Duration::from_secs(5), gate.enter("b:80")).await.expect("in time").unwrap();
    assert_eq!(hosts.table().in_use("a:80"), 0);
}

#[tokio::test]
async fn nothing_is_sent_to_a_dead_host_by_redirects_either() {
    let hosts = hosts(&Options { breaker_failures: 3, breaker_min_ms: 60_000, ..Options::default() });
    let gate = picked(&hosts, "a:80");
    for _ in 0..3 {
        gate.heard("b:80", false);
    }
    let Err(not_now) = gate.enter("b:80").await else { panic!("it was let in") };
    assert!(matches!(not_now.why, WhyNot::Down(_)));
    assert_eq!(not_now.retry_after, Duration::from_secs(60));
}

#[tokio::test]
async fn a_redirect_into_a_host_without_a_free_place_does_not_hold_one_of_all_places_for_ever() {
    let mut hosts = places(1);
    Arc::get_mut(&mut hosts).unwrap().hold_max = Duration::from_millis(20);
    let _holder = picked(&hosts, "b:80");
    let gate = picked(&hosts, "a:80");
    let in_time = tokio::time::timeout(Duration::from_secs(5), gate.enter("b:80")).await.expect("it gives up");
    let Err(not_now) = in_time else { panic!("it was let in") };
    // What its task is charged for is the origin's pause, not a failure.
    assert!(not_now.why == WhyNot::Busy && not_now.retry_after >= Duration::from_secs(1));
    assert_eq!(hosts.table().in_use("a:80"), 0);
}

#[tokio::test]
async fn slow_redirect_targets_do_not_fill_all_places() {
    let hosts = hosts(&Options { in_flight: 8, per_host: 1, ..Options::default() });
    let _holder = picked(&hosts, "slow:80");
    let mut crowd = tokio::task::JoinSet::new();
    for n in 0..7 {
        let gate = picked(&hosts, &format!("h{n}:80"));
        crowd.spawn(async move { gate.enter("slow:80").await.map(drop) });
    }
    let mut refused = 0;
    while let Ok(Some(ended)) = tokio::time::timeout(Duration::from_millis(100), crowd.join_next()).await {
        assert_eq!(ended.unwrap().unwrap_err().why, WhyNot::Busy);
        refused += 1;
    }
    assert_eq!(refused, 5, "a quarter of all places waits, the others go on with other work");
}

#[tokio::test]
async fn a_wall_clock_that_is_set_back_does_not_make_a_pause_longer() {
    let hosts = places(4);
    let gate = picked(&hosts, "a:80");
    gate.throttled("b:80", Duration::from_secs(60));
    hosts.clock.set_back(Duration::from_secs(86_400));
    hosts.clock.advance(Duration::from_secs(60));
    tokio::time::timeout(Duration::from_secs(5), gate.enter("b:80")).await.expect("it is over").unwrap();
}
