//! What passes. Several values of one flag are alternatives, different flags all apply.

use forkscope_common::{
    config::{MAX_CGROUPS, SUBSYS_END, SUBSYS_V2, filter},
    event::{COMM_LEN, cgroup_id},
    mechanism::Mechanism,
};

use crate::{
    kernel::{Cgroup, Ptr, Task, config},
    maps::{CGROUPS, COMMS, PIDS, UIDS},
};

/// The process that a record is about.
pub struct Subject {
    pub pid: u32,
    pub uid: u32,
    /// Name of the task.
    pub comm: [u8; COMM_LEN],
    /// The task, for the name of its process.
    pub task: Task,
    pub css_set: Ptr,
    pub followed: bool,
}

/// The answer for a [`Subject`].
#[derive(Clone, Copy)]
pub struct Verdict {
    /// It is recorded.
    pub passes: bool,
    /// What it makes is followed.
    pub leads: bool,
}

#[inline(always)]
fn on(bit: u32) -> bool {
    config!(filters) & bit != 0
}

/// A flat look-up per hierarchy: a walk up to the group that was named would cost the verifier
/// more paths than it takes.
#[inline(always)]
fn in_cgroups(css_set: Ptr) -> bool {
    let mut index = 0;
    while index < MAX_CGROUPS {
        let hierarchy = config!(filtered[index]);
        if hierarchy.subsys == SUBSYS_END {
            break;
        }
        let cgroup = if hierarchy.subsys == SUBSYS_V2 {
            Cgroup::v2_of(css_set)
        } else {
            Cgroup::of_controller(css_set, hierarchy.subsys)
        };
        let id = cgroup_id(hierarchy.number, cgroup.id());
        // SAFETY: the element is a marker; nothing is read from it.
        if unsafe { CGROUPS.get(id) }.is_some() {
            return true;
        }
        index += 1;
    }
    false
}

/// Judges who a record is about.
///
/// `--follow` widens what names processes (`--pid`, `--comm`) to their descendants; without
/// those it widens `--uid` and `--cgroup`. With a COMMAND only what it started is looked at.
#[inline(always)]
pub fn judge(subject: &Subject) -> Verdict {
    if config!(filters) & !(filter::MECHANISM | filter::NO_THREADS) == 0 {
        return Verdict { passes: true, leads: false };
    }
    // SAFETY: elements of these maps are written before the programs are attached.
    let pid = !on(filter::PID) || unsafe { PIDS.get(subject.pid) }.is_some();
    // SAFETY: as above.
    let comm = !on(filter::COMM)
        || unsafe { COMMS.get(subject.comm) }.is_some()
        // A thread may have a name of its own.
        || unsafe { COMMS.get(subject.task.leader().comm()) }.is_some();
    // SAFETY: as above.
    let uid = !on(filter::UID) || unsafe { UIDS.get(subject.uid) }.is_some();
    let cgroup = !on(filter::CGROUP) || in_cgroups(subject.css_set);
    let named = pid && comm;
    let placed = uid && cgroup;
    if on(filter::FOLLOWED_ONLY) {
        return Verdict { passes: subject.followed && named && placed, leads: subject.followed };
    }
    if !on(filter::FOLLOW) {
        return Verdict { passes: named && placed, leads: false };
    }
    let leads = subject.followed || (named && placed);
    let passes = if on(filter::PID | filter::COMM) { leads && placed } else { leads };
    Verdict { passes, leads }
}

/// Whether spawns by this mechanism, and the lives that follow, are recorded.
#[inline(always)]
pub fn mechanism(mechanism: u8) -> bool {
    let of_a_thread = [Mechanism::Thread as u8, Mechanism::IoThread as u8];
    if on(filter::NO_THREADS) && of_a_thread.contains(&mechanism) {
        return false;
    }
    known_mechanism(mechanism)
}

/// As [`mechanism()`], for a task whose mechanism may be unknown: then only without `--mechanism`.
#[inline(always)]
pub fn known_mechanism(mechanism: u8) -> bool {
    !on(filter::MECHANISM) || (mechanism < 32 && config!(mechanisms) & (1 << mechanism) != 0)
}

/// Whether ends of single threads are left out.
#[inline(always)]
pub fn no_threads() -> bool {
    on(filter::NO_THREADS)
}
