//! Searches over a real database with small blocks, beside a scan of everything that was written.

use std::collections::BTreeMap;

use super::*;
use crate::clock::Clock;
use crate::model::{JobName, JobType, NewOutput, OutputShare, Tenant};
use crate::store::{self, NamedJob, Opened, OutputBatch};
use crate::telemetry::Metrics;

/// What was written: by job and stream, records with their ordinal and time.
type Written = BTreeMap<JobId, Vec<(u64, LogStream, i64, Vec<u8>)>>;

struct Site {
    _dir: tempfile::TempDir,
    opened: Opened,
    written: Written,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let output = store::output::Options { block_bytes: 2 << 10, tail_bytes_max: 16 << 10, ..Default::default() };
        let opened = store::open(dir.path(), &store::Options { output, ..Default::default() }, Metrics::new()).unwrap();
        Self { _dir: dir, opened, written: Written::new() }
    }

    async fn job(&self, number: u8) -> JobId {
        let job = NamedJob {
            name: JobName::parse(&format!("job-{number}")).unwrap(),
            id: JobId::from_bytes([number; 16]),
            job_type: JobType::parse(if number.is_multiple_of(2) { "even" } else { "odd" }).unwrap(),
            tenant: Tenant::default(),
            now_ms: 5,
        };
        self.opened.store.open_named(vec![job]).await.unwrap()[0]
    }

    async fn write(&mut self, job: JobId, records: Vec<(LogStream, i64, Vec<u8>)>) {
        let output = |(stream, ms, data): &(LogStream, i64, Vec<u8>)| NewOutput {
            kind: OutputKind::Log,
            stream: *stream,
            time_ns: ms * 1_000_000,
            sequence: 0,
            label: None,
            data: data.clone().into(),
        };
        let shares = vec![OutputShare { job, expected: None, records: records.iter().map(output).collect() }];
        let (send, wait) = tokio::sync::oneshot::channel();
        self.opened.store.append_output(OutputBatch::new(&shares, 9), move |result| send.send(result).unwrap());
        let mut ordinal = wait.await.unwrap().unwrap().remove(0).unwrap();
        for (stream, ms, data) in records {
            self.written.entry(job).or_default().push((ordinal, stream, ms, data));
            ordinal += 1;
        }
    }

    /// Every hit of pages of `limit`, and the progress of all of them.
    fn found(&self, query: &SearchQuery) -> (Vec<SearchHit>, Progress) {
        let (mut hits, mut token, mut progress) = (Vec::new(), String::new(), Progress::default());
        loop {
            let mut search = prepare(self.opened.reader.clone(), query, &token).unwrap();
            let last = loop {
                let step = search.step().unwrap();
                hits.extend(step.page.hits);
                if step.is_last {
                    break SearchPage { hits: Vec::new(), ..step.page };
                }
            };
            progress.blocks += last.progress.blocks;
            progress.blocks_skipped += last.progress.blocks_skipped;
            token = last.next_token;
            if token.is_empty() {
                return (hits, progress);
            }
        }
    }

    /// The same by reading everything.
    fn scanned(&self, query: &SearchQuery) -> Vec<SearchHit> {
        let pattern = Pattern::of(&query.text, &query.regex, query.ignore_case).unwrap().remove(0);
        let mut hits = Vec::new();
        for (job, records) in &self.written {
            for stream in STREAMS {
                let mut line: Vec<u8> = Vec::new();
                let mut begin = None;
                let bytes = records
                    .iter()
                    .filter(|record| record.1 == stream)
                    .flat_map(|(at, _, ms, data)| data.iter().map(move |byte| (*at, *ms, *byte)));
                let end = std::iter::once((0, 0, b'\n'));
                for (at, ms, byte) in bytes.chain(end) {
                    if byte != b'\n' {
                        begin.get_or_insert((at, ms));
                        line.push(byte);
                        continue;
                    }
                    let (offset, timestamp_ms) = begin.take().unwrap_or((at, ms));
                    let is_there = !line.is_empty() && within(timestamp_ms, query.from_ms, query.until_ms);
                    if is_there && pattern.is_match(&line) {
                        let job_id = self.opened.reader.job(*job).unwrap().unwrap().public_id();
                        hits.push(SearchHit { job_id, offset, stream, timestamp_ms, line: line.clone() });
                    }
                    line.clear();
                }
            }
        }
        hits
    }
}

fn sorted(mut hits: Vec<SearchHit>) -> Vec<SearchHit> {
    hits.sort_by(|a, b| (&a.job_id, a.stream, a.offset, &a.line).cmp(&(&b.job_id, b.stream, b.offset, &b.line)));
    hits
}

fn ms(number: usize) -> i64 {
    i64::try_from(number).unwrap()
}

/// Splitmix: the same numbers for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % end as u64).unwrap()
    }
}

fn word(random: &mut Random) -> String {
    const WORDS: [&str; 16] = [
        "error", "Error", "warn", "timeout", "disk", "task", "id=7", "id=42", "GET", "/a/b", "ä", "\u{212a}", "ok",
        "x", "retry", "s",
    ];
    WORDS[random.below(WORDS.len())].to_owned()
}

/// A regular expression of some depth.
fn regex(random: &mut Random, depth: usize) -> String {
    match random.below(if depth == 0 { 5 } else { 11 }) {
        0..=2 => regex::escape(&word(random)),
        3 => ["[a-f]", r"\d", ".", "[^x]", r"\w", "[ek]"][random.below(6)].to_owned(),
        4 => word(random).chars().take(2).map(|c| regex::escape(&c.to_string())).collect(),
        5 => format!("{}{}", regex(random, depth - 1), regex(random, depth - 1)),
        6 => format!("{}.*{}", regex(random, depth - 1), regex(random, depth - 1)),
        7 => format!("({}|{})", regex(random, depth - 1), regex(random, depth - 1)),
        8 => format!("({}){}", regex(random, depth - 1), ["+", "?", "*", "{2}", "{1,3}"][random.below(5)]),
        9 => format!("(?i:{})", regex(random, depth - 1)),
        _ => format!("{}{}{}", ["", "^", r"\b"][random.below(3)], regex(random, depth - 1), ["", "$"][random.below(2)]),
    }
}

/// Records that begin and end anywhere in their lines.
fn output(random: &mut Random, records: usize) -> Vec<(LogStream, i64, Vec<u8>)> {
    (0..records)
        .map(|at| {
            let stream = STREAMS[usize::from(random.below(4) == 0)];
            let mut data = String::new();
            for _ in 0..random.below(14) {
                data.push_str(&word(random));
                data.push_str([" ", " ", "\n", ""][random.below(4)]);
            }
            if random.below(9) == 0 {
                data = data.replace('\n', "-").repeat(1 + random.below(39));
            }
            (stream, ms(at) * 10 + 1, data.into_bytes())
        })
        .collect()
}

async fn random_site(random: &mut Random) -> Site {
    let mut site = Site::new();
    for number in 1..=4 {
        let job = site.job(number).await;
        for _ in 0..12 {
            let count = 1 + random.below(39);
            let records = output(random, count);
            site.write(job, records).await;
        }
    }
    while site.opened.reader.heads_of(JobId::from_bytes([4; 16]), OutputKind::Log, 0, 99).unwrap().len() < 3 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_finds_what_reading_everything_finds() {
    let seed = std::env::var("FETCHBOX_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| Clock::system().now_ms().cast_unsigned());
    println!("FETCHBOX_SEED={seed}");
    let mut random = Random(seed);
    let (mut tried, mut skipped, mut some) = (0, 0, 0);
    for _ in 0..2 {
        let site = random_site(&mut random).await;
        while tried % 100 != 99 || tried == 0 {
            tried += 1;
            let mut query = SearchQuery { limit: [7, 100, 10_000][random.below(3)], ..SearchQuery::default() };
            if random.below(4) == 0 {
                query.text = format!("{}{}", word(&mut random), [" ", "", "e"][random.below(3)]);
            } else {
                query.regex = regex(&mut random, 3);
            }
            query.ignore_case = random.below(3) == 0;
            if random.below(4) == 0 {
                (query.from_ms, query.until_ms) = (ms(random.below(200)), ms(150 + random.below(250)));
            }
            let (hits, progress) = site.found(&query);
            assert_eq!(sorted(hits.clone()), sorted(site.scanned(&query)), "{query:?}");
            let jobs: Vec<&str> = hits.iter().map(|hit| hit.job_id.as_str()).collect();
            assert!(jobs.windows(2).all(|pair| pair[0] >= pair[1]), "newest first: {jobs:?}");
            skipped += progress.blocks_skipped;
            some += usize::from(!hits.is_empty());
        }
        tried += 1;
    }
    println!("{tried} searches, {some} found something, {skipped} blocks passed over");
    assert!(tried >= 200 && some > 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_is_narrowed_by_job_type_and_stream_and_goes_on_after_a_restart() {
    let mut site = Site::new();
    for number in 1..=3 {
        let job = site.job(number).await;
        let line = |at: usize| {
            let stream = STREAMS[at % 2];
            (stream, ms(at), format!("needle {number} {at}\n").into_bytes())
        };
        site.write(job, (0..300).map(line).collect()).await;
    }
    let query = SearchQuery { text: "needle".into(), ..SearchQuery::default() };
    let count = |query: &SearchQuery| site.found(query).0.len();
    assert_eq!(count(&query), 900);
    assert_eq!(count(&SearchQuery { job_type: Some(JobType::parse("even").unwrap()), ..query.clone() }), 300);
    assert_eq!(count(&SearchQuery { streams: vec![LogStream::Stderr], ..query.clone() }), 450);
    let jobs = vec![JobId::from_bytes([1; 16]), JobId::from_bytes([3; 16]), JobId::from_bytes([1; 16])];
    assert_eq!(count(&SearchQuery { jobs, ..query.clone() }), 600);
    assert_eq!(count(&SearchQuery { tenant: Some(Tenant::parse("other").unwrap()), ..query.clone() }), 0);

    let first = prepare(site.opened.reader.clone(), &query, "").unwrap().step().unwrap().page;
    assert_eq!(first.hits.len(), 100);
    let other = SearchQuery { text: "other".into(), ..query.clone() };
    assert!(prepare(site.opened.reader.clone(), &other, &first.next_token).is_err());
    let Site { _dir, opened, .. } = site;
    drop(opened);
    let opened = store::open(_dir.path(), &store::Options::default(), Metrics::new()).unwrap();
    let second = prepare(opened.reader, &query, &first.next_token).unwrap().step().unwrap().page;
    assert_eq!(second.hits.len(), 100);
    assert!(first.hits.iter().all(|hit| !second.hits.contains(hit)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binary_chunk_without_lines_is_searched_in_bounded_parts() {
    let mut site = Site::new();
    let job = site.job(1).await;
    let mut data = vec![0u8; 3 << 20];
    let at = (LINE_BYTES - 3, 2 << 20);
    data[at.0..at.0 + 6].copy_from_slice(b"needle");
    data[at.1..at.1 + 6].copy_from_slice(b"needle");
    site.write(job, vec![(LogStream::Stdout, 1, data)]).await;
    let query = SearchQuery { text: "needle".into(), ..SearchQuery::default() };
    let (hits, _) = site.found(&query);
    assert_eq!(hits.len(), 2, "each once, the one across two parts too");
    assert!(hits.iter().all(|hit| hit.offset == 0 && hit.line.len() <= LINE_BYTES));
}

const LINE_BYTES: usize = crate::ledger::lines::LINE_BYTES_MAX;

#[test]
fn searches_that_ask_for_nothing_or_too_much_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let opened = store::open(dir.path(), &store::Options::default(), Metrics::new()).unwrap();
    let refused = |text: &str, regex: &str, token: &str| {
        let query = SearchQuery { text: text.into(), regex: regex.into(), ..SearchQuery::default() };
        let refusal = prepare(opened.reader.clone(), &query, token).err().unwrap();
        refusal.violations[0].path.clone()
    };
    assert_eq!(refused("", "", ""), "text");
    assert_eq!(refused("a", "b", ""), "regex");
    assert_eq!(refused("", "(", ""), "regex");
    assert_eq!(refused("a", "", "00"), "page_token");
}
