//! The only code that loads and attaches.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::{
    Btf, Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Array, HashMap, Map, MapData, RingBuf},
    programs::{BtfTracePoint, PerfEvent, Program, TracePoint, tp_btf::BtfTracePointLinkId},
};
use forkscope_common::{
    Plain as _,
    config::{TaskState, feature, slot, task},
    event::{COMM_LEN, NO_MECHANISM},
};

use super::{
    backend::{CREATING, EXECS},
    books::Books,
    cgroups::{self, Named},
    config,
    host::Host,
    sys::{self, Mapped},
};
use crate::{
    failure::{Failure, Why},
    plan::Plan,
};

mod cow;

/// The kernel side, as build.rs chose it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/forkscope.bpf.o"));
/// Its digest.
pub const OBJECT_SHA256: &str = env!("FORKSCOPE_EBPF_SHA256");
/// Where it came from: `prebuilt`, `source` or `override`.
pub const OBJECT_ORIGIN: &str = env!("FORKSCOPE_EBPF_ORIGIN");

/// Where the programs read a syscall's result in its tracepoint's record.
const RESULT_OFFSET: u32 = 16;

/// Tasks that can be remembered at once where `pid_max` allows more.
const MOST_TASKS: u32 = 1 << 18;
/// Control groups that `--cgroup` can match at once.
const MOST_CGROUPS: u32 = 1 << 16;

/// Ledgers that can be open at once.
const MOST_LEDGERS: u32 = 8192;
/// Blocks of copied pages that `profile` tells apart: 4 GiB of them.
const MOST_PLACES: u32 = 1 << 16;
/// Address spaces that can have taken part in forks at once.
const MOST_SPACES: u32 = 1 << 15;
/// The program of the perf event.
const MINOR_FAULT: &str = "minor_fault";
/// Stacks that `--stacks` tells apart.
const MOST_STACKS: u32 = 1 << 14;

/// Places for the faults under way; a power of two.
#[must_use]
pub fn windows(host: &Host) -> u32 {
    host.pid_max.clamp(1024, 1 << 16).next_power_of_two()
}

/// The programs, loaded; they see nothing before [`Live::attach`].
pub struct Live {
    ebpf: Ebpf,
    features: u32,
    links: Vec<(&'static str, BtfTracePointLinkId)>,
    events: Vec<OwnedFd>,
    attached: Vec<&'static str>,
    /// One in so many minor faults is timed.
    period: u32,
    notes: Vec<String>,
    books: Books,
    ring: Option<RingBuf<MapData>>,
}

/// A program of a BTF tracepoint, and when it is needed.
struct Hook {
    name: &'static str,
    tracepoint: &'static str,
    /// Only where the tracepoint has this many arguments.
    args: Option<u32>,
    /// Features that must all be on, in one of the sets.
    features: &'static [u32],
}

const fn hook(name: &'static str, features: &'static [u32]) -> Hook {
    Hook { name, tracepoint: name, args: None, features }
}

const COPY: &[u32] = &[feature::LATENCY | feature::SPAWN];
const COW: &[u32] = &[feature::COW];
/// Needed only where page tables cannot be read.
const ALLOCATED: &str = "mm_page_alloc";

const fn locking(name: &'static str, tracepoint: &'static str, args: u32) -> Hook {
    Hook { name, tracepoint, args: Some(args), features: COPY }
}

const BTF_PROGRAMS: [Hook; 14] = [
    hook("cgroup_mkdir", &[0]),
    hook("exit_mmap", COW),
    Hook { name: ALLOCATED, tracepoint: ALLOCATED, args: None, features: COW },
    hook("page_fault_kernel", COW),
    hook("page_fault_user", COW),
    hook("sched_process_exit", &[0]),
    locking("mmap_lock_released", "mmap_lock_released", 2),
    locking("mmap_lock_released_path", "mmap_lock_released", 3),
    locking("mmap_lock_acquire_returned", "mmap_lock_acquire_returned", 3),
    locking("mmap_lock_acquire_returned_path", "mmap_lock_acquire_returned", 4),
    hook("sched_prepare_exec", &[feature::LATENCY | feature::EXEC]),
    hook("sched_process_exec", &[feature::EXEC]),
    hook("task_newtask", &[feature::SPAWN, feature::COW]),
    Hook { name: "task_newtask_cow", tracepoint: "task_newtask", args: None, features: COW },
];

/// Where the programs call functions of the kernel, the object has calls of these numbers
/// (`kernel/load.rs` of the programs): `bpf_rdonly_cast`, `bpf_cast_to_kern_ctx`.
const CAST_MARKERS: [u32; 2] = [0xf0f0_ca57, 0xf0f0_ca58];

/// The object with those functions' numbers in place, or without the calls.
fn object(casts: Option<[u32; 2]>) -> Vec<u8> {
    let call = |id: u32| {
        let [a, b, c, d] = id.to_le_bytes();
        [0x85, 0x20, 0, 0, a, b, c, d]
    };
    // `r0 = 0`
    let none = [0xb7, 0, 0, 0, 0, 0, 0, 0];
    let mut bytes = OBJECT.to_vec();
    // Instructions are eight bytes long, and so is the alignment of what holds them.
    for instruction in bytes.chunks_exact_mut(8) {
        for (index, marker) in CAST_MARKERS.into_iter().enumerate() {
            if instruction == call(marker) {
                instruction.copy_from_slice(&casts.map_or(none, |ids| call(ids[index])));
            }
        }
    }
    bytes
}

fn loading(host: &Host, what: &str, error: &(dyn std::error::Error + 'static)) -> Failure {
    let mut reason = error.to_string();
    let mut denied = false;
    let mut at: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = at {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            denied |= io.kind() == std::io::ErrorKind::PermissionDenied;
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
    let do_this = if denied {
        "a security policy of this kernel forbids it; see `forkscope doctor`"
    } else {
        "set FORKSCOPE_VERIFIER_LOG=1 and report what it prints"
    };
    let why = if denied { Why::Unsupported } else { Why::Failed };
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

impl Live {
    /// Makes the maps and loads the programs that the plan needs.
    ///
    /// Where the verifier refuses to follow typed pointers, the programs read by helper calls
    /// instead; [`Self::notes`] says so.
    ///
    /// # Errors
    /// When privileges are missing, or the kernel refuses a map or a program.
    pub fn load(host: &Host, plan: &Plan, tracer_pid: u32) -> Result<Self, Failure> {
        let typed = host.helpers.contains("get_current_task_btf");
        match Self::load_surveyed(host, plan, tracer_pid, typed) {
            Err(first) if typed && first.why != Why::NotPermitted => {
                let Ok(mut live) = Self::load_surveyed(host, plan, tracer_pid, false) else {
                    return Err(first);
                };
                let why = first.message.split(';').next().unwrap_or_default();
                live.notes.push(format!(
                    "kernel memory is read by helper calls, which is slower: this kernel does not \
                     follow typed pointers ({why})"
                ));
                Ok(live)
            }
            other => other,
        }
    }

    /// With the page tables where they can be found.
    fn load_surveyed(
        host: &Host,
        plan: &Plan,
        tracer_pid: u32,
        typed: bool,
    ) -> Result<Self, Failure> {
        let mut live = Self::load_reading(host, plan, tracer_pid, typed, true)?;
        let Err(why) = live.survey(host) else { return Ok(live) };
        live = Self::load_reading(host, plan, tracer_pid, typed, false)?;
        live.notes.push(format!(
            "copy-on-write counts are an upper bound: the kernel's page tables were not found ({why})"
        ));
        Ok(live)
    }

    fn load_reading(
        host: &Host,
        plan: &Plan,
        tracer_pid: u32,
        typed: bool,
        page_tables: bool,
    ) -> Result<Self, Failure> {
        let missing = host.missing_to_load();
        if !missing.is_empty() {
            return Err(not_permitted(&missing));
        }
        let named = match &host.btf {
            Ok(btf) => cgroups::named(&plan.filters.cgroups, |controller| {
                btf.enumerator("cgroup_subsys_id", &format!("{controller}_cgrp_id"))
            })?,
            Err(_) => Named::default(),
        };
        let mut config = config::build(host, plan, tracer_pid, &named.hierarchies)?;
        if !typed {
            // The helper that finds saved registers takes a typed task.
            config.features &= !(feature::TYPED_POINTERS | feature::TASK_PT_REGS);
        }
        if !page_tables {
            config.features &= !feature::PAGE_TABLES;
        }
        let cow = config.features & feature::COW != 0;
        let wanted = |bit, entries| if config.features & bit != 0 { entries } else { 1 };
        let ledgers = wanted(feature::COW, MOST_LEDGERS);
        let btf = Btf::from_sys_fs().map_err(|e| loading(host, "reading the kernel's BTF", &e))?;
        let tasks = host.pid_max.clamp(1024, MOST_TASKS);
        let bytes: &[u8] = config.as_bytes();
        let mut ebpf = EbpfLoader::new()
            .btf(Some(&btf))
            .verifier_log_level(if std::env::var_os("FORKSCOPE_VERIFIER_LOG").is_some() {
                VerifierLogLevel::VERBOSE | VerifierLogLevel::STATS
            } else {
                VerifierLogLevel::DISABLE
            })
            .override_global("CONFIG", bytes, true)
            .map_max_entries("EVENTS", plan.ring_bytes)
            .map_max_entries("HISTS", slot::COUNT * host.cpus)
            .map_max_entries("COUNTERS", host.cpus)
            .map_max_entries("TASKS", tasks)
            .map_max_entries("CGROUPS", if named.groups.is_empty() { 1 } else { MOST_CGROUPS })
            .map_max_entries("EXEC_SCRATCH", 2 * host.cpus)
            .map_max_entries("CGROUP_SCRATCH", host.cpus)
            .map_max_entries("PER_CPU", host.cpus)
            .map_max_entries("LEDGERS", ledgers)
            .map_max_entries("FREE", ledgers)
            .map_max_entries("RANKS", ledgers)
            .map_max_entries("SPACES", wanted(feature::COW, host.pid_max.clamp(1024, MOST_SPACES)))
            .map_max_entries("WINDOWS", if cow { config.window_mask + 1 } else { 1 })
            .map_max_entries("PLACES", wanted(feature::COW_PLACES, MOST_PLACES))
            .map_max_entries("PAID", wanted(feature::COW_STACKS, MOST_STACKS))
            .map_max_entries("STACKS", wanted(feature::COW_STACKS, MOST_STACKS))
            .load(&object(host.casts))
            .map_err(|e| loading(host, "making the eBPF maps", &e))?;
        let mapped = |name: &str, size: usize| {
            let map = ebpf.map(name).and_then(|map| match map {
                Map::Array(data) => Some(data),
                _ => None,
            });
            let map = map.ok_or_else(|| Failure::new(Why::Failed, format!("no map {name}")))?;
            Mapped::new(map.fd().as_fd(), size).map_err(|e| {
                Failure::new(Why::Failed, format!("mapping {name} failed: {e}; report it"))
            })
        };
        let books = Books::new(host.cpus, ledgers, mapped)?;
        let ring = ebpf
            .take_map("EVENTS")
            .ok_or_else(|| Failure::new(Why::Failed, "no map EVENTS"))
            .and_then(|map| {
                RingBuf::try_from(map).map_err(|e| loading(host, "mapping the ring", &e))
            })?;
        let mut live = Self {
            ebpf,
            features: config.features,
            links: Vec::new(),
            events: Vec::new(),
            attached: Vec::new(),
            period: plan.cow.period,
            notes: Vec::new(),
            books,
            ring: Some(ring),
        };
        live.fill_filters(host, plan, &named.groups)?;
        if cow {
            live.fill_slots(ledgers)?;
        }
        live.load_programs(host, &btf)?;
        if std::env::var_os("FORKSCOPE_VERIFIER_LOG").is_some() {
            live.print_verifier_cost();
        }
        Ok(live)
    }

    /// Instructions that the verifier walked, by program, on standard error.
    fn print_verifier_cost(&self) {
        for name in &self.attached {
            let program = self.ebpf.program(name).and_then(|program| program.info().ok());
            let walked = program.and_then(|info| info.verified_instruction_count());
            eprintln!("{name}: {} instructions verified", walked.unwrap_or(0));
        }
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

    fn load_programs(&mut self, host: &Host, btf: &Btf) -> Result<(), Failure> {
        for Hook { name, tracepoint, args, features } in BTF_PROGRAMS {
            let found = host.btf.as_ref().ok().and_then(|btf| btf.tracepoint_args(tracepoint));
            let fits = found.is_some() && (args.is_none() || args == found);
            let idle = name == ALLOCATED && self.features & feature::PAGE_TABLES != 0;
            if idle || !fits || !features.iter().any(|set| self.features & set == *set) {
                continue;
            }
            let program: &mut BtfTracePoint = self.program(name)?;
            program
                .load(tracepoint, btf)
                .map_err(|e| loading(host, &format!("loading {name}"), &e))?;
            self.attached.push(name);
        }
        if self.features & feature::COW_LATENCY != 0 {
            let program: &mut PerfEvent = self.program(MINOR_FAULT)?;
            program.load().map_err(|e| loading(host, &format!("loading {MINOR_FAULT}"), &e))?;
        }
        for (name, _) in self.syscall_programs() {
            let program: &mut TracePoint = self.program(name)?;
            program.load().map_err(|e| loading(host, &format!("loading {name}"), &e))?;
            self.attached.push(name);
        }
        Ok(())
    }

    fn program<'a, P>(&'a mut self, name: &str) -> Result<&'a mut P, Failure>
    where
        &'a mut P: TryFrom<&'a mut Program>,
    {
        self.ebpf.program_mut(name).and_then(|program| program.try_into().ok()).ok_or_else(|| {
            Failure::new(
                Why::Failed,
                format!("the eBPF object has no program {name}; rebuild it: cargo xtask ebpf"),
            )
        })
    }

    /// Programs of syscall tracepoints, each with the tracepoints it serves; returns come
    /// first, so that no entry is seen whose return is not.
    fn syscall_programs(&self) -> Vec<(&'static str, Vec<String>)> {
        if self.features & feature::LATENCY == 0 {
            return Vec::new();
        }
        let points = |prefix: &str, calls: &[&str]| {
            calls.iter().map(|call| format!("{prefix}_{call}")).collect::<Vec<_>>()
        };
        let mut programs = Vec::new();
        if self.features & feature::SPAWN != 0 {
            programs.push(("call_exit", points("sys_exit", &CREATING)));
            programs.push(("call_enter", points("sys_enter", &CREATING)));
        }
        if self.features & feature::EXEC != 0 {
            programs.push(("exec_exit", points("sys_exit", &EXECS)));
            programs.push(("exec_enter", points("sys_enter", &EXECS)));
        }
        programs
    }

    /// Marks a task as followed, before or while tracing.
    ///
    /// # Errors
    /// When the map is full.
    pub fn follow(&mut self, tid: u32, start: u64) -> Result<(), Failure> {
        let failed = |e: aya::maps::MapError| {
            Failure::new(Why::Failed, format!("cannot follow task {tid}: {e}; trace fewer"))
        };
        let Some(map) = self.ebpf.map_mut("TASKS") else { return Ok(()) };
        let mut tasks = HashMap::<_, u32, Remembered>::try_from(map).map_err(failed)?;
        let state = TaskState {
            start,
            mechanism: NO_MECHANISM,
            flags: task::FOLLOWED,
            ..TaskState::default()
        };
        // BPF_NOEXIST: what the programs have noted meanwhile is better.
        match tasks.insert(tid, Remembered(state), 1) {
            Err(aya::maps::MapError::SyscallError(e))
                if e.io_error.kind() == std::io::ErrorKind::AlreadyExists =>
            {
                Ok(())
            }
            other => other.map_err(failed),
        }
    }

    /// Switches the programs on.
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub fn attach(&mut self, host: &Host) -> Result<(), Failure> {
        let programs = self.syscall_programs();
        for name in self.attached.clone() {
            if programs.iter().any(|(syscall, _)| *syscall == name) {
                continue;
            }
            let program: &mut BtfTracePoint = self.program(name)?;
            let link =
                program.attach().map_err(|e| loading(host, &format!("attaching {name}"), &e))?;
            self.links.push((name, link));
        }
        if self.features & feature::COW_LATENCY != 0 {
            self.attach_minor_faults(host)?;
        }
        let Ok(tracefs) = &host.tracefs else { return Ok(()) };
        for (name, points) in programs {
            for point in points {
                // Some architectures lack some of the calls.
                let Some(id) = tracefs.id("syscalls", &point) else { continue };
                let result = tracefs.field_offset("syscalls", &point, "ret");
                if result.is_some_and(|at| at != RESULT_OFFSET) {
                    return Err(Failure::new(
                        Why::Unsupported,
                        format!(
                            "syscalls:{point} has its result elsewhere than the programs look; \
                             leave latency out of --measure"
                        ),
                    ));
                }
                let program: &mut TracePoint = self.program(name)?;
                let fd = program.fd().map_err(|e| loading(host, name, &e))?;
                let event = sys::attach_tracepoint(id, fd.as_fd())
                    .map_err(|e| loading(host, &format!("attaching to syscalls:{point}"), &e))?;
                self.events.push(event);
            }
        }
        Ok(())
    }

    /// The ring, once.
    pub fn take_ring(&mut self) -> Option<RingBuf<MapData>> {
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
        // its own reading of a user stack makes.
        let own = |name: &&&str| !name.starts_with("page_fault_");
        let mut missed = BTreeMap::new();
        for name in self.attached.iter().filter(own) {
            let info = self
                .ebpf
                .program(name)
                .and_then(|program| program.fd().ok())
                .and_then(|fd| sys::program_info(fd.as_fd()).ok());
            if let Some(info) = info
                && info.recursion_misses > 0
            {
                missed.insert((*name).to_string(), info.recursion_misses);
            }
        }
        missed
    }

    /// Fallbacks that loading had to take.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Names of the programs in use.
    #[must_use]
    pub fn programs(&self) -> &[&'static str] {
        &self.attached
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

    /// Switches the programs off; what they have put into the ring stays there.
    ///
    /// Nothing begins any more at once; calls that are under way may still return while the
    /// syscall tracepoints are being detached, a tenth of a second or so.
    pub fn detach(&mut self) {
        // What opened can be closed; and if not, detaching ends it a little later.
        let _ = self.set_gate(false);
        // Spawns first: they are attached last.
        for (name, link) in std::mem::take(&mut self.links).into_iter().rev() {
            if let Ok(program) = self.program::<BtfTracePoint>(name) {
                // It can only fail for a link that is gone, which is what is wanted.
                let _ = program.detach(link);
            }
        }
        // Closing one waits until no CPU can be in it any more; all wait at the same time.
        std::thread::scope(|scope| {
            for event in self.events.drain(..) {
                scope.spawn(move || drop(event));
            }
        });
    }
}

/// For aya, a value of the map `TASKS`.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Remembered(TaskState);
// SAFETY: `TaskState` is `Plain`: integers without padding.
unsafe impl aya::Pod for Remembered {}
