//! Who gets how much: tenants at one host, tenants over hosts, jobs that limit themselves, hosts that are dead.
//!
//! Must not know: how turns are kept.

use std::collections::HashMap;

use super::Options;
use super::model_queue::TENANTS;
use super::model_test::{World, options};
use crate::model::{Priority, Tenant};
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
    while world.now < world.options.breaker_give_up_ms as i64 {
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
