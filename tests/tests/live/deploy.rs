//! What is in `deploy/` holds: it is read by the programs that it is for, names no metric that we
//! do not publish, and gives the service what it needs.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use forkscope_tests::{Rig, skip, venv, with_tracefs};
use serde_json::Value;

/// Counters and infos, as queries name them.
const COUNTERS: [&str; 9] = [
    "forkscope_spawns_total",
    "forkscope_spawn_failures_total",
    "forkscope_execs_total",
    "forkscope_exits_total",
    "forkscope_cow_faults_total",
    "forkscope_cow_copied_bytes_total",
    "forkscope_events_lost_total",
    "forkscope_build_info",
    "forkscope_measurement_info",
];
const HISTOGRAMS: [&str; 7] = [
    "forkscope_spawn_latency_seconds",
    "forkscope_spawn_blocked_seconds",
    "forkscope_address_space_copy_seconds",
    "forkscope_start_delay_seconds",
    "forkscope_exec_latency_seconds",
    "forkscope_process_lifetime_seconds",
    "forkscope_cow_fault_latency_seconds",
];
/// What `systemd-analyze security` may say at most, times ten. Tracing itself is 0.4 of it
/// (bpf and perf_event_open), reading all of /proc 0.3, three capabilities 0.4, answering 0.9.
const EXPOSURE: &str = "19";

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn rules() -> [PathBuf; 3] {
    ["recording.rules.yml", "recording.native.rules.yml", "alerts.rules.yml"]
        .map(|name| deploy("prometheus").join(name))
}

/// Names in a text that look like our metrics; recorded rules have a colon before or after.
fn metrics(text: &str) -> BTreeSet<&str> {
    let name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    text.split(|c| !name(c))
        .filter(|word| word.starts_with("forkscope_") && !word.contains(':'))
        .collect()
}

fn published(metric: &str) -> bool {
    let of_histogram = |family: &&str| {
        metric.strip_prefix(*family).is_some_and(|r| ["", "_bucket", "_sum", "_count"].contains(&r))
    };
    COUNTERS.contains(&metric) || HISTOGRAMS.iter().any(of_histogram)
}

/// Everything under a key of that name, at any depth.
fn under<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get(key).and_then(Value::as_str));
            map.values().for_each(|v| under(v, key, found));
        }
        Value::Array(items) => items.iter().for_each(|v| under(v, key, found)),
        _ => {}
    }
}

/// As Grafana would send it.
fn filled_in(expr: &str) -> String {
    let mut expr = expr.replace("$__rate_interval", "5m");
    for variable in ["$job", "$instance", "$mechanism", "$comm"] {
        expr = expr.replace(variable, ".*");
    }
    assert!(!expr.contains('$'), "a variable that the dashboard does not have: {expr}");
    expr
}

fn dashboard() -> Vec<String> {
    let path = deploy("grafana/forkscope.json");
    let dashboard: Value = serde_json::from_str(&text(&path)).expect("JSON");
    let mut found = Vec::new();
    under(&dashboard, "expr", &mut found);
    assert!(found.len() > 30, "{found:?}");
    found.into_iter().map(filled_in).collect()
}

#[test]
fn prometheus_takes_the_rules_and_alerts_fire_when_they_should() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["promtool"]) {
        return;
    }
    let promtool = |words: &[&str], files: &[PathBuf]| {
        let mut command = Command::new("promtool");
        command.args(words).args(files);
        rig.run(command).expect_code(0);
    };
    promtool(&["check", "rules"], &rules());
    promtool(&["check", "config"], &[deploy("prometheus/scrape.yml")]);
    let tests = ["alerts.yml", "recording.yml"].map(|name| deploy("prometheus/tests").join(name));
    promtool(&["test", "rules"], &tests);
}

#[test]
fn the_dashboards_queries_are_promql() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["promtool"]) {
        return;
    }
    let quoted = |expr: &String| serde_json::to_string(expr).expect("a string");
    let rules: String = dashboard()
        .iter()
        .enumerate()
        .map(|(n, expr)| format!("  - record: panel:{n}\n    expr: {}\n", quoted(expr)))
        .collect();
    let file = rig.path("dashboard.yml");
    fs::write(&file, format!("groups:\n- name: dashboard\n  rules:\n{rules}")).expect("a file");
    let mut check = Command::new("promtool");
    check.args(["check", "rules"]).arg(file);
    rig.run(check).expect_code(0);
}

#[test]
fn queries_name_what_is_published_and_leave_nothing_out() {
    let dashboard = dashboard().join("\n");
    let rules = rules().map(|path| text(&path)).join("\n");
    for metric in metrics(&dashboard).into_iter().chain(metrics(&rules)) {
        assert!(published(metric), "{metric}");
    }
    for family in COUNTERS.iter().chain(&HISTOGRAMS) {
        assert!(dashboard.contains(family), "{family} is in no panel");
    }
    // Rules that others are made of exist.
    let recorded: BTreeSet<_> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).collect();
    let name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let code = rules.lines().filter(|line| !line.trim_start().starts_with('#'));
    for word in code.flat_map(|line| line.split(|c| !name(c))) {
        if word.contains(":forkscope_") {
            assert!(recorded.contains(word), "{word} is not recorded");
        }
    }
}

#[test]
fn each_alert_has_a_runbook() {
    let readme = text(&deploy("README.md"));
    let rules = text(&deploy("prometheus/alerts.rules.yml"));
    let alerts: Vec<_> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert_eq!(alerts.len(), 8, "{alerts:?}");
    for alert in alerts {
        assert!(readme.contains(&format!("\n### {alert}\n")), "{alert}");
        let anchor = format!("runbook: deploy/README.md#{}\n", alert.to_lowercase());
        assert!(rules.contains(&anchor), "{anchor}");
    }
}

/// The unit with a program that is there.
fn unit(rig: &Rig) -> PathBuf {
    let unit = text(&deploy("systemd/forkscope.service"));
    let installed = "/usr/local/bin/forkscope";
    assert!(unit.contains(installed));
    let to = rig.path("forkscope.service");
    fs::write(&to, unit.replace(installed, "/bin/true")).expect("a file");
    to
}

#[test]
fn systemd_takes_the_unit_and_finds_it_closed() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["systemd-analyze"]) {
        return;
    }
    let unit = unit(&rig);
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(&unit);
    let said = rig.run(verify).expect_code(0).stderr();
    // What it does not know it ignores, and only says so.
    assert!(!said.contains("forkscope.service"), "{said}");
    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--no-pager", "--offline=true"]);
    security.arg(format!("--threshold={EXPOSURE}")).arg(&unit);
    rig.run(security).expect_code(0);
}

/// The values of a setting in the unit, in their order.
fn settings(key: &str) -> Vec<String> {
    let unit = text(&deploy("systemd/forkscope.service"));
    unit.lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .map(Into::into)
        .collect()
}

/// The syscalls of a set of systemd's.
fn syscalls(rig: &Rig, set: &str) -> BTreeSet<String> {
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["syscall-filter", "--no-pager", set]);
    let list = rig.run(analyze).expect_code(0).stdout();
    let members = list.lines().skip(1).map(str::trim);
    members
        .filter(|member| !member.is_empty() && !member.starts_with('#'))
        .flat_map(|member| match member.strip_prefix('@') {
            Some(_) => syscalls(rig, member),
            None => BTreeSet::from([member.to_string()]),
        })
        .collect()
}

#[test]
fn the_unit_allows_each_syscall_of_the_tracer() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["systemd-analyze", "strace"]) {
        return;
    }
    let mut allowed = BTreeSet::new();
    for line in settings("SystemCallFilter") {
        let (taken, names) = line.strip_prefix('~').map_or((false, &line[..]), |rest| (true, rest));
        for name in names.split(' ') {
            let members = match name.strip_prefix('@') {
                Some(_) => syscalls(&rig, name),
                None => BTreeSet::from([name.to_string()]),
            };
            if taken {
                allowed.retain(|syscall| !members.contains(syscall));
            } else {
                allowed.extend(members);
            }
        }
    }
    let log = rig.path("strace.log");
    // systemd has tracefs mounted.
    let words = with_tracefs();
    let mut strace = Command::new(&words[0]);
    strace.args(&words[1..]).arg("strace");
    strace.args(["--follow-forks", "-qq", "-e", "signal=none", "-o"]).arg(&log);
    strace.arg(rig.forkscope()).args(["trace", "--duration", "1s", "--format", "json", "-o"]);
    strace.arg(rig.path("trace.ndjson"));
    rig.run(strace).expect_code(0);
    let log = text(&log);
    // PID name(…; or PID <... name resumed>
    let called: BTreeSet<_> = log
        .lines()
        .filter_map(|line| line.split_once(' ')?.1.trim_start().split_once('('))
        .map(|(name, _)| name.to_string())
        .filter(|name| !name.starts_with('<'))
        .collect();
    assert!(called.contains("bpf") && called.contains("perf_event_open"), "{called:?}");
    let refused: Vec<_> = called.difference(&allowed).collect();
    assert!(refused.is_empty(), "SystemCallFilter= would refuse {refused:?}");
}

/// What each measurement comes to, for a program that is run by way of these words.
fn measured(rig: &Rig, words: &[String]) -> Value {
    let mut before = with_tracefs();
    before.extend_from_slice(words);
    let mut command = Command::new(&before[0]);
    command.args(&before[1..]).arg(rig.forkscope()).args(["doctor", "--format", "json"]);
    let doctor = rig.run(command).expect_code(0).stdout();
    let mut doctor: Value = serde_json::from_str(&doctor).expect("JSON");
    doctor["measurements"].take()
}

#[test]
fn the_units_capabilities_measure_what_root_does() {
    let Some(rig) = Rig::new() else { return };
    let given = settings("AmbientCapabilities");
    assert_eq!(given, settings("CapabilityBoundingSet"));
    let list = given[0].to_lowercase().replace("cap_", "+").replace(' ', ",");
    let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"];
    let mut words: Vec<_> = user.map(String::from).to_vec();
    for set in ["bounding-set", "inh-caps", "ambient-caps"] {
        words.push(format!("--{set}=-all,{list}"));
    }
    let (root, service) = (measured(&rig, &[]), measured(&rig, &words));
    assert!(root.as_array().is_some_and(|rows| rows.len() > 10), "{root}");
    assert_eq!(root, service);
    // Each of them is there for something: tracefs, as one who does not own it.
    let less: Vec<_> =
        words.iter().map(|w| w.replace("+dac_read_search", "-dac_read_search")).collect();
    assert_ne!(root, measured(&rig, &less));
}

#[test]
fn kubernetes_takes_the_manifest() {
    const CHECK: &str = "
import sys, yaml, kubernetes_validate as k
kinds = []
for document in yaml.safe_load_all(open(sys.argv[1])):
    for version in ('1.28', k.latest_version()):
        k.validate(document, version, strict=True)
    kinds.append(document['kind'])
print(*kinds)
";
    let Some(rig) = Rig::new() else { return };
    let python = match venv(&["kubernetes-validate==1.37.0", "PyYAML==6.0.3"]) {
        Ok(python) => python,
        Err(why) => return skip(why),
    };
    let mut check = Command::new(python);
    check.args(["-c", CHECK]).arg(deploy("kubernetes/daemonset.yaml"));
    let kinds = rig.run(check).expect_code(0).stdout();
    assert_eq!(kinds.trim(), "Namespace ConfigMap DaemonSet NetworkPolicy");
}

#[test]
fn the_sql_answers_right() {
    let Some(rig) = Rig::new() else { return };
    let python = match venv(&["duckdb==2.0.0"]) {
        Ok(python) => python,
        Err(why) => return skip(why),
    };
    let mut queries = Command::new(python);
    queries.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/parquet_sql.py"));
    queries.arg(deploy("parquet"));
    assert_eq!(rig.run(queries).expect_code(0).stdout(), "ok\n");
}
