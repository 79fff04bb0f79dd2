//! When the sweep runs: five fields as cron has them, in UTC.
//!
//! Owns: reading the fields, the next time after a given one. Pure. Must not know: what runs.
//!
//! UTC, because there no hour is missing and none comes twice. As cron does it: when both the day of the month and the day of the week are
//! restricted, either is enough.

/// Minute, hour, day of the month, month, day of the week (0 and 7 are Sunday).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Bit n: the value n is meant.
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both of them are restricted.
    either_day: bool,
}

const MINUTE_MS: i64 = 60_000;
const DAY_MINUTES: i64 = 1_440;
/// A date that a schedule can mean comes within so many days: the 29th of February may be eight years away.
const DAYS_MAX: i64 = 8 * 366 + 1;

const FIELDS: [(&str, u32, u32); 5] =
    [("minute", 0, 59), ("hour", 0, 23), ("day of the month", 1, 31), ("month", 1, 12), ("day of the week", 0, 7)];

impl Schedule {
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split_ascii_whitespace().collect();
        if parts.len() != FIELDS.len() {
            return Err(format!(
                "{text:?} has {} fields, not 5: minute, hour, day of the month, month, day of the week",
                parts.len()
            ));
        }
        let mut masks = [0u64; 5];
        for ((mask, part), (name, min, max)) in masks.iter_mut().zip(&parts).zip(FIELDS) {
            *mask = field(part, min, max).map_err(|why| format!("the {name} of {text:?}: {why}"))?;
        }
        let [minutes, hours, days, months, mut weekdays] = masks;
        // Sunday has two numbers.
        weekdays |= (weekdays >> 7) & 1;
        let restricted = |part: Option<&&str>| part.is_some_and(|part| !part.starts_with('*'));
        let either_day = restricted(parts.get(2)) && restricted(parts.get(4));
        let schedule = Self { minutes, hours, days, months, weekdays, either_day };
        match schedule.next_after_ms(0) {
            Some(_) => Ok(schedule),
            None => Err(format!("{text:?} never comes")),
        }
    }

    /// The first such minute that begins after `at_ms`, Unix ms.
    pub fn next_after_ms(&self, at_ms: i64) -> Option<i64> {
        let from = at_ms.div_euclid(MINUTE_MS).checked_add(1)?;
        let (first_day, first_minute) = (from.div_euclid(DAY_MINUTES), from.rem_euclid(DAY_MINUTES));
        for day in first_day..first_day.checked_add(DAYS_MAX)? {
            if !self.means_day(day) {
                continue;
            }
            let begin = if day == first_day { first_minute } else { 0 };
            let mut minutes = begin..DAY_MINUTES;
            if let Some(minute) = minutes.find(|minute| has(self.hours, minute / 60) && has(self.minutes, minute % 60))
            {
                return day.checked_mul(DAY_MINUTES)?.checked_add(minute)?.checked_mul(MINUTE_MS);
            }
        }
        None
    }

    /// `day`: since 1970-01-01.
    fn means_day(&self, day: i64) -> bool {
        let (month, of_month) = month_and_day(day);
        // 1970 began on a Thursday.
        let of_week = (day + 4).rem_euclid(7);
        let (by_month, by_week) = (has(self.days, of_month), has(self.weekdays, of_week));
        has(self.months, month) && if self.either_day { by_month || by_week } else { by_month && by_week }
    }
}

fn has(mask: u64, value: i64) -> bool {
    (0..64).contains(&value) && mask >> value & 1 == 1
}

/// A list of `*`, `n`, `a-b`, each perhaps with `/step`.
fn field(text: &str, min: u32, max: u32) -> Result<u64, String> {
    let mut mask = 0;
    for item in text.split(',') {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(number(step, 1, max.max(1))?)),
            None => (item, None),
        };
        let (from, to) = match (range, range.split_once('-')) {
            ("*", _) => (min, max),
            (_, Some((from, to))) => (number(from, min, max)?, number(to, min, max)?),
            // As cron reads `5/15`: from 5 on.
            (_, None) => {
                let from = number(range, min, max)?;
                (from, if step.is_some() { max } else { from })
            }
        };
        if from > to {
            return Err(format!("{range:?} runs backwards"));
        }
        for value in (from..=to).step_by(step.unwrap_or(1) as usize) {
            mask |= 1 << value;
        }
    }
    Ok(mask)
}

fn number(text: &str, min: u32, max: u32) -> Result<u32, String> {
    let digits = !text.is_empty() && text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
    let value = text.parse().ok().filter(|value| digits && (min..=max).contains(value));
    value.ok_or_else(|| format!("{text:?} is not a number from {min} to {max}"))
}

/// Of the Gregorian calendar; the arithmetic of years that begin in March, where the odd day is the last one.
fn month_and_day(day: i64) -> (i64, i64) {
    let day = day + 719_468;
    let of_era = day.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    (if month < 10 { month + 3 } else { month - 9 }, of_year - (153 * month + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR_MS: i64 = 60 * MINUTE_MS;
    const DAY_MS: i64 = 24 * HOUR_MS;
    /// 2024-02-28T00:00Z, a Wednesday.
    const LEAP: i64 = 19_781 * DAY_MS;

    fn next(text: &str, at_ms: i64) -> i64 {
        Schedule::parse(text).unwrap().next_after_ms(at_ms).unwrap()
    }

    #[test]
    fn a_sweep_at_two_in_the_night_runs_at_two_in_the_night() {
        assert_eq!(next("0 2 * * *", LEAP), LEAP + 2 * HOUR_MS);
        assert_eq!(next("0 2 * * *", LEAP + 2 * HOUR_MS), LEAP + DAY_MS + 2 * HOUR_MS);
        assert_eq!(next("*/15 * * * *", LEAP + 1), LEAP + 15 * MINUTE_MS);
        assert_eq!(next("5/20 1-3,22 * * *", LEAP + 3 * HOUR_MS + 45 * MINUTE_MS), LEAP + 22 * HOUR_MS + 5 * MINUTE_MS);
        assert_eq!(next("0 0 29 2 *", LEAP), LEAP + DAY_MS);
        assert_eq!(next("0 0 29 2 *", LEAP + DAY_MS), LEAP + DAY_MS + 1_461 * DAY_MS);
        assert_eq!(next("0 0 * * 0", LEAP), next("0 0 * * 7", LEAP));
        assert_eq!(next("0 0 * * 0", LEAP), LEAP + 4 * DAY_MS);
        // The 1st, or a Friday.
        assert_eq!(next("0 0 1 * 5", LEAP), LEAP + 2 * DAY_MS);
    }

    #[test]
    fn a_schedule_that_cannot_be_meant_is_refused_in_words() {
        for (bad, word) in [
            ("", "fields"),
            ("0 2 * *", "fields"),
            ("60 * * * *", "minute"),
            ("* 24 * * *", "hour"),
            ("* * 0 * *", "day of the month"),
            ("* * * 13 *", "month"),
            ("* * * * 8", "day of the week"),
            ("5-1 * * * *", "backwards"),
            ("*/0 * * * *", "minute"),
            ("a * * * *", "minute"),
            ("1,,2 * * * *", "minute"),
            ("+1 * * * *", "minute"),
            ("0 0 30 2 *", "never"),
            ("99999999999999999999 * * * *", "minute"),
        ] {
            let error = Schedule::parse(bad).unwrap_err();
            assert!(error.contains(word), "{bad:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn the_next_time_is_meant_and_none_before_it_is(
            minute in prop_oneof![Just("*".to_owned()), (0u32..60).prop_map(|n| n.to_string()), (1u32..30).prop_map(|n| format!("*/{n}"))],
            hour in prop_oneof![Just("*".to_owned()), (0u32..24).prop_map(|n| n.to_string()), (0u32..12).prop_map(|n| format!("{n}-{}", n + 9))],
            weekday in prop_oneof![Just("*".to_owned()), (0u32..8).prop_map(|n| n.to_string())],
            at in 0i64..4_000_000_000_000,
        ) {
            let schedule = Schedule::parse(&format!("{minute} {hour} * * {weekday}")).unwrap();
            let next = schedule.next_after_ms(at).unwrap();
            prop_assert!(next > at && next % MINUTE_MS == 0 && next - at <= 8 * DAY_MS);
            let meant = |at: i64| {
                let at = at / MINUTE_MS;
                has(schedule.minutes, at % 60) && has(schedule.hours, at / 60 % 24) && schedule.means_day(at / DAY_MINUTES)
            };
            prop_assert!(meant(next));
            let mut before = at / MINUTE_MS * MINUTE_MS + MINUTE_MS;
            while before < next {
                prop_assert!(!meant(before));
                before += MINUTE_MS;
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[0-9*/, -]{0,30}", at in any::<i64>()) {
            if let Ok(schedule) = Schedule::parse(&text) {
                let _ = schedule.next_after_ms(at);
            }
        }
    }
}
