//! Facts about this host, gathered once. Nothing is concluded from a version.

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    btf::Btf,
    facts::{CALLED, Facts, Without},
    sys,
};
use crate::failure::Why;

/// Where the kernel publishes its own type information.
pub const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";

/// Capabilities that matter here, by number.
pub const CAPABILITIES: [(u32, &str); 7] = [
    (2, "CAP_DAC_READ_SEARCH"),
    (12, "CAP_NET_ADMIN"),
    (19, "CAP_SYS_PTRACE"),
    (21, "CAP_SYS_ADMIN"),
    (24, "CAP_SYS_RESOURCE"),
    (38, "CAP_PERFMON"),
    (39, "CAP_BPF"),
];
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

/// The tracing file system is there, and may not be looked into.
pub const UNREADABLE: &str = "not readable: give CAP_DAC_READ_SEARCH";
const NO_SYS: &str = "is not there: /sys is not mounted";
const NO_MEMORY: &str = "not enough memory to read it";

/// The tracing file system, wherever it is.
pub struct Tracefs {
    dir: OwnedFd,
    /// How it was reached, for people.
    pub by: String,
}

impl Tracefs {
    /// Finds it mounted, or mounts it where nobody else sees it.
    fn open() -> Result<Self, String> {
        let mut refused = None;
        for mount in mounts("tracefs") {
            let dir = sys::open_dir(&mount).and_then(|dir| {
                sys::read_below(dir.as_fd(), "events/syscalls/sys_enter_execve/id")?;
                Ok(dir)
            });
            match dir {
                Ok(dir) => return Ok(Self { dir, by: format!("mounted at {}", mount.display()) }),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    refused = Some(mount);
                }
                Err(_) => {}
            }
        }
        match (sys::detached_mount(c"tracefs"), refused) {
            (Ok(dir), _) => Ok(Self { dir, by: "mounted for this process alone".into() }),
            (Err(_), Some(mount)) => {
                Err(format!("mounted at {} but {UNREADABLE}", mount.display()))
            }
            (Err(error), None) => Err(format!("not mounted, and mounting it failed: {error}")),
        }
    }

    /// Where it is, for a rule: it may be mounted nowhere.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.dir.as_raw_fd()).into()
    }

    /// The number of a tracepoint; `None` when there is no such one.
    #[must_use]
    pub fn id(&self, category: &str, name: &str) -> Option<u64> {
        sys::read_below(self.dir.as_fd(), &format!("events/{category}/{name}/id"))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// The offset of a field in a tracepoint's record.
    #[must_use]
    pub fn field_offset(&self, category: &str, name: &str, field: &str) -> Option<u32> {
        let format =
            sys::read_below(self.dir.as_fd(), &format!("events/{category}/{name}/format")).ok()?;
        format_field_offset(&format, field)
    }
}

/// CPUs that are there now.
#[must_use]
pub fn online_cpus() -> Vec<u32> {
    fs::read_to_string("/sys/devices/system/cpu/online")
        .map(|list| cpus_in(list.trim()))
        .unwrap_or_default()
}

/// Whether kprobes are switched on for the machine, where the kernel says.
#[must_use]
pub fn kprobes_enabled() -> Option<bool> {
    let dir = sys::open_dir(Path::new("/sys/kernel/debug"));
    let read = |dir: io::Result<OwnedFd>| sys::read_below(dir?.as_fd(), "kprobes/enabled");
    let text = read(dir).or_else(|_| read(sys::detached_mount(c"debugfs"))).ok()?;
    Some(text.trim() != "0")
}

/// Whether functions can be traced, where the kernel says.
#[must_use]
pub fn ftrace_enabled() -> Option<bool> {
    Some(fs::read_to_string("/proc/sys/kernel/ftrace_enabled").ok()?.trim() != "0")
}

/// Reads a field's offset out of a tracepoint's `format` file.
#[must_use]
pub fn format_field_offset(format: &str, field: &str) -> Option<u32> {
    format.lines().find_map(|line| {
        let mut parts = line.trim().split(';').map(str::trim);
        let declared = parts.next()?.strip_prefix("field:")?.split(['[', ' ', '*']).rfind(|w| {
            !w.is_empty() && !w.starts_with(|c: char| c.is_ascii_digit()) && *w != "]"
        })?;
        if declared != field {
            return None;
        }
        parts.next()?.strip_prefix("offset:")?.parse().ok()
    })
}

/// Mount points of a kind of file system, in this process's view.
#[must_use]
pub fn mounts(kind: &str) -> Vec<PathBuf> {
    mount_options(kind).into_iter().map(|(path, _)| path).collect()
}

/// The same, with the options of their super blocks.
#[must_use]
pub fn mount_options(kind: &str) -> Vec<(PathBuf, String)> {
    let Ok(table) = fs::read_to_string("/proc/self/mountinfo") else { return Vec::new() };
    table.lines().filter_map(|line| mount_of(line, kind)).collect()
}

/// Mount point and super-block options of a mountinfo line, if it is of this kind.
pub(crate) fn mount_of(line: &str, kind: &str) -> Option<(PathBuf, String)> {
    let (front, back) = line.split_once(" - ")?;
    let mut back = back.split(' ');
    if back.next()? != kind {
        return None;
    }
    let options = back.nth(1).unwrap_or_default().to_string();
    let path = front.split(' ').nth(4)?;
    Some((PathBuf::from(unescape_octal(path)), options))
}

fn unescape_octal(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let digits = rest.get(at + 1..at + 4);
        match digits.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) => {
                out.push(byte as char);
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// The facts.
pub struct Host {
    /// `uname -r`
    pub kernel: String,
    /// `uname -n`
    pub name: String,
    /// `uname -m`
    pub arch: String,
    /// Differs at every boot.
    pub boot_id: String,
    /// Type information, or why there is none.
    pub btf: Result<Btf, String>,
    /// The tracing file system, or why there is none.
    pub tracefs: Result<Arc<Tracefs>, String>,
    /// Effective capabilities.
    pub capabilities: u64,
    /// Whether the effective user is root.
    pub root: bool,
    /// What lockdown allows, when the kernel says.
    pub lockdown: Option<String>,
    /// One more than the highest CPU number that can come.
    pub cpus: u32,
    /// CPUs that are there now.
    pub online: Vec<u32>,
    /// Width of a physical address, bits; `None` where the architecture does not say.
    pub physical_bits: Option<u32>,
    /// GiB of physical address space below the end of memory.
    pub physical_gib: u32,
    /// Highest pid plus one.
    pub pid_max: u32,
    /// Bytes in a page.
    pub page_size: u32,
    /// In the pid namespace that the kernel counts in.
    pub initial_pid_namespace: bool,
    /// Helpers that kernels differ in.
    pub helpers: BTreeSet<&'static str>,
    /// Bytes in a hugetlb page of the default size, where there are any.
    pub hugetlb_bytes: Option<u32>,
    /// What is known of the hooks, and what loading has found out.
    pub facts: Facts,
}

impl Host {
    /// Looks around. What cannot be found out is in the result, as a reason.
    #[must_use]
    pub fn gather() -> Self {
        Self::gather_with(None)
    }

    /// As [`Self::gather`], with the tracing file system as it was found when there were more
    /// privileges.
    #[must_use]
    pub fn gather_with(tracefs: Option<Arc<Tracefs>>) -> Self {
        let read = |path: &str| fs::read_to_string(path).map(|s| s.trim().to_string());
        let without = Without::from_environment();
        let btf = without.refused("btf").and_then(|()| {
            fs::read(BTF_PATH)
                .map_err(|error| missing_btf(&error))
                .and_then(|data| Btf::parse(data).map_err(|bad| format!("{BTF_PATH}: {}", bad.0)))
        });
        let btf = btf.map(|mut btf| {
            without.names().for_each(|name| btf.pretend(name));
            btf
        });
        let mut helpers = BTreeSet::new();
        if let Ok(btf) = &btf {
            for name in ["task_pt_regs", "get_current_task_btf"] {
                if btf.enumerator("bpf_func_id", &format!("BPF_FUNC_{name}")).is_some()
                    && !without.names().any(|other| other == name)
                {
                    helpers.insert(name);
                }
            }
        }
        let facts = Facts::gather(btf.as_ref().ok(), &without);
        Self {
            facts,
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_else(|_| "unknown".into()),
            name: read("/proc/sys/kernel/hostname").unwrap_or_else(|_| "unknown".into()),
            arch: std::env::consts::ARCH.into(),
            boot_id: read("/proc/sys/kernel/random/boot_id").unwrap_or_else(|_| "unknown".into()),
            btf,
            tracefs: without
                .refused("tracefs")
                .and_then(|()| tracefs.map_or_else(|| Tracefs::open().map(Arc::new), Ok)),
            hugetlb_bytes: read("/proc/meminfo").ok().and_then(|text| hugetlb_bytes(&text)),
            capabilities: effective_capabilities(),
            // SAFETY: no arguments, cannot fail.
            root: unsafe { libc::geteuid() } == 0,
            lockdown: read("/sys/kernel/security/lockdown").ok().map(|line| chosen_word(&line)),
            cpus: possible_cpus(),
            online: online_cpus(),
            physical_bits: read("/proc/cpuinfo").ok().and_then(|text| physical_bits(&text)),
            physical_gib: read("/proc/iomem")
                .ok()
                .and_then(|map| memory_end(&map))
                .map_or(MOST_GIB, |end| (end >> 30) as u32 + 1),
            pid_max: read("/proc/sys/kernel/pid_max")
                .ok()
                .and_then(|s| s.parse().ok())
                .unwrap_or(4 << 20),
            page_size: sys::sysconf(libc::_SC_PAGESIZE) as u32,
            initial_pid_namespace: initial_pid_namespace(),
            helpers,
        }
    }

    /// Whether a capability is effective.
    #[must_use]
    pub fn capable(&self, number: u32) -> bool {
        self.capabilities >> number & 1 != 0
    }

    /// The capabilities that loading takes and that are missing.
    #[must_use]
    pub fn missing_to_load(&self) -> Vec<&'static str> {
        let missing = |number| !self.capable(number) && !self.capable(SYS_ADMIN);
        CAPABILITIES
            .iter()
            .filter(|(number, _)| matches!(*number, BPF | PERFMON) && missing(*number))
            .map(|(_, name)| *name)
            .collect()
    }

    /// The number of a function of the kernel that the programs call, where they can: where its
    /// companion is there too, and BTF has the type to read by.
    #[must_use]
    pub fn callable(&self, function: &str) -> Option<u32> {
        let pairs = CALLED.chunks(2).find(|pair| pair.contains(&function))?;
        let readable = self.btf.as_ref().is_ok_and(|btf| btf.struct_id("pte_t").is_some());
        let all = pairs.iter().all(|name| self.facts.number(name).is_some());
        if all && readable { self.facts.number(function) } else { None }
    }

    /// Whether the programs follow pointers by their types, without a helper call each.
    #[must_use]
    pub fn follows_types(&self) -> bool {
        self.facts.untyped.is_none() && self.helpers.contains("get_current_task_btf")
    }

    /// Whether this kernel has a BTF tracepoint.
    #[must_use]
    pub fn has_tracepoint(&self, name: &str) -> bool {
        self.btf.as_ref().is_ok_and(|btf| btf.tracepoint_args(name).is_some())
    }
}

fn missing_btf(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::OutOfMemory => format!("{BTF_PATH}: {NO_MEMORY}"),
        io::ErrorKind::NotFound if !Path::new("/sys/kernel").exists() => {
            format!("{BTF_PATH} {NO_SYS}")
        }
        io::ErrorKind::NotFound => {
            format!("{BTF_PATH} is not there: the kernel was built without CONFIG_DEBUG_INFO_BTF")
        }
        _ => format!("{BTF_PATH}: {error}"),
    }
}

/// How it counts that there is no type information for this reason, and what mends it.
#[must_use]
pub fn mend_btf(why: &str) -> (Why, &'static str) {
    if why.ends_with(NO_MEMORY) {
        (Why::Failed, "free some memory, or raise the limit on address space (ulimit -v)")
    } else if why.ends_with(NO_SYS) {
        (Why::Unsupported, "mount -t sysfs sysfs /sys")
    } else {
        (Why::Unsupported, "use a kernel with BTF (CONFIG_DEBUG_INFO_BTF)")
    }
}

/// Whether this process is in a user namespace that was made: what it may do there, it may not do
/// to the kernel.
#[must_use]
pub fn in_user_namespace() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !is_initial(&map))
}

/// Every uid of the kernel's is the same here.
fn is_initial(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn effective_capabilities() -> u64 {
    rustix::thread::capabilities(None).map_or(0, |sets| sets.effective.bits())
}

/// The word in brackets of `none [integrity] confidentiality`.
pub(crate) fn chosen_word(line: &str) -> String {
    line.split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .map_or_else(|| line.to_string(), |(word, _)| word.to_string())
}

fn possible_cpus() -> u32 {
    fs::read_to_string("/sys/devices/system/cpu/possible")
        .ok()
        .and_then(|list| highest_cpu(list.trim()))
        .map_or_else(|| sys::sysconf(libc::_SC_NPROCESSORS_CONF) as u32, |highest| highest + 1)
}

/// The highest number in `0-3,8-11`.
pub(crate) fn highest_cpu(list: &str) -> Option<u32> {
    cpus_in(list).into_iter().max()
}

/// The numbers in `0-3,8-11`, as far as there can be so many CPUs.
pub(crate) fn cpus_in(list: &str) -> Vec<u32> {
    list.split(',')
        .filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
        })
        .flatten()
        .take(usize::from(u16::MAX))
        .map(u32::from)
        .collect()
}

/// Where the end of memory cannot be read: as far as it is looked for.
const MOST_GIB: u32 = 4096;

/// `address sizes : 46 bits physical, 48 bits virtual` of /proc/cpuinfo.
pub(crate) fn physical_bits(cpuinfo: &str) -> Option<u32> {
    let line = cpuinfo.lines().find(|line| line.starts_with("address sizes"))?;
    line.split(':').nth(1)?.split_whitespace().next()?.parse().ok()
}

/// `Hugepagesize:       2048 kB` of /proc/meminfo.
pub(crate) fn hugetlb_bytes(meminfo: &str) -> Option<u32> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("Hugepagesize:"))?;
    line.split_whitespace().next()?.parse::<u32>().ok()?.checked_mul(1024)
}

/// The end of the last range of RAM in /proc/iomem; `None` where addresses are hidden.
pub(crate) fn memory_end(map: &str) -> Option<u64> {
    map.lines()
        .filter(|line| line.trim_end().ends_with(": System RAM"))
        .filter_map(|line| line.trim_start().split_once('-')?.1.split(' ').next())
        .filter_map(|end| u64::from_str_radix(end, 16).ok())
        .max()
        .filter(|end| *end > 0)
}

fn initial_pid_namespace() -> bool {
    /// `PROC_PID_INIT_INO`, include/linux/proc_ns.h (an ABI since 6.18, a fact before).
    const INITIAL: &str = "pid:[4026531836]";
    fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link == Path::new(INITIAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_in_a_format_file() {
        let format = "name: sys_exit_fork\nID: 42\nformat:\n\
            \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
            \tfield:int __syscall_nr;\toffset:8;\tsize:4;\tsigned:1;\n\
            \tfield:char comm[16];\toffset:12;\tsize:16;\tsigned:0;\n\
            \tfield:const char * name;\toffset:24;\tsize:8;\tsigned:0;\n\
            \tfield:long ret;\toffset:16;\tsize:8;\tsigned:1;\n\nprint fmt: \"0x%lx\", REC->ret\n";
        for (field, expected) in [
            ("ret", Some(16)),
            ("__syscall_nr", Some(8)),
            ("comm", Some(12)),
            ("name", Some(24)),
            ("long", None),
            ("nothing", None),
        ] {
            assert_eq!(format_field_offset(format, field), expected, "{field}");
        }
    }

    #[test]
    fn mount_tables_are_read() {
        let line = "36 35 0:31 / /sys/kernel/tra\\040cing rw,nosuid - tracefs none rw,seclabel";
        assert_eq!(
            mount_of(line, "tracefs"),
            Some((PathBuf::from("/sys/kernel/tra cing"), "rw,seclabel".into()))
        );
        assert_eq!(mount_of(line, "debugfs"), None);
        assert_eq!(mount_of("garbage", "tracefs"), None);
    }

    #[test]
    fn a_reason_has_its_own_advice() {
        for (error, why, advice) in [
            (io::ErrorKind::OutOfMemory, Why::Failed, "raise the limit on address space"),
            (io::ErrorKind::NotFound, Why::Unsupported, "use a kernel with BTF"),
        ] {
            let (found, text) = mend_btf(&missing_btf(&error.into()));
            assert_eq!(found, why);
            assert!(text.contains(advice), "{text}");
        }
        assert_eq!(mend_btf(&format!("{BTF_PATH} {NO_SYS}")).1, "mount -t sysfs sysfs /sys");
        assert!(is_initial("         0          0 4294967295\n"));
        for map in ["0 1000 1\n", "0 100000 65536\n", "0 0 4294967295\n1 2 3\n", ""] {
            assert!(!is_initial(map), "{map}");
        }
    }

    #[test]
    fn memory_is_found_out() {
        let map = "00001000-0009ffff : System RAM\n100000000-63fffffff : System RAM\n  \
                   1f0000-1fffff : Kernel code\n640000000-6ffffffff : Reserved\n";
        assert_eq!(memory_end(map), Some(0x6_3fff_ffff));
        assert_eq!(memory_end("00000000-00000000 : System RAM\n"), None);
        let cpu = "processor : 0\naddress sizes\t: 46 bits physical, 48 bits virtual\n";
        assert_eq!(physical_bits(cpu), Some(46));
        assert_eq!(physical_bits("processor : 0\n"), None);
        assert_eq!(hugetlb_bytes("MemTotal: 1 kB\nHugepagesize:       2048 kB\n"), Some(2 << 20));
        assert_eq!(hugetlb_bytes("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn lists_of_cpus_are_read() {
        for (list, expected) in
            [("0", Some(0)), ("0-1", Some(1)), ("0-3,8-11", Some(11)), ("", None)]
        {
            assert_eq!(highest_cpu(list), expected);
        }
        assert_eq!(cpus_in("0-2,7"), [0, 1, 2, 7]);
        assert!(cpus_in("").is_empty());
        assert_eq!(chosen_word("none [integrity] confidentiality"), "integrity");
    }
}
