//! How Flink writes values: truth values, numbers, sizes, durations, lists (`FC/configuration/{ConfigurationUtils,MemorySize}`,
//! `FC/util/TimeUtils`). Errors say what would have been accepted.

use std::time::Duration;

/// `true` or `false`, in any case. Flink 1.8 takes everything else for `false`; later versions refuse it.
///
/// # Errors
/// What is accepted.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text.trim() {
        yes if yes.eq_ignore_ascii_case("true") => Ok(true),
        no if no.eq_ignore_ascii_case("false") => Ok(false),
        _ => Err("true or false".to_string()),
    }
}

/// A whole number.
///
/// # Errors
/// What is accepted.
pub fn integer(text: &str) -> Result<i64, String> {
    text.trim().parse().map_err(|_| "a whole number".to_string())
}

/// A fraction of one.
///
/// # Errors
/// What is accepted.
pub fn fraction(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.trim().parse().ok();
    number.filter(|n| (0.0..=1.0).contains(n)).ok_or_else(|| "a number from 0 to 1".to_string())
}

/// Units of sizes, in bytes, with the names that Flink knows.
const SIZE_UNITS: &[(u64, &[&str])] = &[
    (1, &["", "b", "bytes"]),
    (1 << 10, &["k", "kb", "kibibytes"]),
    (1 << 20, &["m", "mb", "mebibytes"]),
    (1 << 30, &["g", "gb", "gibibytes"]),
    (1 << 40, &["t", "tb", "tebibytes"]),
];

/// A size in bytes: `10485760b`, `64 mb`, `4096`.
///
/// # Errors
/// What is accepted.
pub fn size(text: &str) -> Result<u64, String> {
    let accepted = || "a size: a whole number and one of b, kb, mb, gb, tb (nothing: bytes)".to_string();
    let (number, unit) = number_and_unit(text).ok_or_else(accepted)?;
    let (factor, _) = SIZE_UNITS.iter().find(|(_, names)| names.contains(&unit.as_str())).ok_or_else(accepted)?;
    number.checked_mul(*factor).ok_or_else(|| "a size below 16777216 tb".to_string())
}

/// The shortest way to write a size without losing a byte.
pub fn show_size(bytes: u64) -> String {
    let unit = SIZE_UNITS.iter().rev().find(|(factor, _)| bytes != 0 && bytes.is_multiple_of(*factor));
    match unit {
        Some((factor, names)) if *factor > 1 => format!("{} {}", bytes / factor, names[1]),
        _ => format!("{bytes} bytes"),
    }
}

/// Units of time, in nanoseconds, with the names that Flink knows.
const TIME_UNITS: &[(u64, &[&str])] = &[
    (1, &["ns", "nano", "nanos", "nanosecond", "nanoseconds"]),
    (1_000, &["\u{b5}s", "\u{3bc}s", "micro", "micros", "microsecond", "microseconds"]),
    (1_000_000, &["", "ms", "milli", "millis", "millisecond", "milliseconds"]),
    (1_000_000_000, &["s", "sec", "secs", "second", "seconds"]),
    (60_000_000_000, &["min", "m", "minute", "minutes"]),
    (3_600_000_000_000, &["h", "hour", "hours"]),
    (86_400_000_000_000, &["d", "day", "days"]),
];

/// A duration: `10 s`, `500ms`, `1 min`; a number alone is milliseconds.
///
/// # Errors
/// What is accepted.
pub fn duration(text: &str) -> Result<Duration, String> {
    let accepted = || "a duration: a whole number and one of ms, s, min, h, d (nothing: milliseconds)".to_string();
    let (number, unit) = number_and_unit(text).ok_or_else(accepted)?;
    let (factor, _) = TIME_UNITS.iter().find(|(_, names)| names.contains(&unit.as_str())).ok_or_else(accepted)?;
    let too_long = || "a duration of at most 100 years".to_string();
    let nanoseconds = u128::from(number) * u128::from(*factor);
    let whole = Duration::from_secs(u64::try_from(nanoseconds / 1_000_000_000).map_err(|_| too_long())?);
    let rest = u64::try_from(nanoseconds % 1_000_000_000).map_err(|_| too_long())?;
    Some(whole + Duration::from_nanos(rest)).filter(|d| *d <= LONGEST).ok_or_else(too_long)
}

/// More than anybody waits; what is longer overflows somewhere.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The shortest way to write a duration without losing a nanosecond.
pub fn show_duration(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    let unit = TIME_UNITS.iter().rev().find(|(factor, _)| nanoseconds.is_multiple_of(u128::from(*factor)));
    match unit {
        _ if nanoseconds == 0 => "0 ms".to_string(),
        Some((factor, names)) => {
            let name = names.iter().find(|name| !name.is_empty()).unwrap_or(&"ns");
            format!("{} {name}", nanoseconds / u128::from(*factor))
        }
        None => format!("{nanoseconds} ns"),
    }
}

/// Directories, separated by commas or colons, as Flink splits paths; semicolons separate lists of later versions. Parts
/// of a URL belong together.
pub fn directories(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for part in text.split([',', ':', ';']) {
        match found.last_mut() {
            // `file` and `///data` were one.
            Some(last) if part.starts_with("//") && is_scheme(last) => {
                last.push(':');
                last.push_str(part.trim());
            }
            _ => found.push(part.trim().to_string()),
        }
    }
    found.retain(|path| !path.is_empty());
    found
}

/// Whether it can stand before `://`.
pub fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// `12 kb` as 12 and `kb`; None without a number, or with one that is no u64.
fn number_and_unit(text: &str) -> Option<(u64, String)> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number = text[..digits].parse().ok()?;
    Some((number, text[digits..].trim().to_lowercase()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_written_as_flink_writes_them() {
        for (text, bytes) in [
            ("10485760b", 10 << 20),
            ("4096", 4096),
            (" 64 MB ", 64 << 20),
            ("1g", 1 << 30),
            ("20 kibibytes", 20 << 10),
            ("2TB", 2 << 40),
            ("0", 0),
            ("7 bytes", 7),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text:?}");
        }
        for text in ["", "mb", "-1", "1.5 mb", "1 mib", "99999999999999999999", "99999999999 tb"] {
            assert!(size(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn durations_are_written_as_flink_writes_them() {
        let ms = Duration::from_millis;
        for (text, expected) in [
            ("10 s", ms(10_000)),
            ("500ms", ms(500)),
            ("60000", ms(60_000)),
            ("1 min", ms(60_000)),
            ("2M", ms(120_000)),
            ("1h", ms(3_600_000)),
            ("3 Days", ms(3 * 86_400_000)),
            ("5 millis", ms(5)),
            ("7 \u{b5}s", Duration::from_micros(7)),
            ("9 ns", Duration::from_nanos(9)),
            ("0 s", Duration::ZERO),
        ] {
            assert_eq!(duration(text), Ok(expected), "{text:?}");
        }
        for text in ["", "s", "-1 s", "1.5 s", "1 fortnight", "99999999999 d", "99999999999999999999"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn truth_values_and_fractions_are_exact() {
        assert_eq!((boolean("TRUE"), boolean(" false")), (Ok(true), Ok(false)));
        for text in ["yes", "1", "on", "", "truee"] {
            assert!(boolean(text).is_err(), "{text:?}");
        }
        assert_eq!(fraction("0.5"), Ok(0.5));
        for text in ["NaN", "-0.1", "1.1", "inf", "half"] {
            assert!(fraction(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn directories_are_split_as_paths_and_urls_stay_whole() {
        assert_eq!(directories("/a,/b:/c ; /d"), ["/a", "/b", "/c", "/d"]);
        assert_eq!(directories("file:///data/x,/b"), ["file:///data/x", "/b"]);
        assert_eq!(directories(" ,"), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn whatever_stands_there_is_read_or_refused(text in ".{0,40}") {
            let _ = (boolean(&text), integer(&text), fraction(&text), size(&text), duration(&text), directories(&text));
        }

        #[test]
        fn what_is_shown_is_read_back(bytes in any::<u64>(), nanoseconds in 0..LONGEST.as_nanos() as u64) {
            prop_assert_eq!(size(&show_size(bytes)), Ok(bytes));
            let time = Duration::from_nanos(nanoseconds);
            prop_assert_eq!(duration(&show_duration(time)), Ok(time));
        }
    }
}
