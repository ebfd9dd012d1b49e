//! Redis tells of each save what its fork cost and how much was copied meanwhile.

use std::{
    fs,
    net::TcpListener,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use forkscope_tests::{Fields as _, Recording, Rig, Running, available_bytes};
use serde_json::Value;

const MIB: u64 = 1 << 20;
/// Filled with items of this size.
const ITEM: u64 = 4096;
/// The benchmark writes to so many keys.
const KEYS: u64 = 100_000;

struct Redis<'a> {
    rig: &'a Rig,
    running: Running,
    port: String,
}

/// What Redis says of a save.
#[derive(Debug)]
struct Save {
    fork_usec: u64,
    cow_size: u64,
}

impl<'a> Redis<'a> {
    fn start(rig: &'a Rig) -> Self {
        let dir = rig.path("redis");
        fs::create_dir(&dir).expect("a folder");
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = free.expect("a free port").port().to_string();
        let mut server = Command::new("redis-server");
        server.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        server.args(["--enable-debug-command", "yes", "--daemonize", "no", "--dir"]).arg(&dir);
        let mut redis = Self { rig, running: rig.start(server), port };
        redis.running.until(|running| running.stdout().contains("Ready to accept connections"));
        redis
    }

    fn ask(&self, words: &[&str]) -> String {
        let mut cli = Command::new("redis-cli");
        cli.args(["-p", &self.port]).args(words);
        let answer = self.rig.run(cli).expect_code(0).stdout();
        assert!(!answer.starts_with("ERR"), "{words:?}: {answer}");
        answer
    }

    /// A number that INFO tells.
    fn info(&self, key: &str) -> u64 {
        let info = self.ask(&["INFO", "everything"]);
        let line = info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let number = line.and_then(|number| number.trim().parse().ok());
        number.unwrap_or_else(|| panic!("no {key} in {info}"))
    }

    fn write(&self, requests: u64) {
        let mut benchmark = Command::new("redis-benchmark");
        benchmark.args(["-p", &self.port, "-t", "set", "-q", "-P", "16", "-d", "1024"]);
        benchmark.args(["-r", &KEYS.to_string(), "-n", &requests.to_string()]);
        self.rig.run(benchmark).expect_code(0);
    }

    /// A save, and writes while it lasts. They end before it does: Redis counts what was copied
    /// when it has saved, and by the time its memory is given back more would be.
    fn save(&self, command: &str, of: &str, requests: u64) -> Save {
        let in_progress = match of {
            "rdb" => "rdb_bgsave_in_progress",
            _ => "aof_rewrite_in_progress",
        };
        self.ask(&[command]);
        self.write(requests);
        assert_eq!(self.info(in_progress), 1, "over before the writes were");
        let begin = Instant::now();
        while self.info(in_progress) == 1 {
            assert!(begin.elapsed() < Duration::from_secs(100), "{command} does not end");
            thread::sleep(Duration::from_millis(100));
        }
        Save {
            fork_usec: self.info("latest_fork_usec"),
            cow_size: self.info(&format!("{of}_last_cow_size")),
        }
    }
}

/// The spawns of one process that copied it.
fn forks_of(recording: &Recording, pid: u64) -> Vec<&Value> {
    let by_it = |spawn: &&Value| spawn.number("parent.pid") == pid;
    recording.of_kind("spawn").filter(by_it).filter(|s| s.text("mechanism") == "fork").collect()
}

#[test]
fn saves_cost_what_redis_says() {
    let Some(rig) = Rig::new() else { return };
    if !rig.has(&["redis-server", "redis-cli", "redis-benchmark"]) {
        return;
    }
    let data = (available_bytes() / 4).min(1024 * MIB);
    let redis = Redis::start(&rig);
    redis.ask(&["DEBUG", "POPULATE", &(data / ITEM).to_string(), "item", &ITEM.to_string()]);
    // What is overwritten later is there before.
    redis.write(4 * KEYS);
    // Some keys are waited for, so that every save lasts longer than the writes.
    let pause = if data < 512 * MIB { "-2" } else { "-8" };
    redis.ask(&["CONFIG", "SET", "rdb-key-save-delay", pause]);

    let pid = u64::from(redis.running.pid());
    let tracer = rig.trace(&["--pid", &pid.to_string()]).start();
    let saves = [
        redis.save("BGSAVE", "rdb", 2000),
        redis.save("BGSAVE", "rdb", 20_000),
        redis.save("BGSAVE", "rdb", 150_000),
        redis.save("BGREWRITEAOF", "aof", 50_000),
    ];
    let recording = tracer.stop().recording;
    recording.expect_ledgers();

    let forks = forks_of(&recording, pid);
    let ledgers: Vec<_> = recording.ledgers_of(pid).collect();
    assert_eq!((forks.len(), ledgers.len()), (saves.len(), saves.len()), "forks and ledgers");
    let mut near = false;
    for ((save, fork), ledger) in saves.iter().zip(&forks).zip(ledgers) {
        assert_eq!(fork.at("child.pid"), ledger.at("child.pid"), "{ledger}");
        assert_eq!((ledger.text("end"), ledger.at("overlapping")), ("exit", &false.into()));

        let (ours, theirs) = (fork.number("latency_ns"), save.fork_usec * 1000);
        // Redis reads its clock, in microseconds, outside of the call.
        assert!(ours <= theirs + 2000, "{ours} ns; {save:?}");
        near |= theirs.saturating_sub(ours) <= theirs / 20 + 200_000;

        let copied = ["parent", "child"].map(|role| ledger.at(role).number("copied_bytes"));
        let (copied, size) = (copied.iter().sum::<u64>(), save.cow_size);
        let range = (size / 10 * 9).saturating_sub(MIB)..=size / 4 * 5 + 4 * MIB;
        assert!(range.contains(&copied), "{copied} bytes; {save:?}: {ledger}");
    }
    // Between the call's end and its clock Redis may have to wait for a CPU, but not each time.
    assert!(near, "{forks:?}; {saves:?}");
}
