//! Who gets how much: tenants at one host, tenants over hosts, jobs that limit themselves, hosts that are dead.
//!
//! Must not know: how turns are kept.

use std::collections::HashMap;

use super::Options;
use super::model_queue::{State, TENANTS};
use super::model_test::{World, lane_of, options};
use crate::model::{ControlChange, Priority, TaskIndex, TaskRef, Tenant};
use crate::store::TenantKey;

fn key(tenant: usize) -> TenantKey {
    TenantKey::of(&Tenant::parse(TENANTS[tenant]).unwrap())
}

/// One job of `tasks` resources, spread over the first `hosts` hosts.
fn submit(world: &mut World, tenant: usize, parallel_max: u32, tasks: u16, hosts: u8) {
    let hosts: Vec<u8> = (0..tasks).map(|n| u8::try_from(n % u16::from(hosts)).unwrap()).collect();
    world.queue.submit_for(tenant, parallel_max, Priority::Normal, &hosts, "x", world.now);
    world.tell();
}

/// Runs everything that can run, one after the other; the starts at each host, by tenant.
fn starts(world: &mut World, turns: usize) -> HashMap<String, Vec<TenantKey>> {
    let mut starts: HashMap<String, Vec<TenantKey>> = HashMap::new();
    for _ in 0..turns {
        world.turn();
        for (attempted, host) in &world.running {
            if let Some(host) = host {
                starts.entry(host.to_string()).or_default().push(attempted.lane.tenant);
            }
        }
        while !world.running.is_empty() {
            world.end(0, 7);
        }
    }
    starts
}

#[test]
fn in_any_hundred_starts_at_a_host_two_tenants_get_half_each() {
    let mut world = World::new(options(8, 4, 600), false);
    (0..33).for_each(|_| submit(&mut world, 0, 0, 300, 4));
    // The first has the place to itself, and fills all that is kept in memory.
    starts(&mut world, 50);
    (0..4).for_each(|_| submit(&mut world, 1, 0, 300, 4));
    let starts = starts(&mut world, 260);
    assert_eq!(starts.len(), 4);
    for (host, order) in starts {
        let last = order.iter().rposition(|tenant| *tenant == key(1)).unwrap();
        let first = order.iter().position(|tenant| *tenant == key(1)).unwrap();
        assert!(first <= 10, "{first} of the first tenant start before the second at {host}");
        assert!(last - first >= 300, "both wait for long enough");
        for window in order[first..=last].windows(100) {
            let second = window.iter().filter(|tenant| **tenant == key(1)).count();
            assert!((40..=60).contains(&second), "{second} of 100 at {host}");
        }
    }
}

#[test]
fn three_tenants_share_a_host_by_thirds() {
    let mut world = World::new(options(2, 2, 300), false);
    (0..3).for_each(|tenant| (0..3).for_each(|_| submit(&mut world, tenant, 0, 200, 1)));
    let order = starts(&mut world, 300).remove("a:80").unwrap();
    for window in order[..300].windows(90) {
        for tenant in 0..3 {
            let n = window.iter().filter(|other| **other == key(tenant)).count();
            assert!((24..=36).contains(&n), "{n} of 90");
        }
    }
}

#[test]
fn a_tenant_at_one_host_is_not_kept_out_by_one_at_many() {
    let mut world = World::new(options(1, 1, 600), false);
    // A waits at three hosts, B at the fourth.
    (0..10).for_each(|_| submit(&mut world, 0, 0, 99, 3));
    world.queue.submit_for(1, 0, Priority::Normal, &[3; 60], "x", 0);
    world.tell();
    let starts = starts(&mut world, 120);
    let of = |host: &str| starts.get(host).map_or(0, Vec::len);
    assert!(of("d:80") >= 45, "{} of 120 starts", of("d:80"));
    assert!(of("a:80") >= 10 && of("b:80") >= 10 && of("c:80") >= 10, "each host has its turn");
}

#[test]
fn ten_thousand_jobs_of_one_tenant_do_not_hide_the_job_of_another() {
    let mut world = World::new(options(4, 4, 90), false);
    (0..1_000).for_each(|_| submit(&mut world, 0, 0, 10, 1));
    starts(&mut world, 20);
    submit(&mut world, 1, 0, 10, 1);
    let order = starts(&mut world, 12).remove("a:80").unwrap();
    assert_eq!(order.iter().filter(|tenant| **tenant == key(1)).count(), 10, "it is done before the others are");
}

#[test]
fn a_job_that_limits_itself_blocks_nobody() {
    let mut world = World::new(options(8, 8, 60), false);
    submit(&mut world, 0, 2, 200, 1);
    submit(&mut world, 0, 0, 6, 1);
    world.turn();
    while let Some(at) = world.running.iter().position(|(_, host)| host.is_none()) {
        world.end(at, 7);
    }
    world.turn();
    let limited = world.queue.jobs[0].job;
    let running = |world: &World| {
        let of = |job| world.running.iter().filter(|(attempted, _)| attempted.lease.task.job == job).count();
        (of(limited), world.running.len() - of(limited))
    };
    assert_eq!(running(&world), (2, 6), "two of the first, and all of the second behind it");
    let at = world.running.iter().position(|(attempted, _)| attempted.lease.task.job == limited).unwrap();
    world.end(at, 7);
    world.turn();
    assert_eq!(running(&world), (2, 6), "one ended, the next started");
    world.finish();
}

#[test]
fn a_dead_hosts_tasks_wait_and_then_are_let_through() {
    let dead = Options { breaker_failures: 3, breaker_min_ms: 1_000, breaker_max_ms: 60_000, ..options(8, 4, 300) };
    let mut world = World::new(dead, false);
    submit(&mut world, 0, 0, 100, 1);
    world.turn();
    while let Some(at) = world.running.iter().position(|(_, host)| host.is_none()) {
        world.end(at, 7);
    }
    // Four fail together: the breaker opens.
    while !world.running.is_empty() {
        world.end(0, 0);
    }
    world.turn();
    assert!(world.running.is_empty(), "nothing is sent to a dead host");
    let mut probes = 0;
    while world.now < 600_000 {
        world.now = world.planner.next_look_ms(&world.hosts, world.now).unwrap();
        world.turn();
        assert!(world.running.len() <= 1 || world.now >= 600_000, "one probe at a time");
        probes += world.running.len();
        while !world.running.is_empty() {
            world.end(0, 0);
        }
    }
    assert!((10..=40).contains(&probes), "{probes} probes in ten minutes");
    world.now = 602_000;
    world.turn();
    assert!(world.running.len() > 1, "they are let through, to fail and end");
    world.finish();
}

#[test]
fn low_work_goes_on_while_high_work_never_ends() {
    let mut world = World::new(options(1, 16, 300), false);
    world.queue.submit(Priority::Low, &[0, 0], "x", 0);
    for _ in 0..100 {
        world.queue.submit(Priority::High, &[1], "x", 0);
    }
    let mut order = Vec::new();
    for _ in 0..100 {
        world.turn();
        order.push(world.running[0].0.job.priority);
        world.end(0, 7);
    }
    assert_eq!(order[..16], [Priority::High; 16]);
    assert_eq!(order.iter().filter(|p| **p == Priority::Low).count(), 3, "one in seventeen, until it is done");
}

#[test]
fn one_slow_host_with_more_work_than_the_window_holds_does_not_stop_the_others() {
    let mut world = World::new(options(8, 2, 60), false);
    for _ in 0..50 {
        world.queue.submit(Priority::Normal, &[0; 11], "x", 0);
    }
    world.queue.submit(Priority::Normal, &[1, 2, 3], "x", 0);
    // Manifests need no host: they end at once; host a never answers.
    for _ in 0..200 {
        world.turn();
        while let Some(at) = world.running.iter().position(|(_, host)| host.as_deref() != Some("a:80")) {
            world.end(at, 7);
        }
    }
    let last = world.queue.jobs.last().unwrap().job;
    let left = world.queue.states.range(TaskRef { job: last, index: TaskIndex(0) }..);
    assert!(
        left.into_iter().all(|(_, state)| *state == State::Done),
        "the last job waits behind a host it does not use"
    );
    assert_eq!(world.running.len(), 2);
    world.finish();
}

#[test]
fn a_paused_host_with_more_work_than_the_window_holds_does_not_stop_the_others() {
    let mut world = World::new(options(8, 2, 30), false);
    for _ in 0..50 {
        world.queue.submit(Priority::Normal, &[0; 11], "x", 0);
    }
    world.turn();
    world.control(&ControlChange::PauseHost("a:80".to_owned()));
    world.queue.submit(Priority::Normal, &[1, 2, 3], "x", 0);
    world.tell();
    for _ in 0..200 {
        world.turn();
        while !world.running.is_empty() {
            world.end(0, 7);
        }
    }
    let open = world.queue.states.iter().filter(|(_, state)| **state != State::Done);
    assert!(open.into_iter().all(|(task, _)| *lane_of(&world.queue.plan(task.job), *task).host.unwrap() == *"a:80"));
    world.finish();
}

#[test]
fn a_slow_host_takes_one_place_while_others_have_work() {
    let mut world = World::new(options(8, 8, 600), false);
    (0..10).for_each(|_| submit(&mut world, 0, 0, 80, 4));
    for _ in 0..80 {
        world.turn();
        let at_slow = world.running.iter().filter(|(_, host)| host.as_deref() == Some("a:80")).count();
        assert!(at_slow <= 3, "{at_slow} of 8 places wait for a host that does not answer");
        while let Some(at) = world.running.iter().position(|(_, host)| host.as_deref() != Some("a:80")) {
            world.end(at, 7);
        }
    }
}

#[test]
fn a_pick_among_ten_thousand_hosts_looks_at_few() {
    // With every host looked at for every pick, this takes minutes.
    let mut world = World::new(options(32, 1, 40_000), false);
    let hosts: Vec<String> = (0..10_000).map(|n| format!("h{n}.example")).collect();
    world.queue.submit_urls(&hosts, 0);
    world.tell();
    let mut started = 0;
    for _ in 0..400 {
        world.turn();
        started += world.running.len();
        while !world.running.is_empty() {
            world.end(0, 7);
        }
    }
    assert_eq!(started, 10_001);
}

#[test]
fn storage_parked_is_asked_again_in_time_when_the_wall_clock_is_set_back() {
    let mut world = World::new(options(8, 8, 300), false);
    world.queue.submit(Priority::Normal, &[0, 1, 2, 3], "x", 0);
    world.turn();
    world.end(0, 1);
    world.planner.wall_is_ahead(-3_600_000);
    let look_ms = world.planner.next_look_ms(&world.hosts, world.now);
    assert!(look_ms.is_none_or(|at| at <= world.now + 3_700_000), "{look_ms:?}");
    while !world.running.is_empty() {
        world.end(0, 1);
    }
    // New work, for the times of what failed are the wall clock's.
    world.queue.submit(Priority::Normal, &[0], "x", 0);
    world.tell();
    world.now += 60_000;
    world.turn();
    assert_eq!(world.running.len(), 1, "a probe");
}

#[test]
fn more_work_of_a_paused_host_than_can_be_put_aside_does_not_stop_its_tenants_other_work() {
    let mut world = World::new(options(8, 2, 19), false);
    world.control(&ControlChange::PauseHost("a:80".to_owned()));
    (0..200).for_each(|_| submit(&mut world, 0, 0, 11, 1));
    world.queue.submit(Priority::Normal, &[1, 2, 3], "x", 0);
    world.tell();
    for _ in 0..400 {
        world.turn();
        while !world.running.is_empty() {
            world.end(0, 7);
        }
        world.now += 100;
    }
    let last = world.queue.jobs.last().unwrap().job;
    let mut left = world.queue.states.range(TaskRef { job: last, index: TaskIndex(0) }..);
    assert!(left.all(|(_, state)| *state == State::Done), "it waits behind a host it does not use");
    world.finish();
}

#[test]
fn more_retries_of_a_paused_host_than_can_be_put_aside_do_not_stop_the_others() {
    let mut world = World::new(options(8, 2, 19), false);
    world.control(&ControlChange::PauseHost("a:80".to_owned()));
    (0..50).for_each(|_| submit(&mut world, 0, 0, 11, 1));
    world.queue.submit_for(1, 0, Priority::Normal, &[1, 2, 3], "x", 0);
    world.tell();
    for (at, state) in (1..).zip(world.queue.states.values_mut()) {
        *state = State::Due(at);
    }
    world.now += 1_000;
    for _ in 0..100 {
        world.turn();
        while !world.running.is_empty() {
            world.end(0, 7);
        }
        world.now += 100;
    }
    let last = world.queue.jobs.last().unwrap().job;
    let mut left = world.queue.states.range(TaskRef { job: last, index: TaskIndex(0) }..);
    assert!(left.all(|(_, state)| *state == State::Done), "its retries wait behind a host they do not use");
    world.finish();
}
