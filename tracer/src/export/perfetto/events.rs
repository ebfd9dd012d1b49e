//! What each record draws.

use super::{
    Perfetto, close, event,
    proto::{CounterDescriptor, Notes, TrackDescriptor, Type},
    tracks::{Call, Id},
};
use crate::{
    export::{Trouble, number},
    recording::entry::{Exec, Exit, Ledger, Spawn, SpawnUpdate},
    text::visible,
};

impl Perfetto {
    /// A call on a thread's track: a slice, or where there is no room an instant.
    pub(super) fn call(
        &mut self,
        call: &Call,
        latency: Option<u64>,
        notes: Notes,
    ) -> Result<(), Trouble> {
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

    /// A call, and the life that it begins.
    pub(super) fn spawn(&mut self, time: i64, r: &Spawn<'_>) -> Result<(), Trouble> {
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
            // Records out of order, as no sound recording has them: the arrow ends all the same.
            let mut late = event(Type::Instant, process.track, "spawned", notes);
            late.terminating_flow_ids = flow.into_iter().collect();
            return if flow.is_some() { self.event(time, late) } else { Ok(()) };
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

    /// A call that has returned after all.
    pub(super) fn update(&mut self, r: &SpawnUpdate<'_>) -> Result<(), Trouble> {
        let key = (self.origin, r.child.tid, r.child.start_time);
        let Some(call) = self.calls.take(&key) else { return Ok(()) };
        let notes = Notes::default()
            .number("blocked_ns", r.blocked_ns)
            .number("start_delay_ns", r.start_delay_ns);
        self.call(&call, r.latency_ns, notes)
    }

    /// A call, and the program that it begins.
    pub(super) fn exec(&mut self, time: i64, r: &Exec<'_>) -> Result<(), Trouble> {
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

    /// The end of a thread, or of a process.
    pub(super) fn exit(&mut self, time: i64, r: &Exit<'_>) -> Result<(), Trouble> {
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
            self.threads.take(&(id, r.tid));
            return self.event(time, event(Type::Instant, track, "thread ends", notes));
        }
        let known = self.processes.get(id).is_some_and(|process| process.runs);
        self.name(id, &r.comm, r.argv.as_deref().unwrap_or_default())?;
        if !known {
            let since = time.saturating_sub_unsigned(r.lifetime_ns.unwrap_or(0));
            self.older(id, &r.comm, since)?;
            self.program(id, &r.comm, since.max(self.begin), Notes::default())?;
        }
        self.threads.take(&(id, r.tid));
        let Some(process) = self.processes.take(&id) else { return Ok(()) };
        let time = time.max(process.last);
        self.event(time, event(Type::Instant, process.track, &name, notes))?;
        // The program's, and the life's.
        self.event(time, close(process.track))?;
        self.event(time, close(process.track))
    }

    /// Copies as they went on.
    pub(super) fn ledger(&mut self, time: i64, r: &Ledger<'_>) -> Result<(), Trouble> {
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
            let mut copied: u64 = 0;
            self.count(counter, begin, 0)?;
            for point in &r.curve {
                let more = if role == "parent" { point.parent_copied } else { point.child_copied };
                copied = copied.saturating_add(more);
                if more > 0 {
                    let at = begin.saturating_add_unsigned(point.until_ns).min(time);
                    self.count(counter, at, copied)?;
                }
            }
        }
        Ok(())
    }
}
