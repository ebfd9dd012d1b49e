//! Storms of our own, traced by ourselves: what comes into the ring, and how its reader keeps up.

use std::{
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::advice::{Advice, Storm};
use crate::{
    bench::process::Runner,
    daemon::{Consumer, Session, Until},
    decode::Event,
    demo::own_path,
    failure::{Failure, Why},
    kernel::{Gauge, host::online_cpus},
    plan::{Backend, Plan},
    record::Record,
    sink::{Target, Writer, json::Json},
};

/// What is made: most events a second, and most bytes an event.
const STORMS: [(&str, &[&str]); 2] = [
    ("thread", &["thread"]),
    ("vfork", &["vfork+exec", "--exec", "static", "--argv-size", "4KiB"]),
];
/// For how long.
const LENGTH: &str = "3s";
/// Large enough that what waits is seen, and not what fits.
const RING: u32 = 4 * Plan::DEFAULT_RING;
/// In which the peak is looked for.
const WINDOW: Duration = Duration::from_millis(200);
/// Less than this waiting is no sign that the reader was away.
const SOME: u64 = 4096;

/// Measures it.
///
/// # Errors
/// Without privileges, where nothing can be loaded, when the storm fails, or at a signal.
pub fn advice(backend: Option<Backend>) -> Result<Advice, Failure> {
    let runner = Runner::new()?;
    let mut ring = RING;
    let mut storms = Vec::new();
    for (mechanism, words) in STORMS {
        let session = match load(backend, ring) {
            // There may be memory for less.
            Err(failure) if failure.why != Why::NotPermitted && ring > Plan::DEFAULT_RING => {
                ring = Plan::DEFAULT_RING;
                load(backend, ring)?
            }
            other => other?,
        };
        storms.push(storm(session, &runner, mechanism, words)?);
    }
    Ok(Advice { ring: ring.into(), storms })
}

fn load(backend: Option<Backend>, ring_bytes: u32) -> Result<Session, Failure> {
    Session::load(Plan { backend, ring_bytes, ..Plan::everything() })
}

/// One generator on each CPU, all at once.
fn commands(words: &[&str]) -> Vec<Command> {
    let program = own_path();
    online_cpus()
        .into_iter()
        .map(|cpu| {
            let mut command = Command::new(&program);
            command.args(["workload", "--tied", "--duration", LENGTH, "--cpus"]);
            command.arg(cpu.to_string()).args(words);
            command
        })
        .collect()
}

fn storm(
    mut session: Session,
    runner: &Runner,
    mechanism: &'static str,
    words: &[&str],
) -> Result<Storm, Failure> {
    let gauge = session.gauge()?;
    let target = Target::create(Path::new("/dev/null"))?;
    let writer = Writer::start(Box::new(Json), target)?;
    session.attach()?;
    let over = Arc::new(AtomicBool::new(false));
    let before = gauge.produced();
    let mut meter = Meter::new(writer, gauge, Arc::clone(&over), mechanism);
    let mut commands = commands(words);
    let (ended, texts) = std::thread::scope(|scope| {
        // The thread that starts them is there until they end: they are told when it goes.
        let running = std::thread::Builder::new().spawn_scoped(scope, move || {
            let texts = runner.run_all(&mut commands);
            over.store(true, Relaxed);
            texts
        });
        let running = running.map_err(|e| {
            Failure::new(Why::Failed, format!("no thread can be made: {e}; raise `ulimit -u`"))
        })?;
        let ended = session.run(Until::default(), &mut meter);
        Ok::<_, Failure>((ended, running.join()))
    })?;
    let texts = texts.map_err(|_| Failure::new(Why::Failed, "the generator's thread ended"))??;
    let lost = ended?.summary.lost;
    let mut storm = meter.found;
    storm.bytes = meter.gauge.produced().saturating_sub(before);
    storm.lost = lost.kernel + lost.decode;
    storm.made = texts.iter().filter_map(|(stdout, _)| made(stdout)).sum();
    let _ = meter.writer.finish();
    Ok(storm)
}

/// What a generator says it made.
fn made(stdout: &str) -> Option<u64> {
    let truth: crate::workload::Truth = serde_json::from_str(stdout.lines().last()?).ok()?;
    Some(truth.spawns.values().sum())
}

/// Passes records on as `trace` does, and looks at the ring meanwhile.
struct Meter {
    writer: Writer,
    gauge: Gauge,
    over: Arc<AtomicBool>,
    found: Storm,
    /// When an event was last taken.
    taken: Option<Instant>,
    /// When the current window began, and what had been put into the ring then.
    window: (Instant, u64),
}

impl Meter {
    fn new(writer: Writer, gauge: Gauge, over: Arc<AtomicBool>, mechanism: &'static str) -> Self {
        let window = (Instant::now(), gauge.produced());
        let found = Storm { mechanism, ..Storm::default() };
        Self { writer, gauge, over, found, taken: None, window }
    }
}

impl Consumer for Meter {
    fn take(&mut self, records: Vec<Record>) {
        self.writer.send(records);
    }

    fn has_room(&self) -> bool {
        self.writer.has_room()
    }

    fn wait_for_room(&mut self) {
        self.writer.wait_for_room();
    }

    fn lost(&self) -> u64 {
        self.writer.lost()
    }

    fn stopped(&self) -> bool {
        self.over.load(Relaxed)
    }

    fn see(&mut self, _event: &Event) {
        self.found.records += 1;
        let now = Instant::now();
        let since = self.taken.replace(now);
        let waiting = self.gauge.waiting();
        if waiting < SOME || self.over.load(Relaxed) {
            return;
        }
        self.found.most_waiting_bytes = self.found.most_waiting_bytes.max(waiting);
        if let Some(since) = since {
            let away = now.duration_since(since).as_nanos() as u64;
            self.found.longest_away_ns = self.found.longest_away_ns.max(away);
        }
    }

    fn tick(&mut self) -> bool {
        let (since, before) = self.window;
        let elapsed = since.elapsed();
        if elapsed >= WINDOW {
            let produced = self.gauge.produced();
            let rate = u128::from(produced - before) * 1_000_000_000 / elapsed.as_nanos();
            self.found.bytes_per_second = self.found.bytes_per_second.max(rate as u64);
            self.window = (Instant::now(), produced);
        }
        false
    }
}
