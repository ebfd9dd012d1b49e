//! What each kernel is known to have: an oracle for the matrix, and for nothing else. The tracer
//! itself compares no versions.

use serde_json::Value;

use super::{Arch, Backend, console::Outcome};
use crate::kernels::Series;

/// The suites of each backend, in the order of the table.
pub const SUITES: [&str; 4] = ["doctor", "events", "cow", "loss"];
/// What stands for the name of a backend where a suite takes all of them, or the best.
pub const ALL: &str = "all";
/// The suites of that.
pub const TOGETHER: [&str; 2] = [AGREEMENT, "suspend"];
/// That takes more than one.
pub const AGREEMENT: &str = "agreement";

/// Whether a kernel must have this, a suite or a measurement; `None` where nothing is known of it.
fn must_have(arch: Arch, series: &Series, backend: Backend, what: &str) -> Option<bool> {
    let series = match series {
        Series::Of(series) => series.as_str(),
        Series::Newest => "newest",
        Series::File(_) => return None,
    };
    match (arch, series, backend, what) {
        // To a tracepoint such a fault looks like any other.
        (_, _, Backend::Tracepoint, "hugetlb") => Some(false),
        // No tracepoint of the point of no return yet.
        (_, "5.10" | "6.1", Backend::Tracepoint, "exec_phases") => Some(false),
        // No tracepoints of mmap_lock yet.
        (Arch::X86_64, "5.10", Backend::Tracepoint, "copy") => Some(false),
        (Arch::X86_64, "5.10" | "6.1" | "6.12" | "newest", _, _) => Some(true),
        // No tracepoint of user space's page faults; and a child does not return through the end
        // of a syscall.
        (
            Arch::Aarch64,
            "6.1" | "6.12",
            Backend::Tracepoint,
            "cow" | "cow_fault" | "huge_splits" | "start_delay",
        ) => Some(false),
        // No trampolines yet.
        (Arch::Aarch64, "6.1", Backend::Fentry, _) => Some(false),
        (Arch::Aarch64, "6.1" | "6.12", _, _) => Some(true),
        _ => None,
    }
}

/// Whether what a kernel must have is exact there, too: said of copy-on-write alone.
fn must_be_whole(arch: Arch, series: &Series, backend: Backend, what: &str) -> Option<bool> {
    // No mark of pages that have one owner yet.
    let unmarked = *series == Series::Of("5.10".to_owned());
    (what == "cow" && !unmarked).then(|| must_have(arch, series, backend, what))?
}

/// The outcome in the light of what is known: what must be there and is not has failed, and what
/// nobody expected is as good as skipped.
pub fn judge(
    arch: Arch,
    series: &Series,
    backends: &[Backend],
    cell: (&str, &str),
    outcome: Outcome,
) -> Outcome {
    let Outcome::Unavailable(why) = outcome else { return outcome };
    let (backend, suite) = cell;
    let must = |backend: &Backend| must_have(arch, series, *backend, suite) == Some(true);
    let expected = if backend == ALL {
        let backends = backends.iter().filter(|backend| must(backend)).count();
        backends >= if suite == AGREEMENT { 2 } else { 1 }
    } else {
        backends.iter().filter(|known| known.name() == backend).any(must)
    };
    if expected {
        Outcome::Failed(format!("this kernel has it, but: {why}"))
    } else {
        Outcome::Unavailable(why)
    }
}

/// What `doctor` says of measurements that a backend does not have here, or not in full; and of
/// those, the ones that it must have.
pub fn shortfalls(
    arch: Arch,
    series: &Series,
    backend: &str,
    doctor: &Value,
) -> (Vec<String>, Vec<String>) {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(String::from);
    let (mut all, mut grave) = (Vec::new(), Vec::new());
    let known = Backend::ALL.into_iter().find(|known| known.name() == backend);
    let there = doctor.get("backends").and_then(|all| text(all, backend));
    let (Some(known), Some("ok")) = (known, there.as_deref()) else { return (all, grave) };
    let measurements = doctor.get("measurements").and_then(Value::as_array);
    for measurement in measurements.into_iter().flatten() {
        let of = |key: &str| text(measurement, key).unwrap_or_default();
        let (name, state) = (of("measurement"), of("state"));
        if matches!(state.as_str(), "ok" | "sampled") {
            continue;
        }
        let line = format!("{backend}: {name} {state}: {}", of("why"));
        let fails = match state.as_str() {
            "missing" => must_have(arch, series, known, &name),
            "degraded" => must_be_whole(arch, series, known, &name),
            _ => None,
        };
        if fails == Some(true) {
            grave.push(line.clone());
        }
        all.push(line);
    }
    (all, grave)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(arch: Arch, series: &str, cell: (&str, &str), fails: bool) {
        let unavailable = Outcome::Unavailable("so".into());
        let judged = judge(arch, &Series::parse(series), &Backend::ALL, cell, unavailable);
        assert_eq!(matches!(judged, Outcome::Failed(_)), fails, "{arch:?} {series} {cell:?}");
    }

    #[test]
    fn what_must_be_there() {
        for series in ["5.10", "6.1", "6.12", "newest"] {
            for backend in Backend::ALL {
                check(Arch::X86_64, series, (backend.name(), "cow"), true);
            }
            check(Arch::X86_64, series, (ALL, AGREEMENT), true);
        }
        check(Arch::Aarch64, "6.1", ("fentry", "events"), false);
        check(Arch::Aarch64, "6.1", ("kprobe", "events"), true);
        check(Arch::Aarch64, "6.12", ("fentry", "events"), true);
        check(Arch::Aarch64, "6.12", ("tracepoint", "cow"), false);
        check(Arch::Aarch64, "6.12", ("tracepoint", "loss"), true);
        check(Arch::Aarch64, "6.1", (ALL, AGREEMENT), true);
    }

    #[test]
    fn nothing_is_known_of_ones_own() {
        check(Arch::X86_64, "/boot/vmlinuz", ("tracepoint", "events"), false);
        check(Arch::X86_64, "/boot/vmlinuz", (ALL, AGREEMENT), false);
        check(Arch::X86_64, "6.7", ("fentry", "events"), false);
    }

    #[test]
    fn what_a_backend_falls_short_of() {
        let doctor = serde_json::json!({
            "backends": {"tracepoint": "ok", "kprobe": "no"},
            "measurements": [
                {"measurement": "spawn", "state": "ok", "why": null},
                {"measurement": "copy", "state": "missing", "why": "no tracepoint"},
                {"measurement": "exec", "state": "degraded", "why": "so"},
                {"measurement": "exit", "state": "missing", "why": "why"},
            ],
        });
        let of = |series: &str, backend| {
            shortfalls(Arch::X86_64, &Series::parse(series), backend, &doctor)
        };
        let (all, grave) = of("5.10", "tracepoint");
        assert_eq!(all.len(), 3);
        assert_eq!(all[0], "tracepoint: copy missing: no tracepoint");
        assert_eq!(grave, ["tracepoint: exit missing: why"]);
        assert_eq!(of("6.1", "tracepoint").1.len(), 2);
        let doctor = serde_json::json!({
            "backends": {"kprobe": "ok"},
            "measurements": [{"measurement": "cow", "state": "degraded", "why": "unmarked"}],
        });
        let of_cow = |series: &str| {
            let (_, grave) = shortfalls(Arch::X86_64, &Series::parse(series), "kprobe", &doctor);
            grave.len()
        };
        assert_eq!((of_cow("5.10"), of_cow("6.1"), of_cow("bzImage")), (0, 1, 0));
        assert_eq!(of("bzImage", "tracepoint").1.len(), 0);
        assert_eq!(of("6.1", "kprobe"), (Vec::new(), Vec::new()));
    }

    #[test]
    fn it_takes_two_to_agree() {
        let outcome = Outcome::Unavailable("so".into());
        let series = Series::parse("6.12");
        let one = [Backend::Kprobe];
        assert_eq!(judge(Arch::X86_64, &series, &one, (ALL, AGREEMENT), outcome.clone()), outcome);
    }
}
