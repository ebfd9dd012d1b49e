//! Recordings of hosts that there are not: what a fleet would have sent, from a seed.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use base64::Engine as _;
use hdrhistogram::{
    Histogram,
    serialization::{Serializer as _, V2DeflateSerializer},
};
use serde_json::{Value, json};

/// Mechanisms of the fleet, each with the middle of its latencies in ns and their spread.
const MECHANISMS: [(&str, f64, f64); 3] =
    [("fork", 9e6, 0.9), ("vfork", 6e5, 0.5), ("thread", 3e4, 0.4)];

/// What a simulated host recorded.
pub struct Host {
    /// `simulated-042`
    pub name: String,
    /// Every latency that its kernel counted, by mechanism.
    pub latencies: BTreeMap<&'static str, Histogram<u64>>,
    /// Spawns in the stream: fewer, as where the ring was full.
    pub spawns: u64,
    /// Sum of their latencies.
    pub latency_ns: u64,
}

/// A histogram with the buckets of the kernel side.
#[must_use]
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, (1 << 50) - 1, 2).expect("constants")
}

/// Writes the recording of one simulated host.
#[must_use]
pub fn simulate(number: u32, seed: u64, path: &Path) -> Host {
    let mut random = Random(seed ^ (u64::from(number) << 32));
    let name = format!("simulated-{number:03}");
    let mut text = format!(
        "{}\n",
        json!({
            "type": "header", "schema": 1, "version": "0.0.0-simulated", "host": name,
            "kernel": "simulated", "arch": "simulated", "backend": "fentry",
            "boot_id": format!("00000000-0000-4000-8000-{number:012}"),
            "time": "2026-11-22T12:00:00.000000000Z", "measures": {},
        })
    );
    let mut host =
        Host { name: name.clone(), latencies: BTreeMap::new(), spawns: 0, latency_ns: 0 };
    let mut stated = serde_json::Map::new();
    for (mechanism, middle, spread) in MECHANISMS {
        let mut histogram = histogram();
        // Hosts differ: by load, and in how fast they are.
        let (n, speed) = (500 + random.next() % 1500, (0.5 * random.normal()).exp());
        for index in 0..n {
            let latency = (middle * speed * (spread * random.normal()).exp()) as u64 + 1;
            histogram.record(latency).expect("within bounds");
            if index % 10 == 0 {
                host.spawns += 1;
                host.latency_ns += latency;
                let _ = writeln!(text, "{}", spawn(host.spawns, mechanism, latency));
            }
        }
        stated.insert(mechanism.into(), distribution(&histogram));
        host.latencies.insert(mechanism, histogram);
    }
    let counted: BTreeMap<_, _> = host.latencies.iter().map(|(m, h)| (*m, h.len())).collect();
    let summary = json!({
        "type": "summary", "duration_ns": 60_000_000_000_u64,
        "counters": {
            "spawns": counted, "spawn_failures": 0, "execs": 0, "exec_failures": 0, "exits": 0,
            "cow_faults": null, "cow_copied": null, "cow_reused": null,
        },
        "lost": {"kernel": 0, "decode": 0, "sink": 0},
        "histograms": {
            "spawn_latency": stated, "blocked": {}, "start_delay": {}, "copy": null,
            "exec_latency": null, "since_spawn": null, "lifetime": null, "cow_fault": {},
        },
    });
    let _ = writeln!(text, "{summary}");
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    host
}

fn spawn(number: u64, mechanism: &str, latency_ns: u64) -> Value {
    json!({
        "type": "spawn", "time": format!("2026-11-22T12:00:{:02}.{:09}Z", number % 60, number),
        "mechanism": mechanism, "syscall": "clone", "clone_flags": [],
        "parent": {"pid": 1000, "tid": 1000, "comm": "simulated", "start_time": 1},
        "child": {
            "pid": if mechanism == "thread" { 1000 } else { 1000 + number },
            "tid": 1000 + number, "ns_pid": null,
            "start_time": if mechanism == "thread" { 1 } else { number },
        },
        "uid": 0, "cgroup": null, "latency_ns": latency_ns, "blocked_ns": null, "copy_ns": null,
        "start_delay_ns": null, "parent_rss_bytes": null, "parent_page_table_bytes": null,
        "parent_vmas": null, "parent_threads": null,
    })
}

/// As in a summary.
fn distribution(histogram: &Histogram<u64>) -> Value {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new().serialize(histogram, &mut bytes).expect("memory");
    json!({
        "count": histogram.len(), "min_ns": histogram.min(),
        "mean_ns": histogram.mean() as u64, "p50_ns": histogram.value_at_quantile(0.5),
        "p90_ns": histogram.value_at_quantile(0.9), "p99_ns": histogram.value_at_quantile(0.99),
        "p999_ns": histogram.value_at_quantile(0.999), "max_ns": histogram.max(),
        "hdr": base64::engine::general_purpose::STANDARD.encode(bytes),
    })
}

/// Numbers that a seed decides (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Normally distributed, after Box and Muller.
    fn normal(&mut self) -> f64 {
        let mut unit = || ((self.next() >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
        let (a, b) = (unit(), unit());
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }
}
