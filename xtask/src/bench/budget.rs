//! What tracing may cost, and whether it does.

use serde_json::{Value, json};

use super::{figures::Estimate, programs::Group, record::Run, workloads::Workload};

/// A promise, and what became of it in a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub title: &'static str,
    pub unit: Unit,
    /// What it may be at most, in words where it is not the same in every run.
    pub limit: String,
    pub measured: Option<Estimate>,
    /// What it is to be held against: the noise, or the other row.
    pub beside: String,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Times,
    Nanoseconds,
    Percent,
    Mebibytes,
    Seconds,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Met,
    /// The interval reaches beyond the limit.
    MetNotSurely,
    NotMet,
    /// The interval reaches to what is allowed.
    NotMetNotSurely,
    /// There is no figure, and why.
    Unknown(String),
}

impl Line {
    /// With one more figure to be held against.
    fn beside_too(mut self, name: &str, figure: String) -> Self {
        if !self.beside.is_empty() {
            self.beside += "; ";
        }
        self.beside += &format!("{name} {figure}");
        self
    }
}

impl Verdict {
    /// At most so much, which itself is known so well.
    pub fn of(measured: Estimate, most: Estimate) -> Self {
        match (measured.median <= most.median, measured.high <= most.low, measured.low > most.high)
        {
            (true, true, _) => Self::Met,
            (true, false, _) => Self::MetNotSurely,
            (false, _, false) => Self::NotMetNotSurely,
            (false, _, true) => Self::NotMet,
        }
    }

    pub fn is_met(&self) -> bool {
        matches!(self, Self::Met | Self::MetNotSurely)
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Met => "met",
            Self::MetNotSurely => "met, not surely",
            Self::NotMet => "NOT MET",
            Self::NotMetNotSurely => "NOT MET, not surely",
            Self::Unknown(why) => return write!(f, "not judged: {why}"),
        })
    }
}

impl Unit {
    pub fn text(self, value: f64) -> String {
        match self {
            Self::Times => format!("{value:.3}"),
            Self::Nanoseconds => format!("{} ns", super::table::whole(value)),
            Self::Percent => format!("{value:.3} %"),
            Self::Mebibytes => format!("{value:.1} MiB"),
            Self::Seconds => format!("{value:.3} s"),
        }
    }

    /// The median, and the interval where there is one.
    pub fn estimate(self, estimate: Estimate) -> String {
        let Estimate { median, low, high } = estimate;
        if low == high {
            return self.text(median);
        }
        let bare = |value| self.text(value).split(' ').next().unwrap_or_default().to_owned();
        format!("{} ({}–{})", self.text(median), bare(low), bare(high))
    }
}

/// Every line of the budget.
pub fn lines(run: &Run) -> Vec<Line> {
    let beside_empty = |line: Line, what| match ratio(run, "hooks", what) {
        Ok(hooks) => line.beside_too("empty programs", Unit::Times.estimate(hooks)),
        Err(_) => line,
    };
    let everything =
        |title, what, most| beside_empty(slowdown(run, title, "trace", what, most), what);
    let against = |title, rows, what| beside_empty(against(run, title, rows, what), what);
    let kernel = |title, what, group, most| {
        let timed = run.timed_in("trace", key(what));
        let missing = || match timed.and_then(|timed| timed.void.as_ref()) {
            Some(why) => format!("void: {why}"),
            None => "not measured".into(),
        };
        let measured = timed.and_then(|timed| timed.per_unit(group)).map(Estimate::exactly);
        let line = plain(title, Unit::Nanoseconds, measured.ok_or_else(missing), most);
        match run.timed_in("hooks", key(what)).and_then(|empty| empty.per_unit(group)) {
            Some(ns) => line.beside_too("empty programs", Unit::Nanoseconds.text(ns)),
            None => line,
        }
    };
    let row = run.row("trace");
    let of_row = |measured: Option<Estimate>| {
        measured.ok_or_else(|| match row {
            Some(row) => void(row.void.as_ref(), row.skipped.as_ref()),
            None => "not measured".into(),
        })
    };
    let alone = |pick: fn(&super::record::Alone) -> &Vec<f64>| match &run.alone {
        None => Err("not measured".into()),
        Some(alone) => match (&alone.void, Estimate::of(pick(alone).iter().copied())) {
            (_, Some(estimate)) => Ok(estimate),
            (why, None) => Err(void(why.as_ref(), None)),
        },
    };
    let peak = row.and_then(|row| row.peak_mib()).map(Estimate::exactly);
    use Workload::{Cow, Exec, Fork, Make, Redis, Thread};
    vec![
        everything("fork+exec+wait", Exec, 1.05),
        against("fork+exec+wait, not above execsnoop", ("trace", "execsnoop"), Exec),
        everything("thread create+join", Thread, 1.15),
        everything("COW loop", Cow, 1.15),
        slowdown(run, "COW loop, --measure cow", "cow", Cow, 1.05),
        everything("make -j2", Make, 1.02),
        everything("Redis GET/SET under BGSAVE, throughput ≥ 0.98", Redis, 1.0 / 0.98),
        unnoticed(run, "getppid without latency", "most"),
        against("getppid, not above one tracepoint", ("trace", "one"), Workload::Getppid),
        unnoticed(run, "getppid, fentry backend", "fentry"),
        kernel("programs of a spawn, thread loop", Thread, Group::Spawn, 1_000.0),
        kernel("programs of a spawn, fork+exit loop", Fork, Group::Spawn, 1_000.0),
        kernel("programs of an exec with arguments", Exec, Group::Exec, 2_500.0),
        kernel("programs of an exit, thread loop", Thread, Group::Exit, 800.0),
        kernel("programs of an exit, fork+exit loop", Fork, Group::Exit, 800.0),
        kernel("programs of a fault, COW loop", Cow, Group::Fault, 200.0),
        plain("CPU per event to a JSON file", Unit::Nanoseconds, of_row(per_event(run)), 1_500.0),
        plain("CPU when idle", Unit::Percent, alone(|alone| &alone.idle_percent), 0.1),
        plain("peak resident memory", Unit::Mebibytes, of_row(peak), 64.0),
        plain("first event after", Unit::Seconds, alone(|alone| &alone.first_event_s), 0.3),
    ]
}

/// As written beside the figures.
pub fn to_json(lines: &[Line]) -> Value {
    let line = |line: &Line| {
        let interval = line.measured.map(|estimate| [estimate.low, estimate.high]);
        json!({
            "line": line.title,
            "limit": line.limit,
            "measured": line.measured.map(|estimate| estimate.median),
            "interval": interval,
            "beside": line.beside,
            "verdict": line.verdict.to_string(),
        })
    };
    lines.iter().map(line).collect()
}

fn key(what: Workload) -> &'static str {
    what.key()
}

/// Why there is no figure.
fn void(void: Option<&String>, skipped: Option<&String>) -> String {
    match (void, skipped) {
        (Some(why), _) if why.starts_with("skipped") => why.clone(),
        (Some(why), _) => format!("void: {why}"),
        (_, Some(why)) => format!("skipped: {why}"),
        _ => "not measured".into(),
    }
}

fn ratio(run: &Run, row_key: &str, what: Workload) -> Result<Estimate, String> {
    let Some(row) = run.row(row_key) else { return Err("not measured".into()) };
    let cell = row.cell(key(what));
    let why = row.void.as_ref().or(cell.and_then(|cell| cell.void.as_ref()));
    if why.is_some() || row.skipped.is_some() {
        return Err(void(why, row.skipped.as_ref()));
    }
    cell.and_then(|cell| cell.slowdown()).ok_or_else(|| "not measured".into())
}

fn noise(run: &Run, what: Workload) -> String {
    match ratio(run, "aa", what) {
        Ok(noise) => format!("A/A {}", Unit::Times.estimate(noise)),
        Err(_) => "no A/A".into(),
    }
}

fn plain(title: &'static str, unit: Unit, measured: Result<Estimate, String>, most: f64) -> Line {
    let limit = match unit {
        Unit::Times if most == 1.0 / 0.98 => "≤ 1/0.98".into(),
        Unit::Times => format!("≤ {most:.2}"),
        Unit::Nanoseconds => format!("≤ {}", unit.text(most)),
        Unit::Percent => format!("≤ {most} %"),
        Unit::Mebibytes => format!("≤ {most} MiB"),
        Unit::Seconds => format!("≤ {most} s"),
    };
    judged(title, unit, limit, measured, Ok(Estimate::exactly(most)), String::new())
}

fn judged(
    title: &'static str,
    unit: Unit,
    limit: String,
    measured: Result<Estimate, String>,
    most: Result<Estimate, String>,
    beside: String,
) -> Line {
    let verdict = match (&measured, most) {
        (Ok(measured), Ok(most)) => Verdict::of(*measured, most),
        (Err(why), _) => Verdict::Unknown(why.clone()),
        (_, Err(why)) => Verdict::Unknown(why),
    };
    Line { title, unit, limit, measured: measured.ok(), beside, verdict }
}

fn slowdown(run: &Run, title: &'static str, row: &str, what: Workload, most: f64) -> Line {
    let line = plain(title, Unit::Times, ratio(run, row, what), most);
    Line { beside: noise(run, what), ..line }
}

/// At most what another row costs.
fn against(run: &Run, title: &'static str, rows: (&str, &str), what: Workload) -> Line {
    let other = ratio(run, rows.1, what);
    let name = if rows.1 == "one" { "one tracepoint" } else { rows.1 };
    let beside = match &other {
        Ok(other) => format!("{name} {}; {}", Unit::Times.estimate(*other), noise(run, what)),
        Err(_) => noise(run, what),
    };
    let other = other.map_err(|why| format!("{name}: {why}"));
    judged(title, Unit::Times, format!("≤ {name}"), ratio(run, rows.0, what), other, beside)
}

/// 1.00, as far as the noise lets that be seen: at most the upper end of the A/A interval.
fn unnoticed(run: &Run, title: &'static str, row: &str) -> Line {
    let what = Workload::Getppid;
    let noise_of = ratio(run, "aa", what).map_err(|why| format!("A/A: {why}"));
    let most = noise_of.map(|noise| Estimate::exactly(noise.high.max(1.0)));
    let limit = "1.00, ± A/A".to_owned();
    judged(title, Unit::Times, limit, ratio(run, row, what), most, noise(run, what))
}

/// In nanoseconds, over the storms of processes and of threads together.
fn per_event(run: &Run) -> Option<Estimate> {
    let fork = run.cell("trace", "fork").filter(|cell| cell.void.is_none())?;
    let thread = run.cell("trace", "thread").filter(|cell| cell.void.is_none())?;
    let each = fork.pairs.iter().zip(&thread.pairs).filter_map(|(fork, thread)| {
        let events = fork.delivered? + thread.delivered?;
        (events > 0).then_some((fork.cpu_ns? + thread.cpu_ns?) / events as f64)
    });
    Estimate::of(each)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::sample;

    #[test]
    fn verdicts_follow_from_medians_and_intervals() {
        let estimate = |low, median, high| Estimate { median, low, high };
        let check = |measured, most, expected| {
            assert_eq!(Verdict::of(measured, most), expected, "{measured:?}");
        };
        let most = Estimate::exactly(1.05);
        check(estimate(1.0, 1.02, 1.05), most, Verdict::Met);
        check(estimate(1.0, 1.02, 1.06), most, Verdict::MetNotSurely);
        check(estimate(1.04, 1.06, 1.07), most, Verdict::NotMetNotSurely);
        check(estimate(1.051, 1.06, 1.07), most, Verdict::NotMet);
        check(Estimate::exactly(1.05), most, Verdict::Met);
        // Against another row, whose interval counts too.
        let other = estimate(1.04, 1.05, 1.08);
        check(estimate(1.0, 1.02, 1.03), other, Verdict::Met);
        check(estimate(1.0, 1.02, 1.045), other, Verdict::MetNotSurely);
        check(estimate(1.06, 1.07, 1.09), other, Verdict::NotMetNotSurely);
        check(estimate(1.081, 1.09, 1.1), other, Verdict::NotMet);
    }

    #[test]
    fn every_line_is_judged_or_says_why_not() {
        let lines = lines(&sample::run());
        let of = |title: &str| lines.iter().find(|line| line.title == title).unwrap();
        let check = |title, verdict: &str| {
            assert_eq!(of(title).verdict.to_string(), verdict, "{title}: {:?}", of(title));
        };
        check("fork+exec+wait", "met");
        check("fork+exec+wait, not above execsnoop", "met");
        check("thread create+join", "NOT MET");
        check("getppid without latency", "met");
        check("getppid, fentry backend", "not judged: skipped: refused by the kernel");
        check("make -j2", "not judged: void: pair 3: it lost 7 events");
        check("programs of a spawn, thread loop", "NOT MET");
        check("programs of a fault, COW loop", "not judged: not measured");
        check("CPU per event to a JSON file", "met");
        check("peak resident memory", "met");
        check("first event after", "met, not surely");
        assert_eq!(of("fork+exec+wait").beside, "A/A 1.000 (0.990–1.010); empty programs 1.030");
        assert_eq!(of("thread create+join").beside, "A/A 1.000 (0.990–1.010)");
        assert_eq!(of("programs of a spawn, thread loop").beside, "empty programs 40 ns");
        assert_eq!(of("programs of a spawn, thread loop").limit, "≤ 1,000 ns");
    }

    #[test]
    fn estimates_are_written_with_their_intervals() {
        let estimate = Estimate { median: 1500.0, low: 1400.4, high: 1600.0 };
        assert_eq!(Unit::Nanoseconds.estimate(estimate), "1,500 ns (1,400–1,600)");
        assert_eq!(Unit::Times.estimate(Estimate::exactly(1.0)), "1.000");
    }
}
