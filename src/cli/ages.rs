//! Lengths of time as people type them.
//!
//! Owns: their grammar. Must not know: what they are used for.

/// `90s`, `15m`, `12h`, `7d` → milliseconds.
pub fn parse_age(text: &str) -> Result<i64, String> {
    let wrong = || format!("`{text}` is not an age like 90s, 15m, 12h or 7d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let unit_ms = match unit {
        's' => 1_000,
        'm' => 60_000,
        'h' => 3_600_000,
        'd' => 86_400_000,
        _ => return Err(wrong()),
    };
    let count: u32 = text.strip_suffix(unit).unwrap_or_default().parse().map_err(|_| wrong())?;
    Ok(i64::from(count) * unit_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_read_with_its_unit() {
        assert_eq!(parse_age("90s"), Ok(90_000));
        assert_eq!(parse_age("7d"), Ok(604_800_000));
        for bad in ["", "7", "d", "-1d", "1w", "1.5h", "7é"] {
            assert!(parse_age(bad).is_err(), "{bad}");
        }
    }
}
