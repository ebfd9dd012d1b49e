//! How fast recordings are read: `report`, beside jq and DuckDB on the same file, asking the
//! same question.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufWriter, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{figures, table::Table};
use crate::apt;

/// Records a second and core that `report` is to read at least.
const BUDGET: f64 = 500_000.0;

/// The question: how many spawns of which mechanism by whom, and how long all their calls took.
const JQ: &str = r#"reduce (inputs | select(.type == "spawn")) as $r ({};
    ($r.mechanism + " " + $r.parent.comm) as $key
    | .[$key].n += 1 | .[$key].total += $r.latency_ns)"#;
const DUCKDB: &str = r#"
import duckdb, json, sys
rows = duckdb.sql("""SELECT mechanism || ' ' || parent.comm, count(*), sum(latency_ns)::BIGINT
    FROM read_ndjson(?, union_by_name = true) WHERE type = 'spawn' GROUP BY 1""",
    params=[sys.argv[1]]).fetchall()
print(json.dumps({key: {'n': n, 'total': total} for key, n, total in rows}))
"#;

struct Reader {
    name: &'static str,
    command: Box<dyn Fn(&Path) -> Command>,
    /// Spawns by mechanism, from what it printed.
    answer: fn(&Value) -> Option<BTreeMap<String, u64>>,
}

struct Run {
    wall: f64,
    cpu: f64,
    peak_kib: i64,
    answer: BTreeMap<String, u64>,
}

/// Measures and prints; false when one of them has no figures, or the budget is not met.
pub fn run(
    root: &Path,
    forkscope: &Path,
    records: u64,
    rounds: u16,
    out: Option<File>,
) -> Result<bool> {
    let dir = std::env::temp_dir().join(format!("forkscope-bench-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let result = measured(root, forkscope, &dir, records, rounds, out);
    let _ = fs::remove_dir_all(&dir);
    result
}

fn measured(
    root: &Path,
    forkscope: &Path,
    dir: &Path,
    records: u64,
    rounds: u16,
    out: Option<File>,
) -> Result<bool> {
    let (plain, n) = recording(forkscope, dir, records)?;
    let packed = dir.join("packed.ndjson.zst");
    let zstd = ["-q", "-3", "-o"];
    let is_packed = (apt::has("zstd") || apt::install(&["zstd"]).is_ok())
        && Command::new("zstd").args(zstd).arg(&packed).arg(&plain).status()?.success();
    let bytes = fs::metadata(&plain)?.len();
    println!(
        "{n} records, {} bytes each on average; records a second and core are over the processor's \
         time, user and system; medians of {rounds} rounds",
        bytes / n
    );

    let forkscope = forkscope.to_path_buf();
    let report = move |path: &Path| {
        let mut command = Command::new(&forkscope);
        command.args(["report", "--format", "json"]).arg(path);
        command
    };
    let also = report.clone();
    let of_report = |value: &Value| -> Option<BTreeMap<String, u64>> {
        let mut sums = BTreeMap::new();
        let other = [value.get("other")?];
        for group in value.get("groups")?.as_array()?.iter().chain(other) {
            let mechanism = group.get("mechanism").and_then(Value::as_str).unwrap_or("other");
            *sums.entry(mechanism.to_owned()).or_default() += group.get("spawns")?.as_u64()?;
        }
        sums.retain(|_, n| *n > 0);
        Some(sums)
    };
    let of_groups = |value: &Value| -> Option<BTreeMap<String, u64>> {
        let mut sums = BTreeMap::new();
        for (key, group) in value.as_object()? {
            let mechanism = key.split(' ').next()?.to_owned();
            *sums.entry(mechanism).or_default() += group.get("n")?.as_u64()?;
        }
        Some(sums)
    };
    let mut readers =
        vec![Reader { name: "forkscope report", command: Box::new(report), answer: of_report }];
    let mut skipped = Vec::new();
    if is_packed {
        let command = Box::new(move |_: &Path| also(&packed));
        readers.push(Reader { name: "forkscope report, zstd", command, answer: of_report });
    } else {
        skipped.push("zstd is not installed");
    }
    if apt::has("jq") || apt::install(&["jq"]).is_ok() {
        let jq = |path: &Path| {
            let mut command = Command::new("jq");
            command.args(["-n", "-c", JQ]).arg(path);
            command
        };
        readers.push(Reader { name: "jq", command: Box::new(jq), answer: of_groups });
    } else {
        skipped.push("jq is not installed");
    }
    match python(root) {
        Ok(python) => {
            let duckdb = move |path: &Path| {
                let mut command = Command::new(&python);
                command.args(["-c", DUCKDB]).arg(path).env("OMP_NUM_THREADS", "1");
                command
            };
            readers.push(Reader { name: "DuckDB", command: Box::new(duckdb), answer: of_groups });
        }
        Err(_) => skipped.push("DuckDB cannot be installed for Python"),
    }

    let mut runs: Vec<Vec<Run>> = readers.iter().map(|_| Vec::new()).collect();
    for round in 1..=rounds {
        for (reader, runs) in readers.iter().zip(&mut runs) {
            super::progress(&format!("round {round} of {rounds}: {}", reader.name));
            runs.push(one(reader, &plain)?);
        }
    }
    super::progress("");
    let truth = &runs[0][0].answer;
    let heading = ["reader", "seconds", "records/s/core", "peak MiB", "budget"];
    let mut table = Table::new(1, heading);
    let mut rows = Vec::new();
    let mut good = true;
    for (reader, runs) in readers.iter().zip(&runs) {
        let same = runs.iter().all(|run| run.answer == *truth);
        let of = |get: fn(&Run) -> f64| figures::median(runs.iter().map(get));
        let (wall, speed) = (of(|run| run.wall), n as f64 / of(|run| run.cpu));
        let peak = of(|run| run.peak_kib as f64) / 1024.0;
        let ours = reader.name.starts_with("forkscope");
        let met = !ours || speed >= BUDGET;
        good &= same && met;
        table.row([
            reader.name.to_owned(),
            format!("{wall:.2}"),
            format!("{speed:.0}"),
            format!("{peak:.0}"),
            if ours { format!("≥ {BUDGET:.0}") } else { "-".into() },
            match (same, ours, met) {
                (false, ..) => "void: it counts otherwise".to_owned(),
                (_, true, true) => "met".into(),
                (_, true, false) => "not met".into(),
                _ => String::new(),
            },
        ]);
        rows.push(json!({
            "reader": reader.name, "seconds": wall, "records_per_second_core": speed,
            "peak_mib": peak, "same_answer": same,
        }));
    }
    println!("{table}");
    skipped.iter().for_each(|why| println!("skipped: {why}"));
    if let Some(mut out) = out {
        writeln!(out, "{:#}", json!({ "records": n, "bytes": bytes, "readers": rows }))?;
    }
    Ok(good)
}

/// Real records, repeated: so many at least, in a file; and how many there are.
fn recording(forkscope: &Path, dir: &Path, records: u64) -> Result<(PathBuf, u64)> {
    super::progress("recording");
    let script = r#"for m in fork vfork posix_spawn thread system popen; do "$0" workload $m --count 300; done"#;
    let real = dir.join("real.ndjson");
    let done = Command::new(forkscope)
        .args(["trace", "--format", "json", "-o"])
        .arg(&real)
        .args(["--", "sh", "-c", script])
        .arg(forkscope)
        .stdout(Stdio::null())
        .status()?;
    if !done.success() {
        bail!("nothing was recorded: {done}");
    }
    let text = fs::read_to_string(&real)?;
    let mut lines = text.lines();
    let header = lines.next().context("an empty recording")?;
    let body: Vec<&str> = lines.filter(|line| !line.starts_with(r#"{"type":"summary""#)).collect();
    let path = dir.join("plain.ndjson");
    let mut file = BufWriter::new(File::create(&path)?);
    writeln!(file, "{header}")?;
    let mut n = 1;
    while n < records {
        for line in &body {
            writeln!(file, "{line}")?;
        }
        n += body.len() as u64;
    }
    file.flush()?;
    Ok((path, n))
}

fn one(reader: &Reader, path: &Path) -> Result<Run> {
    let begin = Instant::now();
    let mut command = (reader.command)(path);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut text = String::new();
    let mut stdout = child.stdout.take().context("no pipe")?;
    std::io::Read::read_to_string(&mut stdout, &mut text)?;
    // SAFETY: plain data, for which zero is valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let mut status = 0;
    // SAFETY: both are writable, and the child has not been waited for.
    let waited = unsafe { libc::wait4(child.id() as i32, &raw mut status, 0, &raw mut usage) };
    let status = std::process::ExitStatus::from_raw(status);
    if waited < 0 || !status.success() {
        bail!("{}: {status}", reader.name);
    }
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    let value: Value = serde_json::from_str(&text).with_context(|| reader.name.to_owned())?;
    Ok(Run {
        wall: begin.elapsed().as_secs_f64(),
        cpu: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        peak_kib: usage.ru_maxrss,
        answer: (reader.answer)(&value).with_context(|| format!("{}: no answer", reader.name))?,
    })
}

/// A Python that has DuckDB.
fn python(root: &Path) -> Result<PathBuf> {
    let dir = root.join("target/tools/duckdb");
    let python = dir.join("bin/python");
    let has = |python: &Path| {
        let done =
            Command::new(python).args(["-c", "import duckdb"]).stderr(Stdio::null()).status();
        done.is_ok_and(|status| status.success())
    };
    if !has(&python) {
        super::progress("installing DuckDB");
        Command::new("python3").args(["-m", "venv"]).arg(&dir).status()?;
        let pip =
            ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "duckdb==1.4.2"];
        Command::new(&python).args(pip).status()?;
    }
    if has(&python) { Ok(python) } else { bail!("no DuckDB") }
}
