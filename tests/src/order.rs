//! Who comes after whom, and who is who: one pass over a stream in which nothing was lost.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::records::Fields as _;

/// The life of one identity.
struct Process {
    start: u64,
    tasks: HashSet<u32>,
    dead: bool,
}

/// The check, fed with records in their order; see [`Order::record`].
#[derive(Default)]
pub struct Order {
    processes: HashMap<u32, Process>,
    /// Tasks that were made, by tid: the start time of their process.
    made: HashMap<u32, u64>,
    whole_machine: bool,
    reused: u64,
}

impl Order {
    /// For the stream of a command: all but its first process was made before our eyes.
    #[must_use]
    pub fn of_command() -> Self {
        Self::default()
    }

    /// For a system-wide stream: there were processes before.
    #[must_use]
    pub fn of_machine() -> Self {
        Self { whole_machine: true, ..Self::default() }
    }

    /// How many pids were given away again.
    #[must_use]
    pub fn reused(&self) -> u64 {
        self.reused
    }

    /// Processes that have not ended.
    #[must_use]
    pub fn left(&self) -> usize {
        self.processes.values().filter(|process| !process.dead || !process.tasks.is_empty()).count()
    }

    /// Takes the next record.
    ///
    /// A pid belongs to its owner from the spawn that made it to the exit with `group_dead`:
    /// whatever names it in between has the owner's start time, and nothing does before.
    #[track_caller]
    pub fn record(&mut self, record: &Value) {
        match record.kind() {
            "spawn" => self.spawn(record),
            "spawn_update" => {
                let child = record.at("child");
                let made = self.made.get(&id(child, "tid"));
                assert_eq!(made, Some(&child.number("start_time")), "no such spawn: {record}");
            }
            "spawn_failure" => self.owner(record.at("parent"), record),
            "exec" => self.exec(record),
            "exit" => self.exit(record),
            _ => {}
        }
    }

    /// The identity in `who` is the owner of its pid, if that has one.
    #[track_caller]
    fn owner(&mut self, who: &Value, record: &Value) {
        let (pid, start) = (id(who, "pid"), who.number("start_time"));
        match self.processes.get(&pid) {
            Some(owner) => {
                assert!(owner.dead || owner.start == start, "two owners of {pid}: {record}");
            }
            None => self.stranger(pid, start, record),
        }
    }

    /// A process that nobody made before our eyes.
    #[track_caller]
    fn stranger(&mut self, pid: u32, start: u64, record: &Value) {
        let first = self.processes.is_empty();
        assert!(self.whole_machine || first, "before its spawn: {record}");
        self.processes.insert(pid, Process { start, tasks: HashSet::from([pid]), dead: false });
    }

    #[track_caller]
    fn spawn(&mut self, record: &Value) {
        self.owner(record.at("parent"), record);
        let child = record.at("child");
        let (pid, tid, start) = (id(child, "pid"), id(child, "tid"), child.number("start_time"));
        if self.made.insert(tid, start).is_some() {
            self.reused += 1;
        }
        if tid != pid {
            match self.processes.get_mut(&pid) {
                Some(process) => {
                    assert_eq!(process.start, start, "two owners of {pid}: {record}");
                    assert!(process.tasks.insert(tid), "{tid} is there already: {record}");
                }
                None => {
                    self.stranger(pid, start, record);
                    self.processes.get_mut(&pid).expect("just inserted").tasks.insert(tid);
                }
            }
            return;
        }
        let process = Process { start, tasks: HashSet::from([pid]), dead: false };
        if let Some(before) = self.processes.insert(pid, process)
            // Of a process from before, not all tasks are known.
            && !self.whole_machine
        {
            assert!(before.dead && before.tasks.is_empty(), "{pid} has not ended: {record}");
            assert_ne!(before.start, start, "the same identity again: {record}");
        }
    }

    #[track_caller]
    fn exec(&mut self, record: &Value) {
        self.owner(record, record);
        let pid = id(record, "pid");
        let process = self.processes.get_mut(&pid).expect("its owner was just checked");
        assert!(!process.dead, "after its end: {record}");
        if record.at("errno").is_null() {
            if let Some(old) = record.at("old_tid").as_u64() {
                // The thread has taken the leader's place; the leader ended before.
                assert!(process.tasks.remove(&(old as u32)) || self.whole_machine, "{record}");
                assert!(!process.tasks.contains(&pid) || self.whole_machine, "{record}");
            }
            process.tasks.insert(pid);
            assert!(process.tasks.len() == 1 || self.whole_machine, "other threads: {record}");
        }
    }

    #[track_caller]
    fn exit(&mut self, record: &Value) {
        self.owner(record, record);
        let (pid, tid) = (id(record, "pid"), id(record, "tid"));
        let process = self.processes.get_mut(&pid).expect("its owner was just checked");
        assert_eq!(process.start, record.number("start_time"), "two owners of {pid}: {record}");
        assert!(process.tasks.remove(&tid) || self.whole_machine, "no such task: {record}");
        if record.at("group_dead").as_bool() == Some(true) {
            // The kernel decides who is last before it tells of the end, so on another CPU a
            // thread that ended first may be told of last; its start time still must fit.
            assert!(!process.dead, "a second end: {record}");
            process.dead = true;
        }
    }
}

#[track_caller]
fn id(record: &Value, path: &str) -> u32 {
    u32::try_from(record.number(path)).expect("a pid")
}
