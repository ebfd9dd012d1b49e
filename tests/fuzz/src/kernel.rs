//! What the kernel says of itself and of processes, the names in it being anybody's.

use forkscope::{
    kernel::{btf::Btf, host::format_field_offset},
    procfs::parse_stat,
    profile::maps,
};

/// Type information: whatever the bytes, answers or none.
pub fn btf(data: &[u8]) {
    let Ok(mut btf) = Btf::parse(data.to_vec()) else { return };
    for pretended in ["", "task_struct.pid", "task_struct.tgid+8", "mm_struct.pgd+4294967295"] {
        if !pretended.is_empty() {
            btf.pretend(pretended);
        }
        let _ = btf.offsets();
    }
    for (of, path) in [("outer", "list[3]"), ("outer", "deeper.y"), ("task_struct", "comm")] {
        let _ = (btf.offset(of, path), btf.array_len(of, path), btf.is_array(of, path));
        let _ = (btf.has_struct(of), btf.declares(of, path), btf.size_of(of), btf.struct_id(of));
        let _ = btf.enumerator(of, path);
    }
    let _ = (btf.enumerator("bpf_func_id", "BPF_FUNC_task_pt_regs"), btf.functions(&["function"]));
    for name in ["thing", "task_newtask"] {
        let _ = (btf.tracepoint(name), btf.tracepoint_args(name));
    }
}

/// The `format` files of tracefs.
pub fn machine(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for field in ["ret", "__syscall_nr", "comm", "name", ""] {
        let _ = format_field_offset(&text, field);
    }
    let cpus = forkscope::fuzz::machine(&text);
    // As many as a number of 16 bits tells apart is more than Linux has.
    assert!(cpus <= 1 << 16, "{cpus} CPUs");
}

/// Mount tables and the control groups of a process.
pub fn cgroups(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (mounts, paths) = forkscope::fuzz::cgroups(&text);
    assert!(mounts.len() <= 3 * text.lines().count());
    for path in paths.into_iter().flatten() {
        assert!(text.contains(&path) && !path.contains('\n'), "{path:?} is none of its paths");
    }
}

/// `/proc/PID/stat` and `maps`.
pub fn procfs(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some(stat) = parse_stat(&text) {
        assert!(text.contains(&format!("({}) ", stat.comm)), "{stat:?}");
    }
    let maps = maps::parse(&text);
    for map in &maps {
        assert!(map.start < map.end && !map.name.contains('\n'), "{map:?}");
    }
    for address in [0, 0x1000, u64::MAX] {
        if let Some(map) = maps::find(&maps, address) {
            assert!((map.start..map.end).contains(&address));
        }
    }
}
