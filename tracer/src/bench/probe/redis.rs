//! A real server that saves in the background, and its client.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Bytes of a value.
const VALUE: u64 = 1000;

/// How long requests are timed before a save.
const CALM: Duration = Duration::from_millis(400);

/// No save of ours takes so long.
const LIMIT: Duration = Duration::from_secs(30);

/// Starts a server in `dir`, fills it, saves, and stops it again.
pub(super) fn probe(program: &str, dir: &str, mebibytes: u64, saves: u64) -> Result<Value> {
    let socket = Path::new(dir).join("socket");
    let mut server = Server::start(program, dir, &socket)?;
    let mut client = Client::connect(&mut server, &socket)?;
    let keys = (mebibytes << 20) / VALUE;
    client.ask(&["DEBUG", "POPULATE", &keys.to_string(), "key", &VALUE.to_string()])?;
    let mut load = Load { keys, next: 1, value: "x".repeat(VALUE as usize) };
    let mut calm = times()?;
    let begin = Instant::now();
    while begin.elapsed() < CALM {
        load.write(&mut client, &mut calm)?;
    }
    let mut saving = times()?;
    let mut found = Vec::new();
    for _ in 0..saves {
        let before = Instant::now();
        client.ask(&["BGSAVE"])?;
        let answered = before.elapsed();
        let mut asked = Instant::now();
        // The fork may come a moment after the answer: the save has begun when INFO says so.
        loop {
            load.write(&mut client, &mut saving)?;
            if asked.elapsed() > Duration::from_millis(20) {
                if client.info("persistence")?.number("rdb_bgsave_in_progress") == Some(0) {
                    break;
                }
                asked = Instant::now();
            }
            if before.elapsed() > LIMIT {
                bail!("{program}: a save did not end");
            }
        }
        let (stats, saved) = (client.info("stats")?, client.info("persistence")?);
        if saved.0.get("rdb_last_bgsave_status").map(String::as_str) != Some("ok") {
            bail!("{program}: a save failed");
        }
        found.push(json!({
            "answered_ns": answered.as_nanos() as u64,
            "latest_fork_ns": stats.number("latest_fork_usec").map(|us| us * 1000),
            "cow_bytes": saved.number("rdb_last_cow_size"),
        }));
    }
    let memory = client.info("memory")?;
    let version = client.info("server")?;
    client.say(&["SHUTDOWN", "NOSAVE"])?;
    server.child.wait().context("the server")?;
    Ok(json!({
        "pid": server.child.id(),
        "version": version.0.get("redis_version"),
        "rss_bytes": memory.number("used_memory_rss"),
        "saves": found,
        "calm_p50_ns": calm.value_at_quantile(0.5),
        "calm_max_ns": calm.max(),
        "saving_p50_ns": saving.value_at_quantile(0.5),
        "saving_max_ns": saving.max(),
    }))
}

fn times() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_max(3_600_000_000_000, 3)?)
}

/// Killed when this is dropped, or the process ends.
struct Server {
    child: Child,
}

impl Server {
    fn start(program: &str, dir: &str, socket: &Path) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--daemonize", "no"]);
        command.args(["--rdbcompression", "no", "--dir", dir, "--unixsocket"]).arg(socket);
        // Servers before 7.0 know no such option and need none.
        let version = Command::new(program).arg("--version").output().context("the server")?;
        if !String::from_utf8_lossy(&version.stdout).contains("v=6.") {
            command.args(["--enable-debug-command", "yes"]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: a system call without pointers.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        Ok(Self { child: command.spawn().with_context(|| program.to_owned())? })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// One connection, one request at a time.
struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    fn connect(server: &mut Server, socket: &Path) -> Result<Self> {
        let begin = Instant::now();
        loop {
            if let Ok(stream) = UnixStream::connect(socket) {
                stream.set_read_timeout(Some(LIMIT))?;
                return Ok(Self { stream: BufReader::new(stream) });
            }
            if server.child.try_wait()?.is_some() || begin.elapsed() > LIMIT {
                bail!("the server did not start");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn say(&mut self, words: &[&str]) -> Result<()> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        Ok(self.stream.get_mut().write_all(request.as_bytes())?)
    }

    /// A line, or the text that it announces.
    fn ask(&mut self, words: &[&str]) -> Result<String> {
        self.say(words)?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let line = line.trim_end();
        match line.split_at_checked(1) {
            Some(("-", error)) => bail!("{}: {error}", words.join(" ")),
            Some(("$", len)) => {
                let mut text = vec![0; len.parse::<usize>()? + 2];
                self.stream.read_exact(&mut text)?;
                Ok(String::from_utf8_lossy(&text).into_owned())
            }
            Some((_, answer)) => Ok(answer.to_owned()),
            None => bail!("{}: the server is gone", words.join(" ")),
        }
    }

    fn info(&mut self, section: &str) -> Result<Info> {
        let text = self.ask(&["INFO", section])?;
        let pairs = text.lines().filter_map(|line| line.trim().split_once(':'));
        Ok(Info(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()))
    }
}

/// What the server says of itself.
struct Info(BTreeMap<String, String>);

impl Info {
    fn number(&self, key: &str) -> Option<u64> {
        self.0.get(key)?.parse().ok()
    }
}

/// Writes all over the keys.
struct Load {
    keys: u64,
    next: u64,
    value: String,
}

impl Load {
    fn write(&mut self, client: &mut Client, times: &mut Histogram<u64>) -> Result<()> {
        // Knuth's generator: neighbours in time are far apart in memory.
        self.next = self.next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let key = format!("key:{}", (self.next >> 33) % self.keys);
        let begin = Instant::now();
        client.ask(&["SET", &key, &self.value])?;
        times.saturating_record(begin.elapsed().as_nanos() as u64);
        Ok(())
    }
}
