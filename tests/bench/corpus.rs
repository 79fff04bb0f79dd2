//! Lines of a service that says much the same again and again: what output is measured with.
//!
//! Owns: the text. Must not know: who writes it where; std only, so that anything can include this file.
//!
//! 121 bytes a line on average, its end included. Equal seeds, equal lines.

use std::io::Write as _;

const SERVICES: [&str; 4] = ["orders-api", "billing-svc", "gateway", "inventory"];
const ROUTES: [&str; 6] = [
    "/v1/orders/search",
    "/v1/orders/checkout",
    "/v1/customers/profile",
    "/v1/inventory/levels",
    "/v1/payments/intents",
    "/v1/health/dependencies",
];
const HOSTS: [&str; 4] = ["db-primary-1", "db-replica-2", "cache-eu-west-1", "queue-broker-3"];

/// Steps a seed: SplitMix64.
pub fn step(rng: &mut u64) -> u64 {
    *rng = rng.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *rng;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn pick<'a>(rng: &mut u64, of: &[&'a str]) -> &'a str {
    let at = step(rng) % of.len().max(1) as u64;
    of.get(usize::try_from(at).unwrap_or(0)).copied().unwrap_or("")
}

/// Appends one line, its end included. `rng`: the seed, stepped on. `time_ms`: Unix, of the day of the first line; steps on by some
/// milliseconds.
pub fn line(rng: &mut u64, time_ms: &mut u64, out: &mut Vec<u8>) {
    *time_ms += step(rng) % 8;
    let (ms, s) = (*time_ms % 1_000, *time_ms / 1_000);
    let template = step(rng) % 12;
    let level = match template {
        0..=7 => "INFO ",
        8..=9 => "DEBUG",
        10 => "WARN ",
        _ => "ERROR",
    };
    let service = pick(rng, &SERVICES);
    let (day, hour, minute, second) = (1 + s / 86_400 % 28, s / 3_600 % 24, s / 60 % 60, s % 60);
    let _ = write!(out, "2026-03-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z {level} {service} ");
    // Most requests are quick, few are slow.
    let took = { 1 + step(rng) % 40 } * { 1 + step(rng) % 3 };
    let id = 100_000 + step(rng) % 400;
    let ip = step(rng) % 24;
    let route = pick(rng, &ROUTES);
    let host = pick(rng, &HOSTS);
    let _ = match template {
        0..=3 => write!(out, "GET {route} status=200 duration_ms={took} client=10.12.4.{ip} keepalive=true"),
        4 => write!(out, "POST {route} status=201 duration_ms={took} client=10.12.4.{ip} keepalive=true"),
        5 => write!(out, "session refreshed user_id={id} client=10.12.4.{ip} ttl_s=3600 region=eu"),
        6 => write!(out, "query finished host={host} table=order_items duration_ms={took} pool=primary"),
        7 => write!(out, "published topic=orders.updated partition={ip} order_id={id} host={host}"),
        8 => write!(out, "cache lookup host={host} key=customer:{id} outcome=hit duration_us={took}"),
        9 => write!(out, "refresh scheduled order_id={id} attempt=1 delay_ms={took} host={host}"),
        10 => write!(out, "slow upstream host={host} duration_ms={took} threshold_ms=250"),
        _ => write!(
            out,
            "GET {route} status=503 error=upstream-timeout request={:08x} client=10.12.4.{ip}",
            step(rng) >> 32
        ),
    };
    out.push(b'\n');
}
