//! The host table over time: what is forgotten, what is never exceeded, who goes first.

use proptest::prelude::*;

use super::*;
use crate::dispatch::Options;

fn table(options: &Options) -> HostTable {
    HostTable::new(Rules::new(options))
}

fn places(per_host: u32) -> HostTable {
    table(&Options { per_host, ..Options::default() })
}

fn goes(entry: Entry) -> bool {
    matches!(entry, Entry::Go { .. })
}

#[test]
fn a_crawl_of_ever_more_hosts_leaves_nothing_behind() {
    let options =
        Options { per_host_per_second: 1.0, breaker_give_up_ms: 1, breaker_max_ms: 5_000, ..Options::default() };
    let mut table = table(&options);
    for i in 0..200_000i64 {
        let host: Arc<str> = format!("h{i}:443").into();
        table.expire(i);
        table.reserve(&host, i);
        assert!(goes(table.enter(&host, Standing::Picked, i)));
        match i % 3 {
            0 => table.pause(&host, i + 50),
            how => drop(table.heard(&host, how == 2, i)),
        }
        table.release(&host);
        if i % 1_000 == 0 {
            assert!(table.len() < 10_000, "{} after {i}", table.len());
        }
    }
    table.expire(2_000_000);
    assert_eq!((table.len(), table.wakes.len(), table.opened.len()), (0, 0, 0));
}

#[test]
fn more_hosts_than_are_remembered_push_out_those_that_are_free_soonest() {
    let mut table = places(1);
    let used: Arc<str> = "used:80".into();
    table.reserve(&used, 0);
    table.pause(&used, 1);
    for i in 0..i64::try_from(HOSTS_MAX).unwrap() + 1_000 {
        table.pause(&format!("h{i}:80").into(), 1_000_000 + i);
    }
    assert_eq!(table.len(), HOSTS_MAX);
    assert_eq!(table.wakes.len(), HOSTS_MAX);
    assert_eq!(table.in_use("used:80"), 1, "one that is in use is never forgotten");
    assert!(!table.is_shut("h5:80", 2) && table.is_shut("h5000:80", 2));
}

#[test]
fn a_redirected_attempt_goes_before_a_new_one() {
    let mut table = places(1);
    let host: Arc<str> = "a:80".into();
    table.reserve(&host, 0);
    assert!(goes(table.enter(&host, Standing::Picked, 0)));
    table.queue(&host);
    assert!(matches!(table.enter(&host, Standing::Outside, 0), Entry::Full));
    table.release(&host);
    assert!(!table.is_open(&host, 0), "the free place is spoken for");
    assert!(goes(table.enter(&host, Standing::Outside, 0)));
    table.unqueue(&host);
    assert!(!table.is_open(&host, 0));
    table.release(&host);
    assert!(table.is_open(&host, 0));
    assert_eq!(table.len(), 0);
}

#[test]
fn a_shorter_pause_does_not_cut_a_longer_one() {
    let mut table = places(1);
    let host: Arc<str> = "a:80".into();
    table.pause(&host, 100);
    table.pause(&host, 50);
    table.expire(60);
    assert!(table.is_shut(&host, 60) && !table.is_open(&host, 60));
    table.expire(100);
    assert!(table.is_open(&host, 100));
    assert_eq!(table.len(), 0);
}

#[test]
fn what_holds_a_host_is_told_and_can_be_lifted() {
    let mut table = places(1);
    let host: Arc<str> = "a:80".into();
    assert_eq!(table.hold(&host, 0), None);
    table.pause(&host, 86_400_000);
    table.watch(&host, 0);
    assert_eq!(table.hold(&host, 10), Some(Hold { until_ms: 86_400_000, has_asked: true }));
    table.lift(&host, 20);
    assert_eq!(table.hold(&host, 20), None);
    assert!(table.is_open(&host, 20));
    assert_eq!(table.take_opened(), [host], "who waits for it hears of it");
    table.lift(&"never:80".into(), 30);
    assert_eq!(table.len(), 0);
}

#[test]
fn who_waits_for_a_host_is_told_when_it_may_be_open() {
    let host: Arc<str> = "a:80".into();
    let mut table = places(1);
    table.reserve(&host, 0);
    assert!(goes(table.enter(&host, Standing::Picked, 0)));
    table.watch(&host, 0);
    assert!(table.take_opened().is_empty());
    table.pause(&host, 500);
    table.release(&host);
    assert!(table.take_opened().is_empty(), "it asked for a pause");
    assert_eq!(table.next_open_ms(0), Some(500));
    table.expire(500);
    assert_eq!(table.take_opened(), std::slice::from_ref(&host));
    assert!(table.take_opened().is_empty(), "once");
    assert_eq!(table.len(), 0);
}

#[test]
fn a_dead_host_is_shut_and_probed_by_one_pick() {
    let host: Arc<str> = "a:80".into();
    let mut table = table(&Options { breaker_failures: 2, breaker_min_ms: 1_000, ..Options::default() });
    table.heard(&host, false, 0);
    table.heard(&host, false, 0);
    assert!(table.is_shut(&host, 999));
    assert_eq!(table.counts(999), (0, 1));
    table.watch(&host, 10);
    assert_eq!(table.next_open_ms(10), Some(1_000));
    table.expire(1_000);
    assert_eq!(table.take_opened().len(), 1);
    table.reserve(&host, 1_000);
    assert!(!table.is_open(&host, 1_000), "one probe at a time");
    assert!(goes(table.enter(&host, Standing::Picked, 1_000)));
    table.heard(&host, true, 1_001);
    assert!(table.is_open(&host, 1_001));
}

#[test]
fn settings_of_one_host_do_not_touch_the_others() {
    let own = crate::dispatch::HostOptions { in_flight: Some(1), ..Default::default() };
    let mut table = table(&Options { hosts: [("a".to_owned(), own)].into(), ..Options::default() });
    for (host, second) in [("a:443", false), ("b:443", true)] {
        let host: Arc<str> = host.into();
        table.reserve(&host, 0);
        assert_eq!(table.is_open(&host, 0), second, "{host}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Later(u16),
    Pick(u8),
    /// A picked attempt sends its first request, or gives up before.
    Enter(u8, bool),
    /// A redirect or a resume.
    Hop(u8),
    Release(u8),
    Pause(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u16..200).prop_map(Step::Later),
        4 => any::<u8>().prop_map(Step::Pick),
        4 => (any::<u8>(), any::<u8>()).prop_map(|(n, how)| Step::Enter(n, how % 8 != 0)),
        2 => any::<u8>().prop_map(Step::Hop),
        3 => any::<u8>().prop_map(Step::Release),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(n, ms)| Step::Pause(n, ms)),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_no_rate_is_exceeded_and_nothing_leaks(
        steps in prop::collection::vec(step(), 1..300), per_second in 0.5f64..60.0, burst in 1u32..4, all in 1.0f64..80.0,
    ) {
        let options = Options {
            per_host: 3, per_host_per_second: per_second, per_host_burst: burst, per_second: all, ..Options::default()
        };
        let mut table = table(&options);
        let names: [Arc<str>; 2] = ["a:80".into(), "b:80".into()];
        let host = |n: u8| names[usize::from(n) % names.len()].clone();
        let (mut now, mut picked, mut inside) = (10_000i64, Vec::new(), Vec::new());
        let mut sent: Vec<(i64, Arc<str>)> = Vec::new();
        for step in steps {
            match step {
                Step::Later(ms) => now += i64::from(ms),
                Step::Pick(n) => if table.is_open(&host(n), now) && table.has_turn(now) {
                    table.reserve(&host(n), now);
                    picked.push(host(n));
                },
                Step::Enter(n, goes) if !picked.is_empty() => {
                    let host = picked.swap_remove(usize::from(n) % picked.len());
                    if !goes {
                        table.unreserve(&host);
                        table.release(&host);
                    } else if let Entry::Go { at_ms } = table.enter(&host, Standing::Picked, now) {
                        sent.push((at_ms, host.clone()));
                        inside.push(host);
                    } else {
                        picked.push(host);
                    }
                }
                Step::Hop(n) => if let Entry::Go { at_ms } = table.enter(&host(n), Standing::Outside, now) {
                    sent.push((at_ms, host(n)));
                    inside.push(host(n));
                },
                Step::Release(n) if !inside.is_empty() => {
                    let host = inside.swap_remove(usize::from(n) % inside.len());
                    table.release(&host);
                }
                Step::Enter(..) | Step::Release(_) => {}
                Step::Pause(n, ms) => table.pause(&host(n), now + i64::from(ms)),
            }
            table.expire(now);
            table.take_opened();
            for name in &names {
                let used = picked.iter().chain(&inside).filter(|host| *host == name).count();
                prop_assert_eq!(table.in_use(name) as usize, used);
                prop_assert!(used <= 3);
            }
        }
        sent.sort();
        for (name, rate, burst) in [(Some(&names[0]), per_second, burst), (Some(&names[1]), per_second, burst), (None, all, 1)] {
            let at: Vec<i64> = sent.iter().filter(|(_, host)| name.is_none_or(|name| name == host)).map(|(at, _)| *at).collect();
            for (i, first) in at.iter().enumerate() {
                for (n, last) in (1u32..).zip(&at[i..]) {
                    #[expect(clippy::cast_precision_loss, reason = "minutes in milliseconds: exact")]
                    let seconds = (last - first) as f64 / 1e3;
                    prop_assert!(f64::from(n) <= f64::from(burst) + rate * seconds + 1e-6, "{n} in {seconds} s at {name:?}");
                }
            }
        }
        for host in picked {
            table.unreserve(&host);
            table.release(&host);
        }
        inside.iter().for_each(|host| table.release(host));
        table.expire(now + 1_000_000);
        prop_assert_eq!((table.len(), table.reserved, table.wakes.len()), (0, 0, 0));
    }
}
