//! A Redis server of our own, and how many requests it answers while it saves.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    process::{Started, wait_for},
    workloads::Sample,
};
use crate::apt;

/// Of a kilobyte each.
const KEYS: &str = "200000";
/// Of each kind, in a run.
const REQUESTS: &str = "15000";
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Server {
    process: Started,
    socket: PathBuf,
    dir: PathBuf,
}

/// What it needs, installed; an error says what is missing.
pub fn provide() -> Result<()> {
    let needs = [("redis-server", "redis-server"), ("redis-benchmark", "redis-tools")];
    let missing: Vec<_> = needs
        .iter()
        .filter(|(program, _)| !apt::has(program))
        .map(|&(_, package)| package)
        .collect();
    if missing.is_empty() { Ok(()) } else { apt::install(&missing) }
}

impl Server {
    /// Starts it and fills it.
    pub fn new(dir: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&dir)?;
        let socket = dir.join("socket");
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--rdbcompression", "no"]);
        command.arg("--unixsocket").arg(&socket).arg("--dir").arg(&dir);
        let process = Started::new(command, &dir.join("server"))?;
        let mut server = Self { process, socket, dir };
        wait_for("a Redis server that answers", PATIENCE, || {
            if server.process.has_ended()? {
                bail!("the Redis server ended: {}", server.process.complaint());
            }
            Ok(server.ask("PING").ok())
        })?;
        let fill = ["-t", "set", "-P", "64", "-n", "800000"];
        server.benchmark(&fill)?.end(PATIENCE)?;
        Ok(server)
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// GET and SET while it saves: the mean time of a request over both.
    pub fn run(&self) -> Result<Sample> {
        self.saved()?;
        let start = Instant::now();
        let answer = self.ask("BGSAVE")?;
        if !answer.starts_with("+Background saving started") {
            bail!("BGSAVE: {}", answer.trim());
        }
        let mut benchmark = self.benchmark(&["-t", "set,get", "-n", REQUESTS, "--csv"])?;
        benchmark.end(PATIENCE)?;
        let wall_ns = start.elapsed().as_nanos() as f64;
        let ns = request_ns(&benchmark.output()?).context("redis-benchmark tells no rates")?;
        self.saved()?;
        Ok(Sample { ns, wall_ns, made: None })
    }

    fn benchmark(&self, words: &[&str]) -> Result<Started> {
        let mut command = Command::new("redis-benchmark");
        command.arg("-s").arg(&self.socket).args(["-r", KEYS, "-d", "1000", "-q"]).args(words);
        Started::new(command, &self.dir.join("benchmark"))
    }

    /// Waits until no child is saving.
    fn saved(&self) -> Result<()> {
        wait_for("the end of a BGSAVE", PATIENCE, || {
            let info = self.ask("INFO persistence")?;
            Ok(info.contains("rdb_bgsave_in_progress:0").then_some(()))
        })
    }

    /// One command, and the beginning of its answer.
    fn ask(&self, command: &str) -> Result<String> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(format!("{command}\r\n").as_bytes())?;
        let mut answer = vec![0; 16 * 1024];
        let length = stream.read(&mut answer)?;
        answer.truncate(length);
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}

/// Of lines `"SET","12345.67",…`: the mean of the times that a request took.
fn request_ns(csv: &str) -> Option<f64> {
    let rate = |line: &str| {
        let mut cells = line.split(',').map(|cell| cell.trim_matches('"'));
        let is_request = cells.next().is_some_and(|name| name == "SET" || name == "GET");
        cells.next()?.parse::<f64>().ok().filter(|&rate| is_request && rate > 0.0)
    };
    let times: Vec<_> = csv.lines().filter_map(rate).map(|rate| 1e9 / rate).collect();
    (times.len() == 2).then(|| times.iter().sum::<f64>() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_get_or_a_set() {
        let csv = "\"test\",\"rps\",\"avg_latency_ms\"\n\"SET\",\"50000.00\",\"0.1\"\n\
                   \"GET\",\"100000.00\",\"0.1\"\n";
        assert_eq!(request_ns(csv), Some(15_000.0));
        assert_eq!(request_ns("\"SET\",\"50000.00\"\n"), None);
        assert_eq!(request_ns(""), None);
    }
}
