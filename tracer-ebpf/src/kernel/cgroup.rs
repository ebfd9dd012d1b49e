//! Control groups.

use forkscope_common::config::MISSING;

use super::{Ptr, config};

/// A control group, by its `struct cgroup`.
#[derive(Clone, Copy)]
pub struct Cgroup(pub Ptr);

impl Cgroup {
    #[inline(always)]
    pub fn v2_of(css_set: Ptr) -> Self {
        Self(css_set.pointer(config!(offsets.css_set_dfl_cgrp)))
    }

    /// The control group of one controller.
    #[inline(always)]
    pub fn of_controller(css_set: Ptr, index: u32) -> Self {
        let base = config!(offsets.css_set_subsys);
        if base == MISSING {
            return Self(Ptr::new(core::ptr::null::<u8>()));
        }
        Self(css_set.pointer(base.wrapping_add(index * 8)).pointer(config!(offsets.css_cgroup)))
    }

    #[inline(always)]
    pub fn level(self) -> u32 {
        self.0.value(config!(offsets.cgroup_level))
    }

    #[inline(always)]
    pub fn hierarchy(self) -> u32 {
        self.0.pointer(config!(offsets.cgroup_root)).value(config!(offsets.root_hierarchy_id))
    }

    /// Id of its node, unique within its hierarchy.
    #[inline(always)]
    pub fn id(self) -> u64 {
        self.0.pointer(config!(offsets.cgroup_kn)).value(config!(offsets.kernfs_id))
    }

    /// Id of the group it is in; 0 for the root.
    #[inline(always)]
    pub fn parent_id(self) -> u64 {
        self.0
            .pointer(config!(offsets.cgroup_kn))
            .pointer(config!(offsets.kernfs_parent))
            .value(config!(offsets.kernfs_id))
    }
}
