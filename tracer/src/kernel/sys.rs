//! The few syscalls that no library here wraps.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
    path::Path,
};

fn checked(result: libc::c_long) -> io::Result<RawFd> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    // SAFETY: the syscall succeeded and gave this process a new descriptor.
    checked(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A mount of `kind` that is attached nowhere: visible through the descriptor alone.
///
/// # Errors
/// Those of fsopen(2), fsconfig(2) and fsmount(2): EPERM without `CAP_SYS_ADMIN`.
pub fn detached_mount(kind: &CStr) -> io::Result<OwnedFd> {
    const FSOPEN_CLOEXEC: u32 = 1;
    const FSCONFIG_CMD_CREATE: u32 = 6;
    const FSMOUNT_CLOEXEC: u32 = 1;
    // SAFETY: a valid string; the kernel checks the rest.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })?;
    let null = std::ptr::null::<libc::c_void>();
    // SAFETY: no pointer is passed but null.
    checked(unsafe {
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, null, null, 0)
    })?;
    // SAFETY: no pointer is passed.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0) })
}

/// Opens a directory as a place to look things up in.
///
/// # Errors
/// Those of open(2).
pub fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(std::fs::File::open(path)?.into())
}

/// Whether one more descriptor can be had, whatever may be opened.
///
/// # Errors
/// Those of eventfd(2): EMFILE and ENFILE above all.
pub fn spare_descriptor() -> io::Result<()> {
    // SAFETY: no pointer is passed.
    owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) }.into()).map(drop)
}

/// Reads a small file below a directory.
///
/// # Errors
/// Those of openat(2) and read(2).
pub fn read_below(dir: BorrowedFd<'_>, path: &str) -> io::Result<String> {
    let path = std::ffi::CString::new(path)?;
    // SAFETY: a valid descriptor and a valid string.
    let fd =
        unsafe { libc::openat(dir.as_raw_fd(), path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    let file = std::fs::File::from(owned(fd.into())?);
    io::read_to_string(file)
}

/// A tracepoint on every CPU and task, with a program attached, switched on.
///
/// # Errors
/// Those of perf_event_open(2): EACCES or EPERM without `CAP_PERFMON`.
pub fn attach_tracepoint(id: u64, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const PERF_TYPE_TRACEPOINT: u32 = 2;
    // A tracepoint's programs run on every CPU, whichever CPU the event is opened for.
    attach_event(PERF_TYPE_TRACEPOINT, id, 1, 0, program)
}

/// Minor faults on a CPU, one in `period`, with a program attached, switched on.
///
/// # Errors
/// As [`attach_tracepoint`].
pub fn attach_minor_faults(cpu: u32, period: u32, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const PERF_TYPE_SOFTWARE: u32 = 1;
    const PERF_COUNT_SW_PAGE_FAULTS_MIN: u64 = 5;
    let (kind, config) = (PERF_TYPE_SOFTWARE, PERF_COUNT_SW_PAGE_FAULTS_MIN);
    attach_event(kind, config, u64::from(period), cpu, program)
}

/// `struct perf_event_attr` up to `PERF_ATTR_SIZE_VER1`.
#[repr(C)]
struct EventAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    rest: [u64; 4],
    /// `config1` is the last word of version 0, `config2` the one of version 1.
    configs: [u64; 2],
}

impl EventAttr {
    fn open(&self, cpu: u32) -> io::Result<OwnedFd> {
        const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
        let at: *const Self = self;
        // SAFETY: the attributes are as large as they say.
        owned(unsafe {
            libc::syscall(libc::SYS_perf_event_open, at, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC)
        })
    }
}

fn attach_event(
    kind: u32,
    config: u64,
    sample_period: u64,
    cpu: u32,
    program: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    let size = size_of::<EventAttr>() as u32;
    let attr = EventAttr { kind, size, config, sample_period, rest: [0; 4], configs: [0; 2] };
    switch_on(attr.open(cpu)?, program)
}

/// Whether events of a CPU can be opened at all: opens one that never comes, and closes it.
///
/// # Errors
/// Those of perf_event_open(2): EACCES or EPERM without `CAP_PERFMON`, or where a filter says no.
pub fn try_event() -> io::Result<()> {
    const PERF_TYPE_SOFTWARE: u32 = 1;
    const PERF_COUNT_SW_DUMMY: u64 = 9;
    let size = size_of::<EventAttr>() as u32;
    let (kind, config) = (PERF_TYPE_SOFTWARE, PERF_COUNT_SW_DUMMY);
    let attr = EventAttr { kind, size, config, sample_period: 1, rest: [0; 4], configs: [0; 2] };
    attr.open(0).map(drop)
}

/// The beginning of a function, or its return, with a program attached, switched on; `source` is
/// the kind of event, and the bit that means return.
///
/// # Errors
/// Those of perf_event_open(2): ENOENT without such a function, EINVAL or EOPNOTSUPP for one that
/// must not be probed.
pub fn attach_kprobe(
    source: (u32, u64),
    function: &str,
    at_return: bool,
    program: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    let name = std::ffi::CString::new(function)?;
    let attr = EventAttr {
        kind: source.0,
        size: size_of::<EventAttr>() as u32,
        config: if at_return { source.1 } else { 0 },
        sample_period: 1,
        rest: [0; 4],
        configs: [name.as_ptr() as u64, 0],
    };
    switch_on(attr.open(0)?, program)
}

fn switch_on(event: OwnedFd, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const PERF_EVENT_IOC_ENABLE: libc::c_ulong = 0x2400;
    const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;
    // SAFETY: two valid descriptors.
    let set =
        unsafe { libc::ioctl(event.as_raw_fd(), PERF_EVENT_IOC_SET_BPF as _, program.as_raw_fd()) };
    checked(set.into())?;
    // SAFETY: a valid descriptor.
    checked(unsafe { libc::ioctl(event.as_raw_fd(), PERF_EVENT_IOC_ENABLE as _, 0) }.into())?;
    Ok(event)
}

/// Calls `f`, which can open no file meanwhile; with other threads, which may need to, it can.
pub fn without_opening<T>(f: impl FnOnce() -> T) -> T {
    let alone = std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1);
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `before` is writable for its type.
    if !alone || unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut before) } != 0 {
        return f();
    }
    let none = libc::rlimit { rlim_cur: 0, ..before };
    // SAFETY: plain data, by reference for the time of the call.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const none) };
    let result = f();
    // SAFETY: as above; to raise the soft limit to what it was needs no privilege.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const before) };
    result
}

/// Runs a raw tracepoint's program once, here and now, with an argument; what it returns.
///
/// # Errors
/// Those of bpf(2), `BPF_PROG_TEST_RUN`: EINVAL before 5.10.
pub fn run_once(program: BorrowedFd<'_>, argument: u64) -> io::Result<u32> {
    use aya_obj::generated::{bpf_attr, bpf_cmd::BPF_PROG_TEST_RUN};
    // SAFETY: plain C data, for which zero is valid.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.test.prog_fd = program.as_raw_fd() as u32;
    attr.test.ctx_in = (&raw const argument) as u64;
    attr.test.ctx_size_in = size_of::<u64>() as u32;
    // SAFETY: the one pointer in `attr` is to what lives on, and as large as it says.
    checked(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_TEST_RUN as libc::c_int,
            &raw mut attr,
            size_of::<bpf_attr>(),
        )
    })?;
    // SAFETY: the kernel has written it.
    Ok(unsafe { attr.test.retval })
}

/// Loads a program that does nothing, for the entry of a function by its number in the kernel's
/// BTF, and drops it: whether the kernel has BPF trampolines at all, and lets us use them.
///
/// # Errors
/// Those of bpf(2), `BPF_PROG_LOAD`.
pub fn try_trampoline(function: u32) -> io::Result<()> {
    use aya_obj::generated::{bpf_attach_type::BPF_TRACE_FENTRY, bpf_prog_type};
    let kind = bpf_prog_type::BPF_PROG_TYPE_TRACING;
    load_nothing(kind, "", (BPF_TRACE_FENTRY as u32, function)).map(drop)
}

/// A program that does nothing, of a kind that is attached by name or by event. `name` is what the
/// kernel is told of, up to 15 bytes.
///
/// # Errors
/// Those of bpf(2), `BPF_PROG_LOAD`.
pub fn nothing(kind: aya_obj::generated::bpf_prog_type, name: &str) -> io::Result<OwnedFd> {
    load_nothing(kind, name, (0, 0))
}

fn load_nothing(
    kind: aya_obj::generated::bpf_prog_type,
    name: &str,
    (attach_type, function): (u32, u32),
) -> io::Result<OwnedFd> {
    use aya_obj::generated::{bpf_attr, bpf_cmd::BPF_PROG_LOAD};
    // `r0 = 0; exit`
    let instructions: [u64; 2] = [0xb7, 0x95];
    let license = c"GPL";
    // SAFETY: plain C data, for which zero is valid.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: this is the member of the union that the command reads, and all of it is zero.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = kind as u32;
    load.expected_attach_type = attach_type;
    load.insns = instructions.as_ptr() as u64;
    load.insn_cnt = instructions.len() as u32;
    load.license = license.as_ptr() as u64;
    load.attach_btf_id = function;
    // The last byte stays zero.
    let room = load.prog_name.len() - 1;
    for (to, from) in load.prog_name[..room].iter_mut().zip(name.bytes()) {
        *to = from as _;
    }
    // SAFETY: the pointers in `attr` are to what lives on, and as large as it says.
    owned(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD as libc::c_int,
            &raw mut attr,
            size_of::<bpf_attr>(),
        )
    })
}

/// Attaches a program to a raw tracepoint, until what this returns is closed.
///
/// # Errors
/// Those of bpf(2), `BPF_RAW_TRACEPOINT_OPEN`: ENOENT without such a tracepoint.
pub fn attach_event_by_name(event: &str, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    use aya_obj::generated::{bpf_attr, bpf_cmd::BPF_RAW_TRACEPOINT_OPEN};
    let name = std::ffi::CString::new(event)?;
    // SAFETY: plain C data, for which zero is valid.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.raw_tracepoint.name = name.as_ptr() as u64;
    attr.raw_tracepoint.prog_fd = program.as_raw_fd() as u32;
    // SAFETY: the one pointer in `attr` is to a string that lives on.
    owned(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_RAW_TRACEPOINT_OPEN as libc::c_int,
            &raw mut attr,
            size_of::<bpf_attr>(),
        )
    })
}

/// Before 5.11 maps count as locked memory; later the limit means nothing here. Without the
/// privilege to raise it, it stays.
pub fn raise_locked_memory() {
    let all = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a valid pointer. A refusal shows in what needs it.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const all) };
}

/// What the kernel tells of a loaded program.
///
/// # Errors
/// Those of bpf(2), `BPF_OBJ_GET_INFO_BY_FD`.
pub fn program_info(program: BorrowedFd<'_>) -> io::Result<aya_obj::generated::bpf_prog_info> {
    use aya_obj::generated::{bpf_attr, bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, bpf_prog_info};
    // SAFETY: both are plain C data, for which zero is valid.
    let (mut info, mut attr): (bpf_prog_info, bpf_attr) = unsafe { std::mem::zeroed() };
    attr.info.bpf_fd = program.as_raw_fd() as u32;
    attr.info.info = &raw mut info as u64;
    attr.info.info_len = size_of::<bpf_prog_info>() as u32;
    // SAFETY: `attr` points to `info`, which is as large as it says, and both live on.
    checked(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD as libc::c_int,
            &raw mut attr,
            size_of::<bpf_attr>(),
        )
    })?;
    Ok(info)
}

/// Nanoseconds of a clock.
#[must_use]
pub fn clock_ns(clock: libc::clockid_t) -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable; the clocks in use exist on every Linux.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// Nanoseconds in a tick of the kernel: what the coarse clock advances by.
#[must_use]
pub fn tick_ns() -> u32 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable; the clock exists on every Linux.
    unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    u32::try_from(time.tv_nsec).unwrap_or(0)
}

/// `sysconf(3)`, at least 1.
#[must_use]
pub fn sysconf(name: libc::c_int) -> u64 {
    // SAFETY: no pointers.
    unsafe { libc::sysconf(name) }.max(1) as u64
}

/// A map of the array kind, mapped for reading while the programs write to it.
pub struct Mapped {
    at: *const u8,
    len: usize,
}

// SAFETY: the memory is shared with the kernel and only read, by volatile loads.
unsafe impl Send for Mapped {}

impl Mapped {
    /// Maps `len` bytes of a map made with `BPF_F_MMAPABLE`.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn new(map: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        Self::part(map, 0, len)
    }

    /// Maps `len` bytes from an offset on, which is a multiple of the page size.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn part(map: BorrowedFd<'_>, offset: usize, len: usize) -> io::Result<Self> {
        Self::with(map, offset, len, libc::PROT_READ)
    }

    /// As [`Self::part`], for what is more than read.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(super) fn with(
        map: BorrowedFd<'_>,
        offset: usize,
        len: usize,
        protection: libc::c_int,
    ) -> io::Result<Self> {
        let page = sysconf(libc::_SC_PAGESIZE) as usize;
        let len = len.next_multiple_of(page);
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                protection,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { at: at.cast(), len })
    }

    /// The address of a byte inside; good as long as this lives.
    pub(super) fn at(&self, offset: usize) -> *const u8 {
        assert!(offset < self.len);
        // SAFETY: inside the mapping, as just checked.
        unsafe { self.at.add(offset) }
    }

    /// A copy of `len` bytes at an offset; both multiples of 8, and inside.
    #[must_use]
    pub fn bytes(&self, offset: usize, len: usize) -> Vec<u8> {
        (0..len / 8).flat_map(|word| self.read::<u64>(offset + 8 * word).to_ne_bytes()).collect()
    }

    /// The value at a byte offset; it must lie inside and be aligned.
    #[must_use]
    pub fn read<T: Copy>(&self, offset: usize) -> T {
        assert!(offset + size_of::<T>() <= self.len && offset.is_multiple_of(align_of::<T>()));
        // SAFETY: inside the mapping and aligned, just checked; volatile, as the kernel writes it.
        unsafe { self.at.add(offset).cast::<T>().read_volatile() }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped with this length, and no reference into it outlives it.
        unsafe { libc::munmap(self.at.cast_mut().cast(), self.len) };
    }
}

/// The path of a control group's directory by the number of its node
/// (`FILEID_KERNFS` of include/linux/exportfs.h).
///
/// # Errors
/// Those of open_by_handle_at(2): EPERM without `CAP_DAC_READ_SEARCH`, ESTALE when it is gone.
pub fn path_by_handle(mount: BorrowedFd<'_>, node: u64) -> io::Result<std::path::PathBuf> {
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        node: [u32; 2],
    }
    let handle = Handle { bytes: 8, kind: 0xfe, node: [node as u32, (node >> 32) as u32] };
    // SAFETY: `handle` has the layout of struct file_handle and is as large as it says.
    let dir = owned(unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            &raw const handle,
            libc::O_PATH | libc::O_CLOEXEC,
        )
    })?;
    std::fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd()))
}
