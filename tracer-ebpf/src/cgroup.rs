//! Which control group a task is in, and the paths of new ones.

use forkscope_common::{
    config::{MAX_HIERARCHIES, SUBSYS_END, filter},
    event::{self, Kind, MAX_CGROUP_PATH},
};

use crate::{
    emit::{Cpu, count, now},
    kernel::{Cgroup, Ptr, config, opaque, read_str},
    maps::{CGROUP_SCRATCH, CGROUPS},
};

/// The v2 control group, or where that is the root the first v1 one that is not, in the
/// order of /proc/PID/cgroup. The number is unique on this machine, across hierarchies.
#[inline(always)]
pub fn id(css_set: Ptr) -> u64 {
    let v2 = Cgroup::v2_of(css_set);
    if v2.level() == 0 {
        let mut index = 0;
        while index < MAX_HIERARCHIES {
            let hierarchy = config!(hierarchies[index]);
            if hierarchy.subsys == SUBSYS_END {
                break;
            }
            let cgroup = Cgroup::of_controller(css_set, hierarchy.subsys);
            if cgroup.level() > 0 {
                return event::cgroup_id(hierarchy.number, cgroup.id());
            }
            index += 1;
        }
    }
    v2.id()
}

/// `cgroup_mkdir`: the path is told once, when the group is made.
#[inline(always)]
pub fn made(cgroup: Cgroup, path: Ptr) {
    let Some(cpu) = Cpu::current() else { return };
    let (hierarchy, id) = (cgroup.hierarchy(), cgroup.id());
    if config!(filters) & filter::CGROUP != 0 {
        let parent = event::cgroup_id(hierarchy, cgroup.parent_id());
        // SAFETY: the element is a marker; nothing is read from it.
        if unsafe { CGROUPS.get(parent) }.is_some()
            && CGROUPS.insert(event::cgroup_id(hierarchy, id), 1, 0).is_err()
        {
            count!(cpu, forgotten);
        }
    }
    let Some(scratch) = CGROUP_SCRATCH.get_ptr_mut(cpu.id()) else { return };
    // SAFETY: this CPU's element; the program that uses it cannot interrupt itself.
    let scratch = unsafe { &mut *scratch };
    // SAFETY: the payload is that large.
    let with_nul = unsafe { read_str(path, scratch.payload.as_mut_ptr(), MAX_CGROUP_PATH as u32) };
    let mut len = opaque(with_nul);
    if len == 0 || len > MAX_CGROUP_PATH as u32 {
        return;
    }
    len -= 1;
    count!(cpu, stages[Kind::Cgroup as usize].seen);
    scratch.record = event::Cgroup {
        header: cpu.header(Kind::Cgroup, 0, now()),
        id: event::cgroup_id(hierarchy, id),
        len,
        reserved: 0,
    };
    let size = size_of::<event::Cgroup>() as u32 + len;
    // SAFETY: the record and the part of the payload that was filled.
    unsafe { cpu.submit_bytes(Kind::Cgroup, (&raw const *scratch).cast(), size) };
}
