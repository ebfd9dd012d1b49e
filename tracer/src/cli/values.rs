//! Values on the command line.

use std::{sync::Arc, time::Duration};

use forkscope_common::mechanism::Mechanism;

use crate::{sink::stream::Rotate, workload::Amount};

/// At most so many bytes of a text, whole characters.
pub fn cut(text: &str, bytes: usize) -> String {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_string()
}

/// A mechanism by its name.
pub fn mechanism(text: &str) -> Result<Mechanism, String> {
    Mechanism::ALL.into_iter().find(|m| m.name() == text).ok_or_else(|| {
        let names: Vec<_> = Mechanism::ALL.iter().map(|m| m.name()).collect();
        format!("give one of {}", names.join(", "))
    })
}

/// A user by number or name.
pub fn user(text: &str) -> Result<u32, String> {
    if let Ok(uid) = text.parse() {
        return Ok(uid);
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    passwd
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == text).then(|| fields.nth(1)?.parse().ok())?
        })
        .ok_or_else(|| "no such user; give a number".into())
}

fn split_unit(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()))
}

/// `10s`, `500ms`, `2m`, `1h`; a number alone is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let scale = match unit {
        "ms" => 1e-3,
        "s" | "" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err("give 10s, 500ms, 2m or 1h".into()),
    };
    let seconds = number.parse::<f64>().map_err(|_| "give 10s, 500ms, 2m or 1h")? * scale;
    if seconds <= 0.0 {
        return Err("it must be longer than nothing".into());
    }
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|d| *d < Duration::from_secs(10 * 365 * 86_400))
        .ok_or_else(|| "that is too long".into())
}

/// `25%` or `0.25`: a share from 0 to 1.
pub fn share(text: &str) -> Result<f64, String> {
    let why = || "give a share from 0% to 100%".to_string();
    let share = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map(|percent| percent / 100.0),
        None => text.parse(),
    };
    share.ok().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(why)
}

/// `1000` pages, or `25%` of them.
pub fn amount(text: &str) -> Result<Amount, String> {
    if text.ends_with('%') {
        return share(text).map(Amount::Share);
    }
    text.parse().map(Amount::Pages).map_err(|_| "give a number of pages, or a share: 25%".into())
}

/// So many a second: `100`, `0.5`, `10k`.
pub fn rate(text: &str) -> Result<f64, String> {
    let text = text.strip_suffix("/s").unwrap_or(text);
    let (number, scale) = match text.strip_suffix('k') {
        Some(number) => (number, 1000.0),
        None => (text, 1.0),
    };
    let rate = number.parse::<f64>().map(|number| number * scale);
    rate.ok()
        .filter(|rate| (1e-3..=1e7).contains(rate))
        .ok_or_else(|| "give so many a second, from 0.001 to 10000k".into())
}

/// `0,2-3`: processors by number; nothing is all of them.
pub fn cpus(text: &str) -> Result<Arc<[usize]>, String> {
    let mut cpus = Vec::new();
    for range in text.split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        match (first.parse::<usize>(), last.parse::<usize>()) {
            (Ok(first), Ok(last)) if first <= last && last < 1024 => cpus.extend(first..=last),
            _ => return Err("give processors by number: 0,2-3".into()),
        }
    }
    Ok(cpus.into())
}

/// `64MiB`, `1GiB`, `4096`; decimal units too.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split_unit(text);
    let scale: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err("give bytes, or 64KiB, 16MiB, 1GiB".into()),
    };
    let value =
        number.parse::<f64>().map_err(|_| "give bytes, or 64KiB, 16MiB, 1GiB")? * scale as f64;
    if value < 9e18 { Ok(value as u64) } else { Err("that is too much".into()) }
}

/// `100MB`, `1GiB`, `30m`, `1h`, or one of each: `100MB,1h`.
pub fn rotate(text: &str) -> Result<Rotate, String> {
    const HINT: &str = "give a size or a time with its unit, such as 100MB, 1GiB, 30m or 1h";
    let mut rotate = Rotate::default();
    for part in text.split(',') {
        let twice = match split_unit(part).1 {
            "ms" | "s" | "m" | "min" | "h" | "d" => {
                let time = duration(part)?;
                if time < Duration::from_secs(1) {
                    return Err("a piece lasts a second at least".into());
                }
                rotate.time.replace(time).is_some()
            }
            "" => return Err(HINT.into()),
            _ => {
                let bytes = size(part).map_err(|_| HINT)?;
                if bytes < 1 << 14 {
                    return Err("a piece has 16 KiB at least".into());
                }
                rotate.bytes.replace(bytes).is_some()
            }
        };
        if twice {
            return Err("one size and one time at most".into());
        }
    }
    Ok(rotate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_read() {
        for (text, expected) in [
            ("10s", Some(Duration::from_secs(10))),
            ("1.5s", Some(Duration::from_millis(1500))),
            ("500ms", Some(Duration::from_millis(500))),
            ("2m", Some(Duration::from_secs(120))),
            ("3", Some(Duration::from_secs(3))),
            ("0", None),
            ("0s", None),
            ("-1s", None),
            ("10x", None),
            ("", None),
            ("999999999999h", None),
        ] {
            assert_eq!(duration(text).ok(), expected, "{text:?}");
        }
        for (text, expected) in [
            ("4096", Some(4096)),
            ("16MiB", Some(16 << 20)),
            ("1.5k", Some(1536)),
            ("1GB", Some(1_000_000_000)),
            ("x", None),
            ("1Q", None),
            ("99999999999T", None),
        ] {
            assert_eq!(size(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn rotation_is_by_size_or_time() {
        let at =
            |bytes, seconds| Ok(Rotate { bytes, time: Option::map(seconds, Duration::from_secs) });
        for (text, expected) in [
            ("100MB", at(Some(100_000_000), None)),
            ("1GiB", at(Some(1 << 30), None)),
            ("1h", at(None, Some(3600))),
            ("30m", at(None, Some(1800))),
            ("64M,90s", at(Some(64 << 20), Some(90))),
        ] {
            assert_eq!(rotate(text), expected, "{text:?}");
        }
        for text in ["", "100", "1x", "10ms", "1KB", "1h,2h", "1MB,2MB", ",", "-1h"] {
            assert!(rotate(text).is_err(), "{text:?}");
        }
    }
}
