//! Kernels whose verifier follows no typed pointers: the programs load all the same, and see
//! the same.

use std::process::Command;

use forkscope::{
    kernel::{host::Host, load::Live},
    plan::Plan,
};
use forkscope_common::mechanism::Mechanism;

/// posix_spawns (that is how the standard library runs programs) and execs seen of ten runs.
fn seen(host: &mut Host) -> (u64, u64) {
    let mut live = Live::load(host, &Plan::everything(), 0).expect("it loads");
    live.attach(host).expect("what loads attaches");
    live.begin().expect("the gate opens");
    for _ in 0..10 {
        Command::new("/bin/true").status().expect("/bin/true runs");
    }
    live.detach();
    let counters = live.books().counters();
    (counters.spawns[Mechanism::PosixSpawn as usize], counters.execs)
}

#[test]
fn helper_calls_see_what_typed_pointers_see() {
    let mut host = Host::gather();
    if !host.missing_to_load().is_empty() {
        println!("skipped: loading eBPF programs needs root");
        return;
    }
    for helpers in [&["get_current_task_btf", "task_pt_regs"][..], &["task_pt_regs"], &[]] {
        host.helpers.retain(|helper| helpers.contains(helper));
        let (spawns, execs) = seen(&mut host);
        // Others may spawn meanwhile; ours are there in any case. The label needs the saved
        // registers of both tasks.
        assert!(spawns >= 10 && execs >= 10, "{helpers:?}: {spawns} spawns, {execs} execs");
    }
}
