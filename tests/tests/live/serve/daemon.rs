//! A daemon in the background, and what can be asked of it.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use forkscope_tests::{Done, Fields as _, Rig, Running, backend};
use prost::Message;
use serde_json::Value;

pub const OPENMETRICS: &str = "application/openmetrics-text";
pub const PROTOBUF: &str = "application/vnd.google.protobuf;\
    proto=io.prometheus.client.MetricFamily;encoding=delimited";

/// `forkscope serve` on a port of its own choice.
pub struct Daemon {
    pub running: Running,
    pub address: SocketAddr,
}

/// What a request was answered with.
pub struct Answer {
    pub status: u16,
    pub headers: String,
    pub body: Vec<u8>,
}

/// Every sample by its name and labels, these in order.
pub type Samples = BTreeMap<String, f64>;

pub fn command(rig: &Rig, flags: &[&str]) -> Command {
    let mut command = Command::new(rig.forkscope());
    command.arg("serve");
    if !flags.contains(&"--listen") {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    command.args(backend().into_iter().flat_map(|name| ["--backend", name]));
    command.args(flags);
    command
}

impl Daemon {
    pub fn start(rig: &Rig, flags: &[&str]) -> Self {
        Self::of(rig, command(rig, flags))
    }

    pub fn of(rig: &Rig, command: Command) -> Self {
        let mut running = rig.start(command);
        let line = |stderr: String| {
            let (_, rest) = stderr.split_once("listening on http://")?;
            rest.split_once('\n')?.0.parse::<SocketAddr>().ok()
        };
        running.until(|running| line(running.stderr()).is_some());
        let address = line(running.stderr()).expect("the line that was seen");
        Self { running, address }
    }

    pub fn get(&self, path: &str, accept: &str) -> Answer {
        self.request(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n"))
    }

    pub fn request(&self, request: &str) -> Answer {
        ask(self.address, request)
    }

    /// The classic text, as samples.
    pub fn scrape(&self) -> Samples {
        let answer = self.get("/metrics", "");
        assert_eq!(answer.status, 200, "{}", answer.text());
        samples(&answer.text())
    }

    /// Sends SIGHUP and waits until these words are said for the n-th time.
    pub fn reload(&mut self, words: &str, n: usize) {
        self.running.signal(libc::SIGHUP);
        self.running.until(|running| running.stderr().matches(words).count() >= n);
    }

    /// Ends it as a service manager does; it must end well.
    pub fn stop(self) -> Done {
        self.running.signal(libc::SIGTERM);
        self.running.finish().expect_code(0)
    }
}

/// One request and its answer.
pub fn ask(address: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).expect("somebody listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an answer");
    let end = bytes.windows(4).position(|it| it == b"\r\n\r\n").expect("the end of the head");
    let headers = String::from_utf8(bytes[..end].to_vec()).expect("text").to_lowercase();
    let status = headers.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    Answer { status, headers, body: bytes[end + 4..].to_vec() }
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("text")
    }

    pub fn header(&self, name: &str) -> &str {
        let line = self.headers.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim()
    }
}

/// A program of another name that makes what `forkscope workload` makes.
pub fn namesake(rig: &Rig, name: &str) -> PathBuf {
    let path = rig.path(name);
    if !path.exists() {
        symlink(rig.forkscope(), &path).expect("a link");
    }
    path
}

/// Its truth, once it has ended.
pub fn work(rig: &Rig, program: &Path, words: &[&str]) -> Value {
    let mut command = Command::new(program);
    command.arg("workload").args(words);
    serde_json::from_slice(&rig.run(command).expect_code(0).stdout).expect("the truth")
}

pub fn made(truth: &Value, mechanism: &str) -> f64 {
    truth.at("spawns").number(mechanism) as f64
}

/// A sample's key.
fn key(name: &str, mut labels: Vec<(String, String)>) -> String {
    labels.sort();
    let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    format!("{name}{{{}}}", labels.join(","))
}

/// Reads either text format.
pub fn samples(text: &str) -> Samples {
    text.lines().filter(|line| !line.starts_with('#')).map(sample).collect()
}

fn sample(line: &str) -> (String, f64) {
    let (series, value) = line.rsplit_once(' ').expect("a value");
    let value = value.parse().unwrap_or_else(|e| panic!("{e}: {line}"));
    let Some((name, labels)) = series.strip_suffix('}').and_then(|it| it.split_once('{')) else {
        return (key(series, Vec::new()), value);
    };
    let labels =
        labels.strip_suffix('"').unwrap_or_default().split("\",").filter(|label| !label.is_empty());
    let labels = labels.map(|label| {
        let (name, value) = label.split_once("=\"").expect("a label");
        (
            name.to_string(),
            if name == "le" { bound(value.parse().expect("a number")) } else { value.into() },
        )
    });
    (key(name, labels.collect()), value)
}

fn bound(value: f64) -> String {
    format!("{value:e}")
}

/// The sum of the samples of a name that have all of these labels.
pub fn sum(samples: &Samples, name: &str, labels: &[&str]) -> f64 {
    let of = |series: &str| {
        let Some((its, rest)) = series.split_once('{') else { return false };
        let its_labels: Vec<_> = rest.trim_end_matches('}').split(',').collect();
        its == name && labels.iter().all(|label| its_labels.contains(label))
    };
    samples.iter().filter(|(series, _)| of(series)).map(|(_, value)| value).sum()
}

/// Fails where a counter is less than it was, or gone.
#[track_caller]
pub fn expect_growth(before: &Samples, after: &Samples) {
    for (series, was) in before.iter().filter(|(series, _)| !series.contains("_info{")) {
        let is = after.get(series).unwrap_or_else(|| panic!("{series} is gone"));
        assert!(is >= was, "{series}: {was}, then {is}");
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct MetricFamily {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(int32, tag = "3")]
    pub kind: i32,
    #[prost(message, repeated, tag = "4")]
    pub metric: Vec<Metric>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Metric {
    #[prost(message, repeated, tag = "1")]
    pub label: Vec<Label>,
    #[prost(message, optional, tag = "2")]
    pub gauge: Option<Number>,
    #[prost(message, optional, tag = "3")]
    pub counter: Option<Number>,
    #[prost(message, optional, tag = "7")]
    pub histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Label {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct Number {
    #[prost(double, tag = "1")]
    pub value: f64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Histogram {
    #[prost(uint64, tag = "1")]
    pub count: u64,
    #[prost(double, tag = "2")]
    pub sum: f64,
    #[prost(message, repeated, tag = "3")]
    pub bucket: Vec<Bucket>,
    #[prost(sint32, tag = "5")]
    pub schema: i32,
    #[prost(uint64, tag = "7")]
    pub zero_count: u64,
    #[prost(sint64, repeated, packed = "false", tag = "13")]
    pub delta: Vec<i64>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct Bucket {
    #[prost(uint64, tag = "1")]
    pub count: u64,
    #[prost(double, tag = "2")]
    pub bound: f64,
}

/// The protobuf format as the samples that the text would have; native buckets must add up to the
/// count.
pub fn protobuf_samples(mut bytes: &[u8]) -> Samples {
    let mut all = Samples::new();
    while !bytes.is_empty() {
        let family = MetricFamily::decode_length_delimited(&mut bytes).expect("a family");
        for metric in &family.metric {
            let labels: Vec<_> =
                metric.label.iter().map(|it| (it.name.clone(), it.value.clone())).collect();
            if let Some(number) = metric.counter.or(metric.gauge) {
                all.insert(key(&family.name, labels), number.value);
                continue;
            }
            let histogram = metric.histogram.as_ref().expect("what the metric is");
            let native = histogram.delta.iter().scan(0, |count, delta| {
                *count += delta;
                Some(*count as u64)
            });
            assert_eq!(histogram.zero_count + native.sum::<u64>(), histogram.count);
            assert_eq!(histogram.schema, 5);
            let last = Bucket { count: histogram.count, bound: f64::INFINITY };
            for bucket in histogram.bucket.iter().chain([&last]) {
                let mut labels = labels.clone();
                labels.push(("le".into(), bound(bucket.bound)));
                all.insert(key(&format!("{}_bucket", family.name), labels), bucket.count as f64);
            }
            all.insert(
                key(&format!("{}_count", family.name), labels.clone()),
                histogram.count as f64,
            );
            all.insert(key(&format!("{}_sum", family.name), labels), histogram.sum);
        }
    }
    all
}

/// Resident memory, KiB.
pub fn resident_kib(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
}
