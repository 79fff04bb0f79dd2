//! Numbers and times as people read them.
//!
//! Owns: formats only. Must not know: where the values come from.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// `1536` → `1.5 KiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit after the point")]
    let mut value = count as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        // One digit after the point: anything from 1023.95 on would read 1024.0.
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// `61_500` → `1 min 1 s`.
pub fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms} ms"),
        1..10 => format!("{}.{} s", seconds, ms % 1000 / 100),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86400, seconds % 86400 / 3600),
    }
}

/// `2026-11-20 14:03:22` in the local time zone; `-` for never.
pub fn time(at_ms: i64) -> String {
    time_in(at_ms, TimeZone::system(), "%Y-%m-%d %H:%M:%S")
}

fn time_in(at_ms: i64, zone: TimeZone, format: &str) -> String {
    match Timestamp::from_millisecond(at_ms) {
        Ok(at) if at_ms != 0 => at.to_zoned(zone).strftime(format).to_string(),
        _ => "-".to_owned(),
    }
}

/// `3 min 2 s ago`, `in 4.0 s`; `-` for never.
pub fn ago(at_ms: i64, now_ms: i64) -> String {
    match (at_ms, now_ms.saturating_sub(at_ms)) {
        (0, _) => "-".to_owned(),
        (_, 0..1000) => "just now".to_owned(),
        (_, past @ 1000..) => format!("{} ago", duration(past.unsigned_abs())),
        (_, future) => format!("in {}", duration(future.unsigned_abs())),
    }
}

/// `+3.2 s`, `-40 ms`: how long after `first_ms`.
pub fn later(at_ms: i64, first_ms: i64) -> String {
    let by = at_ms.saturating_sub(first_ms);
    let sign = if by < 0 { '-' } else { '+' };
    format!("{sign}{}", duration(by.unsigned_abs()))
}

/// `1 resource`, `2 resources`.
pub fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// At most `width` characters, the cut marked.
pub fn short(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// `DOWNLOAD_…` messages and clients' lines come from outside: nothing in them may drive the terminal.
pub fn tame(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_in_the_nearest_unit() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(1024 * 1024 - 1), "1.0 MiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
    }

    #[test]
    fn times_read_as_people_say_them() {
        assert_eq!(duration(999), "999 ms");
        assert_eq!(duration(61_500), "1 min 1 s");
        assert_eq!(duration(90_000_000), "1 d 1 h");
        assert_eq!(ago(0, 5), "-");
        assert_eq!(ago(1_000, 5_000), "4.0 s ago");
        assert_eq!(ago(9_000, 5_000), "in 4.0 s");
        assert_eq!(time_in(1_700_000_000_000, TimeZone::UTC, "%Y-%m-%d %H:%M:%S"), "2023-11-14 22:13:20");
        assert_eq!(time(0), "-");
    }

    #[test]
    fn a_hostile_message_cannot_drive_the_terminal() {
        assert_eq!(tame("a\u{1b}[31mb\rc"), "a\u{fffd}[31mb\u{fffd}c");
        assert_eq!(short("abcdef", 4), "abc…");
    }
}
