//! What copy-on-write needs of loading: where memory is, slots for ledgers, the end of faults,
//! and what the programs have gathered by the end.

use std::os::fd::AsFd as _;

use aya::{
    maps::{Array, HashMap, Queue, StackTraceMap},
    programs::{PerfEvent, ProgramError, RawTracePoint},
};
use forkscope_common::{
    config::{Offsets, feature},
    cow::{Copies, Layout, Paid, Place, Proof, Shared},
};

use super::{
    Live, Trouble,
    attach::{SURVEY, WITNESS},
    loading,
};
use crate::{
    failure::{Failure, Why},
    kernel::{
        backend::{At, Use},
        btf::Btf,
        config::owners_marked,
        host::Host,
        prove::{self, Ground},
        sys,
        witness::{self, Truth, Wrong},
    },
};

/// The program of the perf event.
pub(super) const MINOR_FAULT: &str = "minor_fault";

/// Whether what the programs told is what was made. Others are as many as the kernel makes of
/// pages that were protected for a moment.
fn proves(told: &Proof) -> bool {
    let Proof { copied, reused, .. } = prove::TRUTH;
    (told.copied, told.reused) == (copied, reused)
}

/// Loads what was not loaded with the others, or could not be.
fn loaded(program: &mut RawTracePoint) -> Result<(), ProgramError> {
    if program.fd().is_ok() { Ok(()) } else { program.load() }
}

impl Live {
    /// Finds out where the kernel keeps page tables and `struct page`s, by a program that is
    /// run once, and tells the other programs.
    pub(super) fn survey(&mut self, host: &Host) -> Result<(), Trouble> {
        if self.features & feature::PAGE_TABLES == 0 {
            return Ok(());
        }
        self.find_layout(host).map_err(Trouble::PageTables)
    }

    fn find_layout(&mut self, host: &Host) -> Result<(), String> {
        let program: &mut RawTracePoint = self.program(SURVEY).map_err(|e| e.message)?;
        loaded(program).map_err(|e| loading(host, "loading survey", &e).message)?;
        let fd = program.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(|e| e.to_string())?;
        let map = self.ebpf.map_mut("SHARED").ok_or("no map SHARED")?;
        let mut map = Array::<_, Found>::try_from(map).map_err(|e| e.to_string())?;
        let mut gib = 0;
        while gib <= u64::from(host.physical_gib) {
            let layout = Layout { direct_map: gib, ..Layout::default() };
            map.set(0, Found(Shared { layout, ..Shared::default() }), 0)
                .map_err(|e| e.to_string())?;
            sys::run_once(fd.as_fd(), 0).map_err(|e| e.to_string())?;
            let Found(Shared { layout, .. }) = map.get(&0, 0).map_err(|e| e.to_string())?;
            if layout.levels != 0 {
                return Ok(());
            }
            gib = layout.direct_map.max(gib + 1);
        }
        Err(format!("not below {} GiB", host.physical_gib))
    }

    /// Puts every slot of a ledger among the free ones.
    pub(super) fn fill_slots(&mut self, ledgers: u32, recent: u32) -> Result<(), Failure> {
        for (name, slots) in [("RECENT", 0..recent), ("FREE", recent..ledgers)] {
            let failed = |why: String| {
                Failure::new(Why::Failed, format!("the map {name}: {why}; report it"))
            };
            let map = self.ebpf.map_mut(name).ok_or_else(|| failed("not there".into()))?;
            let mut free = Queue::<_, u32>::try_from(map).map_err(|e| failed(e.to_string()))?;
            for slot in slots {
                free.push(slot, 0).map_err(|e| failed(e.to_string()))?;
            }
        }
        Ok(())
    }

    /// Has the programs read this process, and compares.
    pub(super) fn check_fields(&mut self, host: &Host) -> Result<(), Trouble> {
        let program: &mut RawTracePoint = self.program(WITNESS)?;
        let loaded = loaded(program);
        let one = Use { program: "witness".into(), at: At::Event("sys_enter") };
        loaded.map_err(|e| Trouble::Load(one, loading(host, "loading witness", &e)))?;
        let found = self.witness(host).map_err(|why| {
            Failure::new(Why::Unsupported, format!("the self-check cannot be made: {why}"))
        })?;
        if found.is_empty() { Ok(()) } else { Err(Trouble::Fields(found)) }
    }

    fn witness(&mut self, host: &Host) -> Result<Vec<Wrong>, String> {
        let program: &mut RawTracePoint = self.program(WITNESS).map_err(|e| e.message)?;
        let fd = program.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(|e| e.to_string())?;
        // Not by a thread: a COMMAND is made before the first one.
        let own_pids = host.initial_pid_namespace;
        let before = Truth::now(own_pids);
        sys::run_once(fd.as_fd(), 0).map_err(|e| e.to_string())?;
        let (Some(before), Some(after)) = (before, Truth::now(own_pids)) else {
            return Err("/proc does not tell of this process; mount it".into());
        };
        let map = self.ebpf.map("SHARED").ok_or("no map SHARED")?;
        let map = Array::<_, Found>::try_from(map).map_err(|e| e.to_string())?;
        let Found(shared) = map.get(&0, 0).map_err(|e| e.to_string())?;
        let offsets = host.btf.as_ref().map_or(Offsets::NONE, Btf::offsets);
        Ok(witness::wrong(&shared.witness, &before, &after, &offsets))
    }

    /// Has the programs of copy-on-write faults prove themselves on faults of our own.
    pub(super) fn prove(&mut self, host: &Host) -> Result<(), Trouble> {
        /// Pages may be moved or swapped meanwhile.
        const TRIES: u32 = 3;
        if self.features & feature::COW_BY_FUNCTION == 0 {
            return Ok(());
        }
        let mut told = String::new();
        for _ in 0..TRIES {
            match self.prove_once(owners_marked(host)) {
                Ok(proof) if proves(&proof) => return Ok(()),
                Ok(Proof { copied, reused, other, .. }) => {
                    let Proof { copied: made, reused: kept, .. } = prove::TRUTH;
                    told = format!(
                        "self-check: of {made} copies and {kept} reuses it told {copied} and \
                         {reused}, and {other} others"
                    );
                }
                Err(why) => told = format!("self-check: {why}"),
            }
        }
        let is_it = |one: &&Use| matches!(one.at, At::Function(_, "do_wp_page", _));
        let one = self.choice.uses.iter().find(is_it).cloned();
        let failure = Failure::new(Why::Unsupported, told);
        Err(match one {
            Some(one) => Trouble::Refused(one, failure),
            None => Trouble::Failure(failure),
        })
    }

    fn prove_once(&mut self, owners_marked: bool) -> Result<Proof, String> {
        let ground = Ground::new().map_err(|e| e.to_string())?;
        let map = self.ebpf.map_mut("SHARED").ok_or("no map SHARED")?;
        let mut map = Array::<_, Found>::try_from(map).map_err(|e| e.to_string())?;
        let begin = Shared { proof: ground.proof(), ..Shared::default() };
        map.set(0, Found(begin), 0).map_err(|e| e.to_string())?;
        let made = ground.make(owners_marked);
        let Found(mut shared) = map.get(&0, 0).map_err(|e| e.to_string())?;
        let proof = std::mem::take(&mut shared.proof);
        map.set(0, Found(shared), 0).map_err(|e| e.to_string())?;
        made.map_err(|e| e.to_string())?;
        Ok(proof)
    }

    /// The end of faults, on every CPU. Where it cannot be had, faults are not timed, and a
    /// note says so.
    pub(super) fn attach_minor_faults(&mut self, host: &Host) -> Result<(), Failure> {
        let period = self.period;
        let program: &mut PerfEvent = self.program(MINOR_FAULT)?;
        let fd = program.fd().map_err(|e| loading(host, MINOR_FAULT, &e))?;
        let events: Result<Vec<_>, _> = host
            .online
            .iter()
            .map(|&cpu| sys::attach_minor_faults(cpu, period, fd.as_fd()))
            .collect();
        match events {
            Ok(events) => {
                self.events.extend(events);
                self.timed_cpus.clone_from(&host.online);
            }
            Err(error) => {
                self.features &= !feature::COW_LATENCY;
                self.notes.push(format!(
                    "copy-on-write faults are not timed: perf_event_open for minor faults: {error}"
                ));
            }
        }
        Ok(())
    }

    /// Whether faults are timed, if they were to be.
    #[must_use]
    pub fn times_faults(&self) -> bool {
        self.features & (feature::COW | feature::COW_LATENCY) != feature::COW
    }

    /// Copied pages by place, once the programs are detached: a map syscall disturbs them.
    #[must_use]
    pub fn places(&self) -> Vec<(Place, Copies)> {
        let map = self.ebpf.map("PLACES").and_then(|map| HashMap::try_from(map).ok());
        let Some(map): Option<HashMap<_, PlaceKey, CopiesValue>> = map else { return Vec::new() };
        map.iter().filter_map(Result::ok).map(|(key, value)| (key.0, value.0)).collect()
    }

    /// What each user stack paid, with its addresses from the innermost outwards; likewise.
    #[must_use]
    pub fn paid(&self) -> Vec<(Paid, Vec<u64>)> {
        let map = self.ebpf.map("PAID").and_then(|map| HashMap::try_from(map).ok());
        let Some(map): Option<HashMap<_, u32, PaidValue>> = map else { return Vec::new() };
        let stacks = self.ebpf.map("STACKS").and_then(|map| StackTraceMap::try_from(map).ok());
        let Some(stacks) = stacks else { return Vec::new() };
        map.iter()
            .filter_map(Result::ok)
            .map(|(stack, paid)| {
                let frames = stacks.get(&stack, 0);
                let addresses = frames.map_or_else(
                    |_| Vec::new(),
                    |trace| trace.frames().iter().map(|frame| frame.ip).collect(),
                );
                (paid.0, addresses)
            })
            .collect()
    }
}

/// For aya, what a map holds.
macro_rules! pod {
    ($($name:ident($type:ty)),+ $(,)?) => { $(
        #[derive(Clone, Copy)]
        #[repr(transparent)]
        struct $name($type);
        // SAFETY: the type is `Plain`: integers without padding.
        unsafe impl aya::Pod for $name {}
    )+ };
}

pod!(Found(Shared), PlaceKey(Place), CopiesValue(Copies), PaidValue(Paid));
