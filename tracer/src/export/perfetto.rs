//! A trace that ui.perfetto.dev opens: processes and their threads, written as it is read.
//!
//! A process's track has the slice of its life, and in it one for each program that it ran; the
//! tracks of its threads have its calls. A spawn is recorded when the child has been made, after
//! the copy: its call is drawn from `time - copy_ns`, as long as it took. An arrow leads from it to
//! the child. Copy-on-write is a counter of the parent, from 0 at each fork.

use std::{io::Write as _, path::Path};

use prost::Message as _;

mod proto;
mod tracks;

use self::{
    proto::{
        Clock, ClockSnapshot, CounterDescriptor, Notes, ProcessDescriptor, REALTIME, STATE_CLEARED,
        ThreadDescriptor, Trace, TracePacket, TrackDescriptor, TrackEvent, Type,
    },
    tracks::{Call, Id, Process, Thread},
};
use super::{Exporter, Section, Trouble, number, output::Output, recent::Recent};
use crate::{
    failure::Failure,
    recording::{
        Entry,
        entry::{Exec, Exit, Ledger, Spawn, SpawnUpdate, Text},
    },
    text::{plural, visible},
    trace::note,
};

/// Processes, threads and counters remembered, at least.
const MOST: usize = 1 << 16;
/// The one sequence of packets.
const SEQUENCE: u32 = 1;

/// A trace being written.
pub struct Perfetto {
    out: Output,
    buffer: Vec<u8>,
    begun: bool,
    /// The first host: the only one whose pids are pids to Perfetto.
    host: Option<String>,
    /// Where the section was recorded, as a number; and the track that its processes belong to.
    origin: u64,
    group: Option<u64>,
    begin: i64,
    processes: Recent<Id, Process>,
    threads: Recent<(Id, u32), Thread>,
    declared: Recent<u64, ()>,
    calls: Recent<(u64, u32, u64), Call>,
}

impl Perfetto {
    /// Makes the file.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(out: &Path) -> Result<Self, Failure> {
        Ok(Self {
            out: Output::create(out)?,
            buffer: Vec::new(),
            begun: false,
            host: None,
            origin: 0,
            group: None,
            begin: 0,
            processes: Recent::new(MOST),
            threads: Recent::new(MOST),
            declared: Recent::new(MOST),
            calls: Recent::new(MOST / 4),
        })
    }

    fn packet(&mut self, packet: TracePacket) -> Result<(), Trouble> {
        let packet = TracePacket { trusted_packet_sequence_id: Some(SEQUENCE), ..packet };
        self.buffer.clear();
        // Messages one after the other are one message with all of their packets.
        Trace { packet: vec![packet] }
            .encode(&mut self.buffer)
            .map_err(|e| Trouble::Record(e.to_string()))?;
        Ok(self.out.write_all(&self.buffer)?)
    }

    /// The clock, before anything that has a time.
    fn clock(&mut self, now: i64) -> Result<(), Trouble> {
        if std::mem::replace(&mut self.begun, true) {
            return Ok(());
        }
        let clock = Clock { clock_id: Some(REALTIME), timestamp: Some(unsigned(now)) };
        self.packet(TracePacket {
            clock_snapshot: Some(ClockSnapshot {
                clocks: vec![clock],
                primary_trace_clock: Some(REALTIME),
            }),
            timestamp: Some(unsigned(now)),
            timestamp_clock_id: Some(REALTIME),
            sequence_flags: Some(STATE_CLEARED),
            ..Default::default()
        })
    }

    fn event(&mut self, time: i64, event: TrackEvent) -> Result<(), Trouble> {
        self.packet(TracePacket {
            timestamp: Some(unsigned(time)),
            timestamp_clock_id: Some(REALTIME),
            track_event: Some(event),
            ..Default::default()
        })
    }

    fn descriptor(&mut self, descriptor: TrackDescriptor) -> Result<(), Trouble> {
        self.packet(TracePacket { track_descriptor: Some(descriptor), ..Default::default() })
    }

    /// The track of a process, and what is known of it; declared when it is new.
    fn process(&mut self, id: Id, name: &str) -> Result<&mut Process, Trouble> {
        if self.processes.get(id).is_none() {
            let (track, name) = (number(("process", id)), visible(name));
            let last = self.begin;
            let process = Process { track, name, last, ..Default::default() };
            self.processes.put(id, process);
            // Its name is the first that it is given: that waits until it has its own.
            self.describe(id, track, None, &[])?;
        }
        Ok(self.processes.get(id).expect("it was put there"))
    }

    fn describe(
        &mut self,
        id: Id,
        track: u64,
        name: Option<&str>,
        argv: &[Text<'_>],
    ) -> Result<(), Trouble> {
        let mut descriptor = TrackDescriptor { uuid: Some(track), ..Default::default() };
        if self.group.is_none() {
            descriptor.process = Some(ProcessDescriptor {
                pid: i32::try_from(id.pid).ok(),
                cmdline: argv.iter().map(|word| visible(word)).collect(),
                process_name: name.map(Into::into),
            });
        } else {
            // Pids of other hosts would be taken for those of the first.
            descriptor.parent_uuid = self.group;
            descriptor.name = Some(format!("{}[{}]", name.unwrap_or("process"), id.pid));
        }
        self.descriptor(descriptor)
    }

    /// Gives a process the name that it is listed by.
    fn name(&mut self, id: Id, name: &str, argv: &[Text<'_>]) -> Result<(), Trouble> {
        let process = self.process(id, name)?;
        let track = process.track;
        if std::mem::replace(&mut process.named, true) {
            return Ok(());
        }
        self.describe(id, track, Some(&visible(name)), argv)
    }

    /// The track of a thread; declared when it is new.
    fn thread(&mut self, id: Id, tid: u32, comm: &str) -> Result<&mut Thread, Trouble> {
        if self.threads.get((id, tid)).is_none() {
            let parent = self.process(id, comm)?.track;
            let track = number(("thread", id, tid));
            let mut descriptor = TrackDescriptor {
                uuid: Some(track),
                parent_uuid: Some(parent),
                ..Default::default()
            };
            if self.group.is_none() {
                descriptor.thread = Some(ThreadDescriptor {
                    pid: i32::try_from(id.pid).ok(),
                    tid: Some(i64::from(tid)),
                    thread_name: Some(visible(comm)),
                });
            } else {
                descriptor.name = Some(format!("{} {tid}", visible(comm)));
            }
            self.descriptor(descriptor)?;
            self.threads.put((id, tid), Thread::new(track));
        }
        Ok(self.threads.get((id, tid)).expect("it was put there"))
    }

    /// A call on a thread's track: a slice, or where there is no room an instant.
    fn call(&mut self, call: &Call, latency: Option<u64>, notes: Notes) -> Result<(), Trouble> {
        let thread = self.thread(call.parent, call.tid, &call.comm)?;
        let track = thread.track;
        let took = |ns| call.begin.saturating_add_unsigned(ns);
        let placed = latency.and_then(|ns| thread.place(call.begin, took(ns), call.latest));
        let notes = notes.number("latency_ns", latency);
        let mut event = event(Type::SliceBegin, track, &call.name, notes);
        event.categories = vec!["call".into()];
        event.flow_ids = (call.flow != 0).then_some(call.flow).into_iter().collect();
        if let Some((begin, end)) = placed {
            self.event(begin, event)?;
            return self.event(end, close(track));
        }
        event.r#type = Some(Type::Instant as i32);
        self.event(call.begin.min(call.latest), event)
    }

    fn spawn(&mut self, time: i64, r: &Spawn<'_>) -> Result<(), Trouble> {
        let parent = self.id(r.parent.pid, r.parent.start_time);
        let child = self.id(r.child.pid, r.child.start_time);
        let flow = number(("flow", child, r.child.tid, time));
        // The call began before the child was there, however short the time.
        let before = i64::try_from(r.copy_ns.unwrap_or(0)).unwrap_or(0).max(1);
        let call = Call {
            parent,
            tid: r.parent.tid,
            comm: r.parent.comm.to_string(),
            name: visible(&r.mechanism),
            begin: time.saturating_sub(before),
            latest: time - 1,
            flow,
        };
        self.thread(parent, call.tid, &call.comm)?;
        if r.latency_ns.is_some() {
            let notes = Notes::default()
                .number("child_pid", u64::from(r.child.pid))
                .number("child_tid", u64::from(r.child.tid))
                .text("syscall", r.syscall.as_deref())
                .texts("clone_flags", r.clone_flags.iter().map(|flag| &**flag))
                .number("copy_ns", r.copy_ns)
                .number("blocked_ns", r.blocked_ns)
                .number("start_delay_ns", r.start_delay_ns)
                .number("parent_rss_bytes", r.parent_rss_bytes)
                .text("cgroup", r.cgroup.as_deref());
            self.call(&call, r.latency_ns, notes)?;
        } else {
            self.calls.put((self.origin, r.child.tid, r.child.start_time), call);
        }
        if r.child.tid != r.child.pid {
            let track = self.thread(child, r.child.tid, &r.parent.comm)?.track;
            let mut begins = event(Type::Instant, track, "thread begins", Notes::default());
            begins.terminating_flow_ids = vec![flow];
            return self.event(time, begins);
        }
        let notes = Notes::default()
            .text("mechanism", Some(&r.mechanism))
            .number("start_time", r.child.start_time)
            .number("uid", r.uid.map(u64::from));
        self.birth(child, &r.parent.comm, time, notes, Some(flow))?;
        self.program(child, &r.parent.comm, time, Notes::default())
    }

    /// Begins the slice of a life.
    fn birth(
        &mut self,
        id: Id,
        name: &str,
        time: i64,
        notes: Notes,
        flow: Option<u64>,
    ) -> Result<(), Trouble> {
        let process = self.process(id, name)?;
        if process.alive {
            return Ok(());
        }
        (process.alive, process.runs, process.last) = (true, false, time);
        let mut event =
            event(Type::SliceBegin, process.track, &format!("process {}", id.pid), notes);
        event.categories = vec!["process".into()];
        event.terminating_flow_ids = flow.into_iter().collect();
        self.event(time, event)
    }

    /// Begins the slice of a program, which ends that of the one before.
    fn program(&mut self, id: Id, name: &str, time: i64, notes: Notes) -> Result<(), Trouble> {
        let process = self.process(id, name)?;
        let (track, time) = (process.track, time.max(process.last));
        process.last = time;
        process.name = visible(name);
        let before = std::mem::replace(&mut process.runs, true);
        if before {
            self.event(time, close(track))?;
        }
        let mut event = event(Type::SliceBegin, track, &visible(name), notes);
        event.categories = vec!["program".into()];
        self.event(time, event)
    }

    fn update(&mut self, r: &SpawnUpdate<'_>) -> Result<(), Trouble> {
        let key = (self.origin, r.child.tid, r.child.start_time);
        let Some(call) = self.calls.take(&key) else { return Ok(()) };
        let notes = Notes::default()
            .number("blocked_ns", r.blocked_ns)
            .number("start_delay_ns", r.start_delay_ns);
        self.call(&call, r.latency_ns, notes)
    }

    fn exec(&mut self, time: i64, r: &Exec<'_>) -> Result<(), Trouble> {
        let id = self.id(r.pid, r.start_time);
        let argv = r.argv.as_deref().unwrap_or_default();
        // A script's own name, a login shell's dash: what the program calls itself.
        let first = argv.first().map_or("", |word| word.rsplit('/').next().unwrap_or(word));
        let name = if first.is_empty() { &*r.comm } else { first };
        let call = Call {
            parent: id,
            tid: r.old_tid.unwrap_or(r.tid),
            comm: r.comm.to_string(),
            name: r.errno.as_ref().map_or("exec".into(), |e| format!("exec: {}", visible(e))),
            begin: time.saturating_sub_unsigned(r.latency_ns.unwrap_or(0)),
            latest: time,
            flow: 0,
        };
        let notes = Notes::default()
            .text("filename", r.filename.as_deref())
            .texts("argv", argv.iter().map(|word| &**word));
        self.call(&call, r.latency_ns, notes)?;
        if r.errno.is_some() {
            return Ok(());
        }
        self.name(id, name, argv)?;
        self.older(id, name, self.begin)?;
        let notes = Notes::default()
            .text("filename", r.filename.as_deref())
            .texts("argv", argv.iter().map(|word| &**word))
            .so("argv_truncated", r.argv_truncated)
            .number("since_spawn_ns", r.since_spawn_ns)
            .text("cgroup", r.cgroup.as_deref());
        self.program(id, name, time, notes)
    }

    /// A process whose spawn was not recorded lives from then on at the latest.
    fn older(&mut self, id: Id, name: &str, since: i64) -> Result<(), Trouble> {
        let since = since.max(self.begin);
        let notes = Notes::default().so("spawn_not_recorded", true);
        self.birth(id, name, since, notes, None)
    }

    fn exit(&mut self, time: i64, r: &Exit<'_>) -> Result<(), Trouble> {
        let id = self.id(r.pid, r.start_time);
        let name = match (&r.signal, r.exit_code) {
            (Some(signal), _) => format!("killed by {}", visible(signal)),
            (None, Some(code)) => format!("exit {code}"),
            (None, None) => "exit".into(),
        };
        let notes = Notes::default()
            .number("exit_code", r.exit_code.map(u64::from))
            .text("signal", r.signal.as_deref())
            .so("core_dumped", r.core_dumped)
            .number("lifetime_ns", r.lifetime_ns);
        if !r.group_dead {
            let track = self.thread(id, r.tid, &r.comm)?.track;
            return self.event(time, event(Type::Instant, track, "thread ends", notes));
        }
        let known = self.processes.get(id).is_some_and(|process| process.runs);
        self.name(id, &r.comm, r.argv.as_deref().unwrap_or_default())?;
        if !known {
            let since = time.saturating_sub_unsigned(r.lifetime_ns.unwrap_or(0));
            self.older(id, &r.comm, since)?;
            self.program(id, &r.comm, since.max(self.begin), Notes::default())?;
        }
        let Some(process) = self.processes.take(&id) else { return Ok(()) };
        let time = time.max(process.last);
        self.event(time, event(Type::Instant, process.track, &name, notes))?;
        // The program's, and the life's.
        self.event(time, close(process.track))?;
        self.event(time, close(process.track))
    }

    fn ledger(&mut self, time: i64, r: &Ledger<'_>) -> Result<(), Trouble> {
        let id = self.id(r.parent.pid, r.parent.start_time);
        let begin = time.saturating_sub_unsigned(r.duration_ns);
        for (role, whose) in [("parent", r.parent.copied), ("child", r.child.copied)] {
            if whose == 0 {
                continue;
            }
            // Curves that overlap have a counter each.
            let apart = r.overlapping.then_some((r.child.pid, r.child.start_time));
            let counter = number(("counter", id, role, apart));
            if self.declared.get(counter).is_none() {
                let parent = self.process(id, &r.parent.comm)?.track;
                let of = apart.map_or_else(String::new, |(pid, _)| format!(", fork of {pid}"));
                self.descriptor(TrackDescriptor {
                    uuid: Some(counter),
                    parent_uuid: Some(parent),
                    name: Some(format!("pages copied by {role}{of}")),
                    counter: Some(CounterDescriptor { unit_name: Some("pages".into()) }),
                    ..Default::default()
                })?;
                self.declared.put(counter, ());
            }
            let mut copied = 0;
            self.count(counter, begin, 0)?;
            for point in &r.curve {
                let more = if role == "parent" { point.parent_copied } else { point.child_copied };
                copied += more;
                if more > 0 {
                    let at = begin.saturating_add_unsigned(point.until_ns).min(time);
                    self.count(counter, at, copied)?;
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, track: u64, time: i64, value: u64) -> Result<(), Trouble> {
        let event = TrackEvent {
            r#type: Some(Type::Counter as i32),
            track_uuid: Some(track),
            counter_value: i64::try_from(value).ok(),
            ..Default::default()
        };
        self.event(time, event)
    }

    /// Something that happened on a thread.
    fn instant(
        &mut self,
        time: i64,
        (pid, start_time, tid): (u32, u64, u32),
        comm: &str,
        name: &str,
        notes: Notes,
    ) -> Result<(), Trouble> {
        let track = self.thread(self.id(pid, start_time), tid, comm)?.track;
        self.event(time, event(Type::Instant, track, name, notes))
    }

    fn id(&self, pid: u32, start_time: u64) -> Id {
        Id { origin: self.origin, pid, start_time }
    }
}

impl Exporter for Perfetto {
    fn begin(&mut self, section: &Section) -> Result<(), Trouble> {
        let host = section.host();
        let boot = section.header.as_ref().map_or("", |header| &header.boot_id);
        self.origin = number((host, boot));
        self.begin = section.begin.unwrap_or(0);
        self.group = None;
        if let Some(begin) = section.begin {
            self.clock(begin)?;
        }
        if self.host.get_or_insert_with(|| host.to_string()) != host {
            let uuid = number(("host", host));
            self.group = Some(uuid);
            if self.declared.get(uuid).is_none() {
                let name = Some(visible(host));
                self.descriptor(TrackDescriptor { uuid: Some(uuid), name, ..Default::default() })?;
                self.declared.put(uuid, ());
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        _section: &Section,
        time: Option<i64>,
        entry: &Entry<'_>,
    ) -> Result<(), Trouble> {
        let Some(time) = time else { return Ok(()) };
        if self.begin == 0 {
            self.begin = time;
        }
        self.clock(self.begin)?;
        match entry {
            Entry::Spawn(r) => self.spawn(time, r),
            Entry::SpawnUpdate(r) => self.update(r),
            Entry::SpawnFailure(r) => {
                let who = (r.parent.pid, r.parent.start_time, r.parent.tid);
                let name = format!("spawn: {}", visible(&r.errno));
                let notes = Notes::default().text("syscall", r.syscall.as_deref());
                self.instant(time, who, &r.parent.comm, &name, notes)
            }
            Entry::Exec(r) => self.exec(time, r),
            Entry::Exit(r) => self.exit(time, r),
            Entry::Cow(r) => self.ledger(time, r),
            Entry::CowFault(r) => {
                let name = format!("page {}", visible(&r.outcome));
                let notes = Notes::default()
                    .text("role", Some(&r.role))
                    .text("address", Some(&r.address))
                    .number("latency_ns", r.latency_ns);
                self.instant(time, (r.pid, r.start_time, r.tid), "", &name, notes)
            }
            Entry::Lost(r) => {
                let uuid = number("lost");
                if self.declared.get(uuid).is_none() {
                    let name = Some("lost records".to_string());
                    let uuid = Some(uuid);
                    self.descriptor(TrackDescriptor { uuid, name, ..Default::default() })?;
                    self.declared.put(number("lost"), ());
                }
                let name = format!("{} lost ({})", plural(r.count, "record"), visible(&r.stage));
                self.event(time, event(Type::Instant, uuid, &name, Notes::default()))
            }
            Entry::Header(_) | Entry::Summary(_) | Entry::Profile => Ok(()),
        }
    }

    fn end(&mut self, _section: &Section) -> Result<(), Trouble> {
        let open: Vec<_> = self.calls.drain().map(|(_, call)| call).collect();
        for call in open {
            let notes = Notes::default().so("return_not_recorded", true);
            self.call(&call, None, notes)?;
        }
        // Those that neither ran a program nor ended have the name of what made them.
        let unnamed: Vec<_> = self.processes.unnamed();
        for (id, name) in unnamed {
            self.name(id, &name, &[])?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), Trouble> {
        self.clock(0)?;
        let forgotten =
            self.processes.forgotten() + self.threads.forgotten() + self.calls.forgotten();
        if forgotten > 0 {
            note(&format!(
                "{} not heard of for long were forgotten: what they did afterwards begins anew",
                plural(forgotten, "process or thread").replace("threads", "thread")
            ));
        }
        Ok(self.out.finish()?)
    }
}

impl Recent<Id, Process> {
    fn unnamed(&self) -> Vec<(Id, String)> {
        let unnamed = self.iter().filter(|(_, process)| !process.named && !process.name.is_empty());
        unnamed.map(|(id, process)| (*id, process.name.clone())).collect()
    }
}

fn event(kind: Type, track: u64, name: &str, notes: Notes) -> TrackEvent {
    TrackEvent {
        r#type: Some(kind as i32),
        track_uuid: Some(track),
        name: Some(name.into()),
        debug_annotations: notes.0,
        ..Default::default()
    }
}

/// Ends the slice of a track that began last.
fn close(track: u64) -> TrackEvent {
    TrackEvent {
        r#type: Some(Type::SliceEnd as i32),
        track_uuid: Some(track),
        ..Default::default()
    }
}

fn unsigned(time: i64) -> u64 {
    u64::try_from(time).unwrap_or(0)
}
