//! The only code that loads and attaches.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::{
    Btf, Ebpf, EbpfLoader, Endianness, VerifierLogLevel,
    maps::{Array, HashMap, Map},
    programs::RawTracePoint,
};
use forkscope_common::{
    Plain as _,
    config::{Places, feature, slot},
    event::COMM_LEN,
};

use super::{
    backend::{At, Choice, Use, choose},
    books::Books,
    cgroups::{self, Named},
    config,
    facts::CALLED,
    host::{Host, in_user_namespace},
    ring::Ring,
    sys::{self, Mapped},
    witness::Wrong,
};
use crate::{
    confine::without_privilege,
    failure::{Failure, Why},
    plan::Plan,
};

mod attach;
mod cow;

/// The kernel side, as build.rs chose it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/forkscope.bpf.o"));
/// Its digest.
pub const OBJECT_SHA256: &str = env!("FORKSCOPE_EBPF_SHA256");
/// Where it came from: `prebuilt`, `source` or `override`.
pub const OBJECT_ORIGIN: &str = env!("FORKSCOPE_EBPF_ORIGIN");

/// Tasks that can be remembered at once where `pid_max` allows more.
const MOST_TASKS: u32 = 1 << 18;
/// Ends of processes that are remembered for the moment in which another may seem to follow.
const MOST_ENDED: u32 = 1 << 12;
/// Control groups that `--cgroup` can match at once.
const MOST_CGROUPS: u32 = 1 << 16;

/// Ledgers that can be open at once.
const MOST_LEDGERS: u32 = 8192;
/// Blocks of copied pages that `profile` tells apart: 4 GiB of them.
const MOST_PLACES: u32 = 1 << 16;
/// Address spaces that can have taken part in forks at once.
const MOST_SPACES: u32 = 1 << 15;
/// Stacks that `--stacks` tells apart.
const MOST_STACKS: u32 = 1 << 14;

/// Places for the faults under way; a power of two.
#[must_use]
pub fn windows(host: &Host) -> u32 {
    host.pid_max.clamp(1024, 1 << 16).next_power_of_two()
}

/// Where tasks are, and where address spaces: every tid has a place of its own where there are
/// places enough, and each key has a few otherwise.
#[must_use]
pub fn places(host: &Host) -> (Places, Places) {
    // With a quarter taken, as by all the ledgers there are, eight would not do for one in 30,000.
    const FEW: u32 = 16;
    let tasks = host.pid_max.clamp(1024, MOST_TASKS).next_power_of_two();
    let spaces = host.pid_max.clamp(1024, MOST_SPACES).next_power_of_two();
    let own = tasks >= host.pid_max;
    (
        Places { mask: tasks - 1, most: if own { 1 } else { FEW } },
        Places { mask: spaces - 1, most: FEW },
    )
}

/// The programs, loaded; they record nothing before [`Live::begin`].
pub struct Live {
    ebpf: Ebpf,
    features: u32,
    choice: Choice,
    links: Vec<attach::Link>,
    events: Vec<OwnedFd>,
    /// CPUs that have an event each for minor faults, and have not gone since.
    timed_cpus: Vec<u32>,
    costs: Vec<Cost>,
    /// One in so many minor faults is timed.
    period: u32,
    notes: Vec<String>,
    books: Books,
    ring: Option<Ring>,
}

/// What loading a program took.
#[derive(Clone, Debug)]
pub struct Cost {
    /// The program.
    pub program: String,
    /// Instructions that the verifier walked, where the kernel says (5.16 and later).
    pub verified_instructions: Option<u32>,
    /// How long loading took, nanoseconds.
    pub load_ns: u64,
}

/// Why programs are not loaded.
enum Trouble {
    /// Nothing can be done about it.
    Failure(Failure),
    /// The verifier refused this program.
    Load(Use, Failure),
    /// It was refused later; another choice may do without it.
    Refused(Use, Failure),
    /// The page tables were not found.
    PageTables(String),
    /// Fields do not read as they should.
    Fields(Vec<Wrong>),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// Where the programs call functions of the kernel, the object has calls of these numbers
/// (`kernel/load.rs` of the programs), in the order of [`CALLED`].
const CALL_MARKERS: [u32; 4] = [0xf0f0_ca57, 0xf0f0_ca58, 0xf0f0_ca59, 0xf0f0_ca5a];

/// The object with those functions' numbers in place, or without the calls.
fn object(host: &Host) -> Vec<u8> {
    let call = |id: u32| {
        let [a, b, c, d] = id.to_le_bytes();
        [0x85, 0x20, 0, 0, a, b, c, d]
    };
    // `r0 = 0`
    let none = [0xb7, 0, 0, 0, 0, 0, 0, 0];
    let mut bytes = OBJECT.to_vec();
    // Instructions are eight bytes long, and so is the alignment of what holds them.
    for instruction in bytes.chunks_exact_mut(8) {
        for (marker, function) in CALL_MARKERS.into_iter().zip(CALLED) {
            if instruction == call(marker) {
                instruction.copy_from_slice(&host.callable(function).map_or(none, call));
            }
        }
    }
    bytes
}

/// What the verifier is to say (`FORKSCOPE_VERIFIER_LOG`): of what it refuses, each step (`1`), or
/// why alone (`short`), where each step is more than its log can hold.
fn verifier_log() -> VerifierLogLevel {
    match std::env::var("FORKSCOPE_VERIFIER_LOG").as_deref() {
        Ok("short") => VerifierLogLevel::STATS,
        Ok(_) => VerifierLogLevel::VERBOSE | VerifierLogLevel::STATS,
        Err(_) => VerifierLogLevel::DISABLE,
    }
}

fn loading(host: &Host, what: &str, error: &(dyn std::error::Error + 'static)) -> Failure {
    let mut reason = error.to_string();
    let (mut denied, mut no_memory) = (false, false);
    let no_files = |errno: Option<i32>| matches!(errno, Some(libc::EMFILE | libc::ENFILE));
    // What fails for want of a descriptor may have been told as something else.
    let mut full = sys::spare_descriptor().is_err_and(|e| no_files(e.raw_os_error()));
    let mut at: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = at {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            denied |= io.kind() == std::io::ErrorKind::PermissionDenied;
            no_memory |= io.kind() == std::io::ErrorKind::OutOfMemory;
            full |= no_files(io.raw_os_error());
            reason = io.to_string();
        }
        at = cause.source();
    }
    if let aya::programs::ProgramError::LoadError { verifier_log, .. } =
        error.downcast_ref().unwrap_or(&aya::programs::ProgramError::NotLoaded)
        && std::env::var_os("FORKSCOPE_VERIFIER_LOG").is_some()
    {
        eprintln!("{verifier_log}");
    }
    let missing = host.missing_to_load();
    if denied && !missing.is_empty() {
        return not_permitted(&missing);
    }
    if denied && in_user_namespace() {
        return Failure::new(
            Why::NotPermitted,
            "not permitted to trace: this is in a user namespace of its own (capabilities there \
             do not load programs); run it outside, as root",
        );
    }
    let (why, do_this) = if host.lockdown.as_deref() == Some("confidentiality") {
        let do_this = "the kernel is locked down (confidentiality), and its memory is not read; \
                       boot it with lockdown=integrity or without";
        (Why::Unsupported, do_this)
    } else if denied {
        (Why::Unsupported, "a security policy of this kernel forbids it; see `forkscope doctor`")
    } else if no_memory {
        let do_this = "there is not the memory for it, or a limit of the control group (or \
                       RLIMIT_MEMLOCK, before 5.11) forbids it: raise that, or make --buffer smaller";
        (Why::Failed, do_this)
    } else if full {
        reason = "too many open files".into();
        (Why::Failed, "raise the limit on them, as by `ulimit -n 1024`")
    } else {
        (Why::Failed, "set FORKSCOPE_VERIFIER_LOG=short and report what it prints")
    };
    Failure::new(why, format!("{what}: {reason}; {do_this}"))
}

/// The line for somebody without privileges.
#[must_use]
pub fn not_permitted(missing: &[&str]) -> Failure {
    let command: Vec<String> = std::env::args().collect();
    Failure::new(
        Why::NotPermitted,
        format!(
            "not permitted to trace: {} missing; run it as root: sudo {}",
            missing.join(" and "),
            command.join(" ")
        ),
    )
}

/// Remembers what was refused, so that the next choice is another one.
///
/// # Errors
/// The refusal, where nothing can replace what was refused.
fn another_way(
    host: &mut Host,
    trouble: Trouble,
    untyped_for: &mut Option<Use>,
) -> Result<(), Failure> {
    let (one, failure, by_verifier) = match trouble {
        Trouble::Failure(failure) => return Err(failure),
        Trouble::PageTables(why) => {
            host.facts.no_page_tables = Some(why);
            return Ok(());
        }
        Trouble::Fields(wrong) => return give_up(host, wrong),
        Trouble::Load(one, failure) => (one, failure, true),
        Trouble::Refused(one, failure) => (one, failure, false),
    };
    if failure.why == Why::NotPermitted {
        return Err(failure);
    }
    let reason = failure.message.split(';').next().unwrap_or_default().to_string();
    if by_verifier && host.follows_types() {
        // It may be for the types of pointers alone.
        host.facts.untyped = Some(reason);
        *untyped_for = Some(one);
        return Ok(());
    }
    if untyped_for.take().as_ref() == Some(&one) {
        host.facts.untyped = None; // it was not
    }
    let At::Function(backend, function, _) = one.at else { return Err(failure) };
    host.facts.refuse(backend, function, reason);
    Ok(())
}

/// Does without fields that do not read as they should.
fn give_up(host: &mut Host, wrong: Vec<Wrong>) -> Result<(), Failure> {
    for one in wrong {
        let again = host.facts.wrong(one.field).is_some();
        let Ok(btf) = &mut host.btf else { continue };
        if one.is_essential() || again {
            return Err(Failure::new(
                Why::Unsupported,
                format!(
                    "{}: {}; the kernel's type information is not that of this kernel, or this \
                     version does not know it: report it",
                    one.name(),
                    one.why
                ),
            ));
        }
        btf.pretend(&one.name());
        host.facts.wrong.push(one);
    }
    Ok(())
}

/// What aya needs to know of the kernel's BTF, which was read and searched already: the numbers of
/// what is hooked.
fn numbers(host: &Host, choice: &Choice) -> Result<Btf, Failure> {
    let mut wanted = Vec::new();
    for one in &choice.uses {
        let (number, function, name) = match one.at {
            At::Event(event) => {
                let number = host.btf.as_ref().ok().and_then(|btf| btf.tracepoint(event));
                (number, false, format!("btf_trace_{event}"))
            }
            At::Function(_, function, _) => (host.facts.number(function), true, function.into()),
            At::Events(_) | At::Syscalls(..) | At::MinorFaults => continue,
        };
        wanted.extend(number.map(|number| (number, function, name)));
    }
    let wanted: Vec<_> = wanted.iter().map(|(id, f, name)| (*id, *f, name.as_str())).collect();
    Btf::parse(&super::btf::Btf::abridged(&wanted), Endianness::default())
        .map_err(|e| loading(host, "reading the kernel's BTF", &e))
}

impl Live {
    /// Makes the maps, loads the programs of the best choice there is, and hooks functions.
    ///
    /// What the kernel refuses is remembered in the host's facts, and another choice is made;
    /// [`Self::notes`] and the choice's measurements say so.
    ///
    /// # Errors
    /// When privileges are missing, or the kernel refuses a map or a program that nothing can
    /// replace.
    pub fn load(host: &mut Host, plan: &Plan, tracer_pid: u32) -> Result<Self, Failure> {
        let missing = host.missing_to_load();
        if !missing.is_empty() {
            return Err(not_permitted(&missing));
        }
        // What could not be looked at for want of a descriptor must not pass for what is not there.
        if let Err(error) = sys::spare_descriptor() {
            return Err(loading(host, "looking at this kernel", &error));
        }
        sys::raise_locked_memory();
        let mut untyped_for = None;
        loop {
            let choice = choose(host, plan)?;
            match Self::load_chosen(host, plan, choice, tracer_pid) {
                Ok(live) => return Ok(live.told(host)),
                Err(trouble) => another_way(host, trouble, &mut untyped_for)?,
            }
        }
    }

    /// With what is to be said about it, and what was learned.
    fn told(mut self, host: &mut Host) -> Self {
        for one in &host.facts.wrong {
            self.notes.push(format!("{} is not used: {}", one.name(), one.why));
        }
        if let Some(why) = &host.facts.untyped {
            self.notes.push(format!(
                "kernel memory is read by helper calls, which is slower: this kernel does not \
                 follow typed pointers ({why})"
            ));
        }
        for one in &self.choice.uses {
            if let At::Function(backend, function, _) = one.at {
                host.facts.confirm(backend, function);
            }
        }
        self
    }

    fn load_chosen(
        host: &Host,
        plan: &Plan,
        choice: Choice,
        tracer_pid: u32,
    ) -> Result<Self, Trouble> {
        let named = match &host.btf {
            Ok(btf) => cgroups::named(&plan.filters.cgroups, |controller| {
                btf.enumerator("cgroup_subsys_id", &format!("{controller}_cgrp_id"))
            })?,
            Err(_) => Named::default(),
        };
        let config = config::build(host, plan, &choice, tracer_pid, &named.hierarchies)?;
        let cow = config.features & feature::COW != 0;
        let wanted = |bit, entries| if config.features & bit != 0 { entries } else { 1 };
        let ledgers = wanted(feature::COW, MOST_LEDGERS);
        let recent = ledgers.min(4 * host.cpus);
        let btf = numbers(host, &choice)?;
        let bytes: &[u8] = config.as_bytes();
        // aya begins by reading all of the kernel's BTF, whether it is given some or not: that is
        // 50 ms and 20 MB for what is replaced at once.
        let mut ebpf = sys::without_opening(EbpfLoader::new)
            .btf(Some(&btf))
            .verifier_log_level(verifier_log())
            .override_global("CONFIG", bytes, true)
            .map_max_entries("EVENTS", plan.ring_bytes)
            .map_max_entries("HISTS", slot::COUNT * host.cpus)
            .map_max_entries("COUNTERS", host.cpus)
            .map_max_entries("TASKS", config.tasks.mask + 1)
            .map_max_entries("CGROUPS", if named.groups.is_empty() { 1 } else { MOST_CGROUPS })
            .map_max_entries("EXEC_SCRATCH", 2 * host.cpus)
            .map_max_entries("CGROUP_SCRATCH", host.cpus)
            .map_max_entries("PER_CPU", host.cpus)
            .map_max_entries("LEDGERS", ledgers)
            .map_max_entries("FREE", ledgers)
            .map_max_entries("RECENT", recent)
            .map_max_entries("RANKS", ledgers)
            .map_max_entries("SPACES", wanted(feature::COW, config.spaces.mask + 1))
            .map_max_entries(
                "ENDED",
                if config.features & feature::EXIT_GROUP_DEAD == 0 { MOST_ENDED } else { 1 },
            )
            .map_max_entries(
                "OWNERS",
                wanted(feature::ENDS_WITH_PROCESS, host.pid_max.clamp(1024, MOST_SPACES)),
            )
            .map_max_entries("WINDOWS", if cow { config.window_mask + 1 } else { 1 })
            .map_max_entries("PLACES", wanted(feature::COW_PLACES, MOST_PLACES))
            .map_max_entries("PAID", wanted(feature::COW_STACKS, MOST_STACKS))
            .map_max_entries("STACKS", wanted(feature::COW_STACKS, MOST_STACKS))
            .load(&object(host))
            .map_err(|e| loading(host, "making the eBPF maps", &e))?;
        let array = |name: &str| {
            let map = ebpf.map(name).and_then(|map| match map {
                Map::Array(data) => Some(data),
                _ => None,
            });
            map.ok_or_else(|| Failure::new(Why::Failed, format!("no map {name}")))
        };
        let mapped = |name: &str, size: usize| {
            Mapped::new(array(name)?.fd().as_fd(), size).map_err(|e| {
                Failure::new(Why::Failed, format!("mapping {name} failed: {e}; report it"))
            })
        };
        let all_ledgers = array("LEDGERS")?.fd().as_fd().try_clone_to_owned();
        let all_ledgers = all_ledgers.map_err(|e| loading(host, "keeping the map LEDGERS", &e))?;
        let books = Books::new(host.cpus, (all_ledgers, ledgers), mapped)?;
        let ring = ebpf
            .take_map("EVENTS")
            .ok_or_else(|| Failure::new(Why::Failed, "no map EVENTS"))
            .and_then(|map| {
                let Map::RingBuf(map) = map else {
                    return Err(Failure::new(Why::Failed, "the map EVENTS is no ring"));
                };
                Ring::new(map, plan.ring_bytes).map_err(|e| loading(host, "mapping the ring", &e))
            })?;
        let mut live = Self {
            ebpf,
            features: config.features,
            choice,
            links: Vec::new(),
            events: Vec::new(),
            timed_cpus: Vec::new(),
            costs: Vec::new(),
            period: config.cow_period,
            notes: Vec::new(),
            books,
            ring: Some(ring),
        };
        live.fill_filters(host, plan, &named.groups)?;
        if cow {
            live.fill_slots(ledgers, recent)?;
        }
        live.load_programs(host, &btf)?;
        if std::env::var_os("FORKSCOPE_VERIFIER_LOG").is_some() {
            for Cost { program, verified_instructions, load_ns } in &live.costs {
                let (walked, us) = (verified_instructions.unwrap_or(0), load_ns / 1000);
                eprintln!("{program}: {walked} instructions verified, {us} µs");
            }
        }
        live.check_fields(host)?;
        live.survey(host)?;
        live.hook_functions(host)?;
        live.prove(host)?;
        Ok(live)
    }

    fn fill_filters(&mut self, host: &Host, plan: &Plan, groups: &[u64]) -> Result<(), Failure> {
        let filters = &plan.filters;
        let failed = |e: aya::maps::MapError| loading(host, "writing the filters", &e);
        if let Some(pids) = self.ebpf.map_mut("PIDS") {
            let mut pids = HashMap::<_, u32, u8>::try_from(pids).map_err(failed)?;
            for pid in &filters.pids {
                pids.insert(pid, 1, 0).map_err(failed)?;
            }
        }
        if let Some(uids) = self.ebpf.map_mut("UIDS") {
            let mut uids = HashMap::<_, u32, u8>::try_from(uids).map_err(failed)?;
            for uid in &filters.uids {
                uids.insert(uid, 1, 0).map_err(failed)?;
            }
        }
        if let Some(map) = self.ebpf.map_mut("CGROUPS") {
            let mut map = HashMap::<_, u64, u8>::try_from(map).map_err(failed)?;
            for group in groups {
                map.insert(group, 1, 0).map_err(failed)?;
            }
        }
        if let Some(comms) = self.ebpf.map_mut("COMMS") {
            let mut comms = HashMap::<_, [u8; COMM_LEN], u8>::try_from(comms).map_err(failed)?;
            for comm in &filters.comms {
                let mut key = [0; COMM_LEN];
                let n = comm.len().min(COMM_LEN - 1);
                key[..n].copy_from_slice(&comm.as_bytes()[..n]);
                comms.insert(key, 1, 0).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Marks a task as followed, before or while tracing.
    ///
    /// # Errors
    /// When there is no room left for it.
    pub fn follow(&mut self, tid: u32) -> Result<(), Failure> {
        let failed = |why: &dyn std::fmt::Display| {
            Failure::new(Why::Failed, format!("cannot follow task {tid}: {why}; trace fewer"))
        };
        let program: &mut RawTracePoint = self.program("follow")?;
        if program.fd().is_err() {
            program.load().map_err(|e| failed(&e))?;
        }
        let fd = program.fd().map_err(|e| failed(&e))?;
        match sys::run_once(fd.as_fd(), tid.into()) {
            Ok(0) => Ok(()),
            Ok(_) => Err(failed(&"no room is left")),
            Err(e) => Err(failed(&e)),
        }
    }

    /// The ring, once.
    pub fn take_ring(&mut self) -> Option<Ring> {
        self.ring.take()
    }

    /// What the programs count.
    pub fn books(&mut self) -> &mut Books {
        &mut self.books
    }

    /// Runs that the kernel skipped because a program was already running on the CPU, by program.
    #[must_use]
    pub fn missed(&self) -> BTreeMap<String, u64> {
        // Page faults come with interrupts off: the only fault inside such a program is one that
        // its own reading of a user stack makes. An exit of do_wp_page that is skipped is made up
        // for at the task's next one.
        let own = |one: &&Use| {
            one.program != "page_fault" && !matches!(one.at, At::Function(_, "do_wp_page", true))
        };
        let mut missed = BTreeMap::new();
        for one in self.choice.uses.iter().filter(own) {
            let info = self
                .ebpf
                .program(&one.program)
                .and_then(|program| program.fd().ok())
                .and_then(|fd| sys::program_info(fd.as_fd()).ok());
            if let Some(info) = info
                && info.recursion_misses > 0
            {
                missed.insert(one.program.clone(), info.recursion_misses);
            }
        }
        missed
    }

    /// Whether this kernel lets nobody ask for a program's misses, or change a map, without
    /// `CAP_BPF` (where unprivileged bpf(2) is switched off, before 5.19).
    #[must_use]
    pub fn needs_privilege(&self) -> bool {
        let mut programs = self.ebpf.programs().filter_map(|(_, program)| program.fd().ok());
        let Some(fd) = programs.next() else { return true };
        !without_privilege(|| sys::program_info(fd.as_fd()).is_ok()).unwrap_or(false)
    }

    /// Fallbacks that loading had to take.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What measures what.
    #[must_use]
    pub fn choice(&self) -> &Choice {
        &self.choice
    }

    /// What loading each program took.
    #[must_use]
    pub fn costs(&self) -> &[Cost] {
        &self.costs
    }

    fn set_gate(&mut self, open: bool) -> Result<(), Failure> {
        let failed = |why: String| Failure::new(Why::Failed, format!("the gate: {why}; report it"));
        let map = self.ebpf.map_mut("GATE").ok_or_else(|| failed("no such map".into()))?;
        Array::<_, u32>::try_from(map)
            .and_then(|mut gate| gate.set(0, u32::from(open), 0))
            .map_err(|e| failed(e.to_string()))
    }

    /// Begins: all programs are attached, and from here on they record.
    ///
    /// # Errors
    /// When the kernel refuses the write, or the object is of another version.
    pub fn begin(&mut self) -> Result<(), Failure> {
        self.set_gate(true)
    }

    /// Nothing begins any more; calls that are under way may still return.
    pub fn close(&mut self) {
        // What opened can be closed; and if not, detaching ends it a little later.
        let _ = self.set_gate(false);
    }

    /// Switches the programs off; what they have put into the ring stays there.
    ///
    /// Nothing begins any more at once; calls that are under way may still return while the
    /// syscall tracepoints are being detached, a tenth of a second or so.
    pub fn detach(&mut self) {
        self.close();
        let (functions, events): (Vec<_>, Vec<_>) =
            self.links.drain(..).partition(|link| link.of_function);
        // Spawns first: they are attached last.
        events.into_iter().rev().for_each(drop);
        // Closing one of these waits until no CPU can be in it any more; all wait at the same
        // time. Without room for another thread, what it was to close is closed here.
        let thread = || std::thread::Builder::new().stack_size(1 << 17);
        std::thread::scope(|scope| {
            for link in functions {
                let _ = thread().spawn_scoped(scope, move || drop(link));
            }
            for event in self.events.drain(..) {
                let _ = thread().spawn_scoped(scope, move || drop(event));
            }
        });
    }
}
