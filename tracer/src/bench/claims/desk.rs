//! Fetches figures for the judges: from experiments that were made, runs of the generator, and
//! probes.

use std::{cell::OnceCell, path::PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    curves::{self, Curve, Point, Starts},
    pages::{self, Ledgers, Pages, Tables, Writes},
    saves::{self, Save},
    shared::{self, Entered, Frozen},
    verdict::Ruling,
};
use crate::{
    bench::{Lab, Outcome, fit::median, probe::Shared},
    failure::{Failure, Why},
};

/// MiB that probes are about.
const PROBED: u64 = 64;

/// How long children wait in the part of `vfork-frozen` that is judged.
const HELD_NS: f64 = 50e6;

/// Servers that save in the background, in the order they are looked for.
const SERVERS: [&str; 2] = ["redis-server", "valkey-server"];

/// See the module.
pub(super) struct Desk<'a> {
    lab: &'a Lab,
    outcomes: &'a [Outcome],
    pages: OnceCell<Result<Pages, Failure>>,
    shared: OnceCell<Result<Vec<Shared>, Failure>>,
}

fn missing(what: impl Into<String>) -> Failure {
    Failure::new(Why::Failed, what)
}

/// A probe's answer as its judge wants it.
fn read<T: DeserializeOwned>(found: Value) -> Result<T, Failure> {
    serde_json::from_value(found).map_err(|e| missing(format!("a probe's answer is garbled: {e}")))
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64()
}

/// Records of a kind with this process as the parent.
fn of_parent<'a>(
    records: &'a [Value],
    kind: &'static str,
    pid: &'a Value,
) -> impl Iterator<Item = &'a Value> {
    records.iter().filter(move |record| record["type"] == kind && record["parent"]["pid"] == *pid)
}

impl<'a> Desk<'a> {
    pub fn new(lab: &'a Lab, outcomes: &'a [Outcome]) -> Self {
        Self { lab, outcomes, pages: OnceCell::new(), shared: OnceCell::new() }
    }

    fn outcome(&self, name: &str) -> Result<&Outcome, Failure> {
        let found = self.outcomes.iter().find(|outcome| outcome.name == name);
        found.ok_or_else(|| missing(format!("the experiment {name} failed")))
    }

    fn figure(&self, experiment: &str, name: &str) -> Result<f64, Failure> {
        let found = self.outcome(experiment)?.figures.get(name).copied();
        found.ok_or_else(|| missing(format!("the experiment {experiment} has no {name}")))
    }

    /// The probe under the tracer where there is one: what it found, and the records.
    fn probe(&self, measure: &str, words: &[&str]) -> Result<(Value, Option<Vec<Value>>), Failure> {
        if self.lab.tracer.is_ok() {
            let (found, records) = self.lab.traced_probe(measure, words)?;
            return Ok((found, Some(records)));
        }
        Ok((self.lab.probe(words)?, None))
    }

    fn pages(&self) -> Result<Pages, Failure> {
        let probe = || read(self.lab.probe(&["pages", &PROBED.to_string()])?);
        self.pages.get_or_init(probe).clone()
    }

    fn shared(&self) -> Result<Vec<Shared>, Failure> {
        let probe = || read(self.lab.probe(&["shares"])?["shared"].take());
        self.shared.get_or_init(probe).clone()
    }

    /// Medians of an experiment by what the parent has written.
    fn curve(&self, experiment: &str, figure: &str) -> Result<Curve, Failure> {
        let prefix = format!("{figure}_p50_ns.");
        let sized = self.outcome(experiment)?.figures.iter().filter_map(|(name, &value)| {
            let mib: u64 = name.strip_prefix(&prefix)?.strip_suffix("MiB")?.parse().ok()?;
            Some(Point { data: mib << 20, value })
        });
        let mut curve: Curve = sized.collect();
        curve.sort_by_key(|point| point.data);
        Ok(curve)
    }

    /// Starting a program from parents of a size by fork and by vfork, until it was collected.
    fn cycles(&self) -> Result<[Curve; 2], Failure> {
        Ok([self.curve("rss", "fork_exec_cycle")?, self.curve("rss", "vfork_exec_cycle")?])
    }

    pub fn same_until_written(&self) -> Result<Ruling, Failure> {
        let cow = |name| self.figure("cow", name);
        let ledgers = match (cow("random_copied_pages"), cow("read_copied_pages")) {
            (Ok(copied), Ok(copied_when_read)) => Some(Ledgers {
                written: cow("random_written_pages")?,
                copied,
                read: cow("read_pages")?,
                copied_when_read,
            }),
            _ => None,
        };
        Ok(pages::same_until_written(&self.pages()?, ledgers))
    }

    pub fn tables_copied(&self) -> Result<Ruling, Failure> {
        let wanted = self.lab.pick(&[0_u64, 64, 512][..], &[0, 64, 512, 4096]);
        let fit = wanted.iter().filter(|&&mib| mib << 20 <= self.lab.memory);
        let words: Vec<String> =
            ["tables".into()].into_iter().chain(fit.map(u64::to_string)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (mut found, records) = self.probe("spawn", &words)?;
        let sizes: Vec<Tables> = read(found["sizes"].take())?;
        let last = sizes.last().map(|size| size.pid);
        let traced = records.iter().flatten().find_map(|record| {
            let is = record["type"] == "spawn" && record["child"]["pid"].as_u64() == last;
            is.then(|| number(&record["parent_page_table_bytes"]))?
        });
        pages::tables_copied(&sizes, traced).map_err(missing)
    }

    pub fn frozen(&self) -> Result<Ruling, Failure> {
        let of = |door: &str, figure| self.figure("vfork-frozen", &format!("{door}_50_{figure}"));
        let times = Frozen {
            held: HELD_NS,
            until_exit: of("vfork_exit", "call_ns")?,
            until_exec: of("vfork_exec", "call_ns")?,
            fork: of("fork_exit", "call_ns")?,
            traced: of("vfork_exec", "blocked_ns").ok(),
        };
        let vfork = self.shared()?.into_iter().find(|shared| shared.maker == "vfork");
        let vfork = vfork.ok_or_else(|| missing("nothing on what vfork shares"))?;
        let outlived = read(self.lab.probe(&["frozen"])?)?;
        Ok(shared::frozen(&times, &outlived, &vfork))
    }

    pub fn four_to_five(&self) -> Result<Ruling, Failure> {
        let [fork, vfork] = self.cycles()?;
        curves::four_to_five(&fork, &vfork).map_err(missing)
    }

    pub fn as_efficient(&self) -> Result<Ruling, Failure> {
        let [fork, vfork] = self.cycles()?;
        let words = ["fork+exec,vfork+exec", "--warm-up", "2", "--duration", "200ms"];
        let run = |_| {
            let truth = self.lab.workload(&words)?;
            let cycle = |n: usize| Some(truth.parts.get(n)?.cycle.p50_ns? as f64);
            let ratio = cycle(0).zip(cycle(1)).map(|(fork, vfork)| fork / vfork);
            ratio.ok_or_else(|| missing("the generator made nothing"))
        };
        let runs = (0..self.lab.pick(7, 15)).map(run).collect::<Result<_, _>>()?;
        curves::as_efficient(&fork, &vfork, runs).map_err(missing)
    }

    pub fn gain_depends(&self) -> Result<Ruling, Failure> {
        let [fork, vfork] = self.cycles()?;
        curves::gain_depends(&fork, &vfork).map_err(missing)
    }

    pub fn all_clone(&self) -> Result<Ruling, Failure> {
        let words = ["fork,vfork,posix_spawn,thread", "--count", "5"];
        let traced = self.lab.traced("spawn", &words)?;
        let pid = Value::from(traced.truth.as_ref().map_or(0, |truth| truth.pid));
        let mut entered: Vec<Entered> = Vec::new();
        for record in of_parent(&traced.records, "spawn", &pid) {
            let text = |key: &str| record[key].as_str().unwrap_or("unknown").to_owned();
            let flags = record["clone_flags"].as_array().into_iter().flatten();
            let one = Entered {
                mechanism: text("mechanism"),
                door: text("syscall"),
                flags: flags.filter_map(|flag| Some(flag.as_str()?.to_owned())).collect(),
            };
            if !entered.contains(&one) {
                entered.push(one);
            }
        }
        shared::all_clone(&entered, &self.shared()?).map_err(missing)
    }

    pub fn threads_flat(&self) -> Result<Ruling, Failure> {
        let [thread, fork] = ["thread", "fork"].map(|way| self.curve("rss", way));
        curves::threads_flat(&thread?, &fork?).map_err(missing)
    }

    pub fn exec_resets(&self) -> Result<Ruling, Failure> {
        let found = self.lab.probe(&["exec", "256"])?;
        Ok(shared::exec_resets(&read(found)?))
    }

    pub fn spawn_like_vfork(&self) -> Result<Ruling, Failure> {
        let shapes = ["dirty", "clean", "fragmented"].map(|shape| {
            let cycle = |way| self.curve("hotos", &format!("{shape}_{way}_cycle"));
            Ok::<_, Failure>(Starts {
                spawn: cycle("posix_spawn")?,
                fork: cycle("fork_exec")?,
                vfork: cycle("vfork_exec")?,
            })
        });
        let shapes = shapes.into_iter().collect::<Result<Vec<_>, _>>()?;
        curves::spawn_like_vfork(&shapes).map_err(missing)
    }

    pub fn writes_seen(&self) -> Result<Ruling, Failure> {
        let writes = |mechanism| {
            let words = [mechanism, "--count", "20", "--rss", "4MiB", "--child-writes", "64"];
            let pages = self.lab.workload(&words)?.pages;
            let (written, seen) = (pages.child_written as f64, pages.child_writes_seen as f64);
            Ok::<_, Failure>(Writes { written, seen })
        };
        pages::writes_seen(writes("vfork")?, writes("fork")?).map_err(missing)
    }

    pub fn not_lightweight(&self) -> Result<Ruling, Failure> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
        let installed =
            SERVERS.into_iter().find(|server| dirs.iter().any(|dir| dir.join(server).is_file()));
        let save = match installed {
            Some(server) => self.server(server)?,
            None => self.snapshot()?,
        };
        Ok(saves::not_lightweight(&save))
    }

    fn server(&self, program: &str) -> Result<Save, Failure> {
        let folder = Folder::new()?;
        let (mib, saves) = self.lab.pick(("256", "3"), ("1024", "5"));
        let dir = folder.0.to_str().ok_or_else(|| missing("a folder without a name"))?;
        let (found, records) =
            self.probe("spawn,latency,cow", &["redis", program, dir, mib, saves])?;
        let each = |key: &str| {
            let saves = found["saves"].as_array().into_iter().flatten();
            median(saves.filter_map(|save| number(&save[key])).collect())
        };
        let longest = |key: &str| {
            let saves = found["saves"].as_array().into_iter().flatten();
            saves.filter_map(|save| number(&save[key])).fold(0.0, f64::max)
        };
        let of = |key: &str| {
            number(&found[key]).ok_or_else(|| missing(format!("{program} does not tell {key}")))
        };
        let (pid, none) = (&found["pid"], Vec::new());
        let records = records.as_ref().unwrap_or(&none);
        let traced = |kind, figure: fn(&Value) -> Option<f64>| {
            median(of_parent(records, kind, pid).filter_map(figure).collect())
        };
        Ok(Save {
            server: format!("{program} {}", found["version"].as_str().unwrap_or_default()),
            rss_bytes: of("rss_bytes")?,
            stall_ns: each("latest_fork_ns")
                .ok_or_else(|| missing(format!("{program} does not tell latest_fork_usec")))?,
            traced_stall_ns: traced("spawn", |spawn| {
                (spawn["mechanism"] == "fork").then(|| number(&spawn["latency_ns"]))?
            }),
            request_ns: of("calm_p50_ns")?,
            // The client asks for one thing at a time: who asks for the save waits for its fork.
            slowest_ns: of("saving_max_ns")?.max(longest("answered_ns")),
            cow_bytes: each("cow_bytes"),
            traced_cow_bytes: traced("cow", |cow| {
                let copied = |side: &str| number(&cow[side]["copied_bytes"]);
                Some(copied("parent")? + copied("child")?)
            }),
        })
    }

    /// Our own server, by the experiment: not needed where there is a real one.
    fn snapshot(&self) -> Result<Save, Failure> {
        let made;
        let outcome = match self.outcome("snapshot") {
            Ok(outcome) => outcome,
            Err(_) => {
                let all = crate::bench::ALL.iter();
                let one = all.into_iter().find(|one| one.name == "snapshot");
                made = (one.ok_or_else(|| missing("no server, and no snapshot"))?.run)(self.lab)?;
                &made
            }
        };
        let of = |name: &str| {
            let found = outcome.figures.get(name).copied();
            found.ok_or_else(|| missing(format!("snapshot has no {name}")))
        };
        Ok(Save {
            server: "no redis-server here; our own `snapshot`".into(),
            rss_bytes: of("rss_bytes")?,
            stall_ns: of("stall_ns")?,
            traced_stall_ns: of("traced_stall_ns").ok(),
            request_ns: of("calm_p50_ns")?,
            slowest_ns: of("saving_max_ns")?,
            cow_bytes: None,
            traced_cow_bytes: of("cow_bytes").ok(),
        })
    }

    pub fn user_level(&self) -> Result<Ruling, Failure> {
        let count = self.lab.pick("1000", "5000");
        let tasks = |probe| {
            let (found, records) = self.probe("spawn", &[probe, count])?;
            let seen = records.map(|records| of_parent(&records, "spawn", &found["pid"]).count());
            let mut tasks: shared::Tasks = read(found)?;
            tasks.traced = seen.map(|seen| seen as f64);
            Ok::<_, Failure>(tasks)
        };
        shared::user_level(&tasks("user-tasks")?, &tasks("threads")?).map_err(missing)
    }

    pub fn plan9(&self) -> Result<Ruling, Failure> {
        shared::plan9(&read(self.lab.probe(&["rfork"])?)?).map_err(missing)
    }

    pub fn copied_at_call(&self) -> Result<Ruling, Failure> {
        Ok(pages::copied_at_call(&self.pages()?))
    }
}

/// A folder for a server's files, that goes when this does.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, Failure> {
        let dir = std::env::temp_dir().join(format!("forkscope-claims-{}", std::process::id()));
        std::fs::create_dir(&dir)
            .map_err(|e| missing(format!("{}: {e}; remove it", dir.display())))?;
        Ok(Self(dir))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
