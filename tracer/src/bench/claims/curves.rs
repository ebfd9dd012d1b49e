//! Claims about how a cost follows the parent's size.

use super::verdict::{Figures, Ruling, Verdict};
use crate::bench::{
    Unit,
    experiments::tools::shown,
    fit::{median, rises_to},
    text::number,
};

/// What was measured with one size of parent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Memory that the parent was given, in bytes: its data.
    pub data: u64,
    /// A median in nanoseconds, or a ratio.
    pub value: f64,
}

/// By size, which rises.
pub type Curve = Vec<Point>;

/// "4–5 times": what rounds to 4 or 5.
const FOUR: f64 = 3.5;
const FIVE: f64 = 5.5;

/// "As efficient": within a quarter, which is more than medians of the same thing differ by.
const AS_EFFICIENT: f64 = 1.25;

/// "Depends on the size": at the largest it is so many times what it is at the smallest.
const DEPENDS: f64 = 2.0;

/// Nothing to speak of, next to what fork's time grows by: a busy CPU adds more to a thread's.
const NEXT_TO: f64 = 0.01;

/// "Costs like": within a half.
const ALIKE: f64 = 1.5;

fn ns(value: f64) -> String {
    number(value, Unit::Ns)
}

fn bytes(value: f64) -> String {
    number(value, Unit::Bytes)
}

fn times(value: f64) -> String {
    // One decimal would hide on which side of a tenth it is.
    if value < 1.995 { format!("{value:.2}×") } else { number(value, Unit::Ratio) }
}

/// `with 16 MiB`
fn with(point: &Point) -> String {
    match point.data {
        0 => "without data".into(),
        data => format!("with {}", bytes(data as f64)),
    }
}

/// How many times the one is the other, at the sizes that both have.
fn ratio(one: &Curve, other: &Curve) -> Result<Curve, String> {
    let pairs = one.iter().filter_map(|point| {
        let value = point.value / other.iter().find(|other| other.data == point.data)?.value;
        (value.is_finite() && value > 0.0).then_some(Point { value, ..*point })
    });
    let ratios: Curve = pairs.collect();
    ends(&ratios)?;
    Ok(ratios)
}

fn ends(curve: &Curve) -> Result<(Point, Point), String> {
    match curve[..] {
        [first, .., last] => Ok((first, last)),
        _ => Err("measured with one size of parent only: there is too little memory".into()),
    }
}

fn value_at(curve: &Curve, data: u64) -> f64 {
    curve.iter().find(|point| point.data == data).map_or(f64::NAN, |point| point.value)
}

/// Where it comes to a level, in bytes of data; as the experiments find it.
fn crossing(curve: &Curve, level: f64) -> Option<f64> {
    let points: Vec<_> = curve.iter().map(|point| (shown(point.data), point.value)).collect();
    rises_to(&points, level)
}

/// `1.1× with no data, 9.5× with 64 MiB, …`
fn told(ratios: &Curve) -> String {
    let list = ratios.iter().map(|point| format!("{} {}", times(point.value), with(point)));
    list.collect::<Vec<_>>().join(", ")
}

/// `NAME.16MiB`, as experiments name theirs.
fn by_size(figures: &mut Figures, name: &str, curve: &Curve) {
    for point in curve {
        figures.add(format!("{name}.{}MiB", point.data >> 20), point.value);
    }
}

/// 4: vfork is 4–5 times faster than fork. The same work both ways: from the call until the child
/// has executed something and was collected.
pub fn four_to_five(fork: &Curve, vfork: &Curve) -> Result<Ruling, String> {
    let ratios = ratio(fork, vfork)?;
    let (first, last) = ends(&ratios)?;
    let is = |point: &Point| (FOUR..FIVE).contains(&point.value);
    let verdict = if ratios.iter().all(is) {
        Verdict::Holds
    } else if is(&first) {
        crossing(&ratios, FIVE).map_or(Verdict::Not, Verdict::UpTo)
    } else {
        let end = || crossing(&ratios, 5.0).unwrap_or(last.data as f64);
        let begin = crossing(&ratios, 4.0).filter(|_| first.value < FOUR);
        begin.map_or(Verdict::Not, |begin| Verdict::Between(begin, end()))
    };
    let mut figures = Figures::default();
    by_size(&mut figures, "fork_vfork_ratio", &ratios);
    let mut evidence = format!("fork+exec takes {} of vfork+exec", told(&ratios));
    if let Verdict::Between(begin, end) = verdict {
        figures.add("from_bytes", begin).add("to_bytes", end);
        evidence.push_str(&format!("; 4–5× from {} to {}, less below", bytes(begin), bytes(end)));
    }
    if let Verdict::UpTo(end) = verdict {
        figures.add("to_bytes", end);
    }
    Ok(Ruling { figures, evidence, verdict })
}

/// 5: fork+exec is today as efficient as vfork+exec. The same curves, but for parents without data,
/// where runs differ most: there it is the median of `runs`, each a ratio.
pub fn as_efficient(fork: &Curve, vfork: &Curve, runs: Vec<f64>) -> Result<Ruling, String> {
    let mut ratios = ratio(fork, vfork)?;
    let count = runs.len();
    if let Some(value) = median(runs) {
        ratios.retain(|point| point.data > 0);
        ratios.insert(0, Point { data: 0, value });
    }
    // Without data there is next to nothing that fork could copy: a claim that holds there alone
    // does not hold for any program that has some.
    let smallest = ratios.iter().find(|point| point.data > 0).ok_or("no parent had data")?;
    let is = |point: &Point| point.value <= AS_EFFICIENT;
    let verdict = match crossing(&ratios, AS_EFFICIENT) {
        _ if ratios.iter().all(is) => Verdict::Holds,
        Some(end) if is(smallest) => Verdict::UpTo(end),
        _ => Verdict::Not,
    };
    let mut figures = Figures::default();
    by_size(&mut figures, "fork_vfork_ratio", &ratios);
    if let Verdict::UpTo(end) = verdict {
        figures.add("up_to_bytes", end);
    }
    figures.add("runs_without_data", count as f64);
    let evidence = format!(
        "from the call to the reaped child fork+exec takes {} of vfork+exec (as efficient: within \
         {AS_EFFICIENT}×); without data the median of {count} runs",
        told(&ratios)
    );
    Ok(Ruling { figures, evidence, verdict })
}

/// 6: vfork's gain depends on the size of the parent's data.
pub fn gain_depends(fork: &Curve, vfork: &Curve) -> Result<Ruling, String> {
    let ratios = ratio(fork, vfork)?;
    let (first, last) = ends(&ratios)?;
    let saved = |at: Point| value_at(fork, at.data) - value_at(vfork, at.data);
    let (least, most) = (saved(first), saved(last));
    let told = |saved: f64, at: &Point| {
        let saved = if saved < 0.0 { "nothing".to_owned() } else { ns(saved) };
        format!("{saved} ({}) {}", times(at.value), with(at))
    };
    Ok(Ruling::plain(
        last.value >= DEPENDS * first.value && most > least,
        [
            ("smallest_data_bytes", first.data as f64),
            ("gain_at_smallest_ns", least),
            ("ratio_at_smallest", first.value),
            ("largest_data_bytes", last.data as f64),
            ("gain_at_largest_ns", most),
            ("ratio_at_largest", last.value),
        ],
        format!("vfork saves {}, {}", told(least, &first), told(most, &last)),
    ))
}

/// 8: thread creation does not depend on the parent's memory.
pub fn threads_flat(thread: &Curve, fork: &Curve) -> Result<Ruling, String> {
    let (first, last) = ends(thread)?;
    let (small, large) = ends(fork)?;
    let grows = last.value - first.value;
    Ok(Ruling::plain(
        last.value < DEPENDS * first.value || grows < NEXT_TO * (large.value - small.value),
        [
            ("smallest_data_bytes", first.data as f64),
            ("thread_at_smallest_ns", first.value),
            ("largest_data_bytes", last.data as f64),
            ("thread_at_largest_ns", last.value),
            ("fork_at_smallest_ns", small.value),
            ("fork_at_largest_ns", large.value),
        ],
        format!(
            "a thread takes {} {}, {} {}; fork goes from {} to {}",
            ns(first.value),
            with(&first),
            ns(last.value),
            with(&last),
            ns(small.value),
            ns(large.value)
        ),
    ))
}

/// Starting a program from parents of one shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Starts {
    /// By `posix_spawn`.
    pub spawn: Curve,
    /// By fork and exec.
    pub fork: Curve,
    /// By vfork and exec.
    pub vfork: Curve,
}

/// 10: `posix_spawn` costs like vfork+exec, not like fork+exec. Like the one in the median over
/// all shapes and sizes: with large parents there is time for few calls. Not like the other with
/// the largest parent of the first shape.
pub fn spawn_like_vfork(shapes: &[Starts]) -> Result<Ruling, String> {
    let dirty = shapes.first().ok_or("nothing was measured")?;
    let mut near = Vec::new();
    for shape in shapes {
        near.extend(ratio(&shape.spawn, &shape.vfork)?.iter().map(|point| point.value));
    }
    let cases = near.len();
    let near = median(near).ok_or("nothing was measured")?;
    let far = ends(&ratio(&dirty.fork, &dirty.spawn)?)?.1;
    if near < ALIKE && far.value < ALIKE {
        let what = "fork+exec costs no more than vfork+exec with the largest parent that fits here";
        return Err(what.into());
    }
    let at = |curve| value_at(curve, far.data);
    let (spawn, vfork, fork) = (at(&dirty.spawn), at(&dirty.vfork), at(&dirty.fork));
    Ok(Ruling::plain(
        near < ALIKE && near > 1.0 / ALIKE && far.value >= ALIKE,
        [
            ("data_bytes", far.data as f64),
            ("posix_spawn_ns", spawn),
            ("vfork_exec_ns", vfork),
            ("fork_exec_ns", fork),
            ("posix_spawn_per_vfork_exec", near),
            ("fork_exec_per_posix_spawn", far.value),
        ],
        format!(
            "posix_spawn takes {} of vfork+exec (median of {cases} shapes and sizes); {}: \
             posix_spawn {}, vfork+exec {}, fork+exec {}",
            times(near),
            with(&far),
            ns(spawn),
            ns(vfork),
            ns(fork)
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: f64 = 1048576.0;

    fn curve(values: [f64; 3]) -> Curve {
        let point = |(mib, value)| Point { data: mib << 20, value };
        [0_u64, 64, 1024].into_iter().zip(values).map(point).collect()
    }

    const FLAT: [f64; 3] = [100.0, 100.0, 100.0];

    fn check(found: Result<Ruling, String>, expected: &str) {
        let ruling = found.unwrap();
        assert_eq!(ruling.verdict.words(), expected, "{}", ruling.evidence);
        assert!(ruling.figures.len() >= 2, "{ruling:?}");
    }

    #[test]
    fn vfork_is_four_to_five_times_faster_or_not() {
        for (fork, expected) in [
            ([400.0, 450.0, 500.0], "holds"),
            ([350.0, 450.0, 549.0], "holds"),
            ([349.0, 450.0, 549.0], "holds up to 256 MiB"),
            ([400.0, 545.0, 5000.0], "holds up to 64 MiB"),
            ([110.0, 900.0, 7000.0], "holds up to 16 MiB"),
            ([110.0, 120.0, 340.0], "does not hold here"),
            ([551.0, 900.0, 7000.0], "does not hold here"),
        ] {
            check(four_to_five(&curve(fork), &curve(FLAT)), expected);
        }
        let between = four_to_five(&curve([110.0, 900.0, 7000.0]), &curve(FLAT)).unwrap();
        let Verdict::Between(from, to) = between.verdict else { panic!("{between:?}") };
        assert!(
            (12.0..14.0).contains(&(from / M)) && (18.0..22.0).contains(&(to / M)),
            "{from} {to}"
        );
    }

    #[test]
    fn as_efficient_is_within_a_quarter() {
        for (fork, expected) in [
            ([100.0, 105.0, 124.0], "holds"),
            ([100.0, 124.0, 130.0], "holds up to 64 MiB"),
            ([100.0, 250.0, 2000.0], "does not hold here"),
            ([126.0, 250.0, 2000.0], "does not hold here"),
        ] {
            let first = vec![fork[0] / 100.0, 0.5, 9.0];
            check(as_efficient(&curve([1.0, fork[1], fork[2]]), &curve(FLAT), first), expected);
        }
    }

    #[test]
    fn a_gain_depends_on_size_or_not() {
        for (fork, expected) in [
            ([110.0, 150.0, 220.0], "holds"),
            ([110.0, 150.0, 219.0], "does not hold here"),
            ([90.0, 800.0, 9000.0], "holds"),
        ] {
            check(gain_depends(&curve(fork), &curve(FLAT)), expected);
        }
    }

    #[test]
    fn threads_are_flat_or_not() {
        for (thread, fork, expected) in [
            ([20.0, 25.0, 39.0], [100.0, 900.0, 900.0], "holds"),
            ([20.0, 25.0, 40.0], [100.0, 900.0, 900.0], "does not hold here"),
            ([20.0, 25.0, 40.0], [100.0, 900.0, 2101.0], "holds"),
            ([20.0, 25.0, 40.0], [100.0, 900.0, 2099.0], "does not hold here"),
        ] {
            check(threads_flat(&curve(thread), &curve(fork)), expected);
        }
    }

    #[test]
    fn posix_spawn_is_like_the_one_or_the_other() {
        for (spawn, fork, expected) in [
            ([100.0, 149.0, 149.0], [120.0, 300.0, 4000.0], Some("holds")),
            ([100.0, 100.0, 20.0], [120.0, 300.0, 4000.0], Some("holds")),
            ([100.0, 151.0, 151.0], [120.0, 300.0, 4000.0], Some("does not hold here")),
            ([100.0, 300.0, 3900.0], [120.0, 300.0, 4000.0], Some("does not hold here")),
            ([100.0, 60.0, 60.0], [120.0, 300.0, 4000.0], Some("does not hold here")),
            ([100.0, 100.0, 100.0], [120.0, 120.0, 149.0], None),
        ] {
            let one = Starts { spawn: curve(spawn), fork: curve(fork), vfork: curve(FLAT) };
            let found = spawn_like_vfork(&[one]);
            match expected {
                Some(expected) => check(found, expected),
                None => assert!(found.is_err(), "{found:?}"),
            }
        }
        assert!(spawn_like_vfork(&[]).is_err());
    }

    #[test]
    fn one_size_is_too_few() {
        let one = curve(FLAT)[..1].to_vec();
        assert!(four_to_five(&one, &one).is_err());
        assert!(threads_flat(&one, &one).is_err());
    }
}
