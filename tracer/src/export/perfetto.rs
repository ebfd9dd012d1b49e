//! A trace that ui.perfetto.dev opens: processes and their threads, written as it is read.
//!
//! A process's track has the slice of its life, and in it one for each program that it ran; the
//! tracks of its threads have its calls. A spawn is recorded when the child has been made, after
//! the copy: its call is drawn from `time - copy_ns`, as long as it took. An arrow leads from it to
//! the child. Copy-on-write is a counter of the parent, from 0 at each fork.

use std::{io::Write as _, path::Path};

use prost::Message as _;

mod events;
mod proto;
mod tracks;

use self::{
    proto::{
        Clock, ClockSnapshot, Notes, ProcessDescriptor, REALTIME, STATE_CLEARED, ThreadDescriptor,
        Trace, TracePacket, TrackDescriptor, TrackEvent, Type,
    },
    tracks::{Call, Id, Process, Thread},
};
use super::{Exporter, Section, Trouble, number, output::Output, recent::Recent};
use crate::{
    failure::Failure,
    recording::{Entry, entry::Text},
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
            processes: Recent::new(MOST, |process| process.alive),
            threads: Recent::new(MOST, |_| true),
            declared: Recent::new(MOST, |()| false),
            calls: Recent::new(MOST / 4, |_| true),
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
            Entry::Header(_) | Entry::Summary(_) | Entry::Profile(_) => Ok(()),
        }
    }

    fn end(&mut self, _section: &Section) -> Result<(), Trouble> {
        let mut open: Vec<_> = self.calls.drain().map(|(_, call)| call).collect();
        open.sort_by_key(|call| (call.begin, call.flow));
        for call in open {
            let notes = Notes::default().so("return_not_recorded", true);
            self.call(&call, None, notes)?;
        }
        // Those that neither ran a program nor ended have the name of what made them.
        let mut unnamed = self.processes.unnamed();
        unnamed.sort_by_key(|(id, _)| (id.start_time, id.pid));
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
                "{} processes, threads and calls not heard of for long were forgotten: what they \
                 did afterwards begins anew",
                crate::text::count(forgotten)
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
