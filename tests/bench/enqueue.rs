//! Durable jobs a second through the native socket, beside Redis and the bare disk, in turns.

use std::time::Duration;

use crate::load::{self, Shape};
use crate::rivals::{Redis, raw_syncs};
use crate::server::{Server, scratch};

const SHAPES: [Shape; 5] = [
    Shape { connections: 1, window: 1, resources: 1 },
    Shape { connections: 16, window: 1, resources: 1 },
    Shape { connections: 64, window: 1, resources: 1 },
    Shape { connections: 16, window: 64, resources: 1 },
    Shape { connections: 16, window: 8, resources: 100 },
];

/// Before our figure is taken; Redis gets 2,000 requests for each of a pipeline.
const WARM: Duration = Duration::from_millis(500);

fn spread(mut figures: Vec<f64>) -> String {
    figures.sort_by(f64::total_cmp);
    let at = |index: usize| figures.get(index).copied().unwrap_or(0.0);
    format!("{:>9.0} {:>9.0} {:>9.0}", at(0), at(figures.len() / 2), at(figures.len().saturating_sub(1)))
}

/// `shapes`: how many of the shapes, from the first.
pub fn run(rounds: u64, seconds: u64, shapes: usize) {
    let length = Duration::from_secs(seconds);
    let mut raw = Vec::new();
    let mut ours = vec![Vec::new(); SHAPES.len()];
    let mut redis_figures = vec![Vec::new(); SHAPES.len()];
    for round in 0..rounds {
        for (index, shape) in SHAPES.iter().enumerate().take(shapes) {
            let dir = scratch("enqueue");
            raw.push(raw_syncs(&dir, Duration::from_millis(500)));
            if let Some(redis) = Redis::start(&dir)
                && shape.resources == 1
            {
                let warm = redis.lpush(shape.connections, shape.window, 2_000 * shape.window as u64);
                let requests = (warm * seconds as f64).max(1_000.0) as u64;
                redis_figures[index].push(redis.lpush(shape.connections, shape.window, requests));
            }
            let _ = std::fs::remove_dir_all(&dir);
            let server = Server::start(&scratch("enqueue"), false);
            server.cli(&["pause"]);
            // As Redis is: what a process does only once is not measured of either.
            load::run(&server.socket(), *shape, WARM);
            let result = load::run(&server.socket(), *shape, length);
            eprintln!(
                "round {round}: {} × {} × {}: {:.0} jobs/s, {} refused, p50 {:.2} ms, p99 {:.2} ms, max {:.1} ms",
                shape.connections,
                shape.window,
                shape.resources,
                result.jobs_per_second(),
                result.refused,
                result.quantile_ms(0.5),
                result.quantile_ms(0.99),
                result.quantile_ms(1.0)
            );
            ours[index].push(result.jobs_per_second());
        }
    }
    println!("{:<44} {:>9} {:>9} {:>9}", "", "min", "median", "max");
    println!("{:<44} {}", "fdatasync of 512 B appended, /s", spread(raw));
    for (index, shape) in SHAPES.iter().enumerate().take(shapes) {
        let name = format!("{} connections, {} in flight each", shape.connections, shape.window);
        if shape.resources == 1 {
            println!("{:<44} {}", format!("redis LPUSH 200 B, {name}, /s"), spread(redis_figures[index].clone()));
            println!("{:<44} {}", format!("fetchbox jobs, {name}, /s"), spread(ours[index].clone()));
        } else {
            let tasks = ours[index].iter().map(|jobs| jobs * shape.resources as f64).collect();
            println!("{:<44} {}", format!("fetchbox tasks in manifests of {}, /s", shape.resources), spread(tasks));
        }
    }
}

/// Minutes of full load, in slices of five seconds.
pub fn saturate(seconds: u64) {
    let server = Server::start(&scratch("saturate"), false);
    server.cli(&["pause"]);
    let shape = Shape { connections: 16, window: 64, resources: 1 };
    let mut slices = Vec::new();
    let mut longest: f64 = 0.0;
    for _ in 0..seconds.div_ceil(5) {
        let result = load::run(&server.socket(), shape, Duration::from_secs(5));
        longest = longest.max(result.quantile_ms(1.0));
        eprintln!(
            "{:.0} jobs/s, {} refused, p50 {:.2} ms, p99 {:.2} ms, max {:.1} ms",
            result.jobs_per_second(),
            result.refused,
            result.quantile_ms(0.5),
            result.quantile_ms(0.99),
            result.quantile_ms(1.0)
        );
        slices.push(result.jobs_per_second());
    }
    let (now, highest) = server.memory();
    println!("{:<44} {:>9} {:>9} {:>9}", "", "min", "median", "max");
    println!("{:<44} {}", "jobs/s in slices of 5 s, 16 × 64 in flight", spread(slices));
    println!("longest acknowledgement: {longest:.1} ms; resident {} MiB, at most {} MiB", now >> 20, highest >> 20);
}
