//! A real Prometheus scrapes two daemons under load, and the quantiles that it reads off their
//! histograms are ours.
//!
//! Ours are those of a `forkscope trace` beside them, of the same forks. Each tracer reads the
//! clock for itself, so the forks are made long: what the others add is then nothing.

use std::{fs, net::TcpListener, process::Command, thread, time::Duration};

use forkscope_tests::{Fields as _, Rig, Running};
use serde_json::Value;

use super::daemon::{Daemon, ask, made, namesake, work};

/// What the clocks of two tracers may differ by.
const CLOCKS: f64 = 0.02;

struct Prometheus {
    _running: Running,
    port: u16,
}

impl Prometheus {
    /// Scrapes these every second.
    fn start(rig: &Rig, targets: &[&Daemon], flags: &[&str]) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = free.expect("a free port").port();
        let dir = rig.fresh("prometheus");
        fs::create_dir(&dir).expect("a folder");
        let targets: Vec<_> =
            targets.iter().map(|daemon| format!("'{}'", daemon.address)).collect();
        let config = dir.join("config.yml");
        let text = format!(
            "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\n\
             scrape_configs:\n- job_name: forkscope\n  static_configs:\n  - targets: [{}]\n",
            targets.join(", ")
        );
        fs::write(&config, text).expect("a file");
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .args(flags);
        let mut running = rig.start(command);
        running.until(|running| running.stderr().contains("ready to receive web requests"));
        Self { _running: running, port }
    }

    /// The value of an expression by daemon.
    fn query(&self, expression: &str) -> Vec<(String, f64)> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let request = format!(
            "GET /api/v1/query?query={encoded} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        );
        let answer = ask(([127, 0, 0, 1], self.port).into(), &request);
        assert_eq!(answer.status, 200, "{expression}: {}", answer.text());
        let text = answer.text();
        let (from, to) = (text.find('{').expect("JSON"), text.rfind('}').expect("JSON"));
        let value: Value = serde_json::from_str(&text[from..=to]).expect("JSON");
        let results = value.at("data.result").as_array().expect("a vector").clone();
        let number = |result: &Value| result.at("value")[1].as_str()?.parse().ok();
        results
            .iter()
            .map(|it| (it.text("metric.instance").into(), number(it).expect("a number")))
            .collect()
    }

    /// Waits until an expression has this value for both daemons.
    fn until(&self, expression: &str, value: f64) {
        let mut last = Vec::new();
        for _ in 0..600 {
            last = self.query(expression);
            if last.len() == 2 && last.iter().all(|(_, its)| *its == value) {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
        panic!("{expression} is not {value}: {last:?}");
    }
}

#[test]
fn prometheus_reads_our_quantiles_off_two_daemons() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["prometheus", "promtool"]) {
        return;
    }
    let load = namesake(&rig, "serveload");
    let flags = ["--comm", "serveload"];
    let tracer = rig.trace(&flags).start();
    let daemons = [Daemon::start(&rig, &flags), Daemon::start(&rig, &flags)];
    let targets: Vec<&Daemon> = daemons.iter().collect();
    let classic = Prometheus::start(&rig, &targets, &[]);
    let native = Prometheus::start(&rig, &targets, &["--enable-feature=native-histograms"]);
    let truth = work(&rig, &load, &["fork", "--count", "1000", "--rss", "48MiB"]);
    let ours = tracer.stop().recording;
    let ours = ours.summary().at("histograms.spawn_latency.fork").clone();
    if ours.is_null() {
        return forkscope_tests::skip("no call latency here");
    }
    assert_eq!(ours.number("count") as f64, made(&truth, "fork"));

    let spawns = "sum by (instance) (forkscope_spawns_total{mechanism=\"fork\"})";
    for (prometheus, kind, within) in [(&classic, "_bucket", 0.25), (&native, "", 0.03)] {
        prometheus.until(spawns, made(&truth, "fork"));
        prometheus.until("up", 1.0);
        for (quantile, key) in [("0.5", "p50_ns"), ("0.9", "p90_ns"), ("0.99", "p99_ns")] {
            let expression = format!(
                "histogram_quantile({quantile}, \
                 forkscope_spawn_latency_seconds{kind}{{mechanism=\"fork\"}})"
            );
            let ours = ours.number(key) as f64 / 1e9;
            let theirs = prometheus.query(&expression);
            println!("{expression}: {theirs:?}, ours {ours}");
            assert_eq!(theirs.len(), 2, "{expression}");
            for (instance, theirs) in theirs {
                let off = (theirs / ours - 1.0).abs();
                assert!(off <= within + CLOCKS, "{instance}: {theirs} for {ours}, {expression}");
            }
        }
    }

    // And its linter has nothing to say.
    let text = rig.path("metrics");
    for daemon in &daemons {
        fs::write(&text, daemon.get("/metrics", "").body).expect("a file");
        let mut lint = Command::new("sh");
        lint.args(["-c", "promtool check metrics < \"$0\""]).arg(&text);
        let done = rig.run(lint).expect_code(0);
        assert_eq!((done.stdout(), done.stderr()), (String::new(), String::new()));
    }
    for daemon in daemons {
        daemon.stop();
    }
}
