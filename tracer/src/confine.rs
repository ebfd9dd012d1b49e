//! What is given up once the programs are attached: privileges, and most of the file system.
//!
//! All of it belongs to the thread that asks and to those that it makes later, so that this comes
//! before the first of them, and after the COMMAND, which keeps what the user had.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use crate::{
    failure::{Failure, Why},
    kernel::host::{mount_options, mounts},
};

/// The newest rules that this version knows; of older kernels it takes what they have.
const KNOWN: ABI = ABI::V6;

/// What a session still needs when its programs are attached.
#[derive(Default)]
pub struct Needs {
    /// Folders in which files are made later.
    pub folders: Vec<PathBuf>,
    /// What is read later, besides /proc, control groups, and which CPUs there are.
    pub reads: Vec<PathBuf>,
    /// It signals a command, which may become another user's.
    pub signals: bool,
    /// It loads programs again, when its filters change.
    pub loads: bool,
    /// The kernel lets nobody ask for a program's misses, or change a map, without `CAP_BPF`.
    pub maps_need_privilege: bool,
}

impl Needs {
    /// The folder in which pieces of an output are made.
    pub fn pieces_of(&mut self, output: &Path) {
        let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty());
        self.folders.push(folder.unwrap_or(Path::new(".")).to_path_buf());
    }

    /// Of the capabilities that are held, those to keep.
    #[must_use]
    pub fn capabilities(&self) -> CapabilitySet {
        // Numbers of control groups to paths: open_by_handle_at(2).
        let mut keep = CapabilitySet::DAC_READ_SEARCH;
        if self.signals {
            keep |= CapabilitySet::KILL;
        }
        if self.loads {
            keep |= CapabilitySet::BPF | CapabilitySet::PERFMON;
        }
        if self.maps_need_privilege {
            keep |= CapabilitySet::BPF;
        }
        if processes_hidden() {
            keep |= CapabilitySet::SYS_PTRACE;
        }
        if !self.folders.iter().all(|folder| writable_without_privilege(folder)) {
            keep |= CapabilitySet::DAC_OVERRIDE;
        }
        keep
    }

    /// Whom it reaches outside: by Landlock's leave, nobody.
    fn scope(&self) -> BitFlags<Scope> {
        let mut scope = Scope::from_all(KNOWN);
        if self.signals {
            scope.remove(Scope::Signal);
        }
        // A service manager may listen at an abstract socket.
        if std::env::var_os("NOTIFY_SOCKET")
            .is_some_and(|path| path.as_encoded_bytes().starts_with(b"@"))
        {
            scope.remove(Scope::AbstractUnixSocket);
        }
        scope
    }

    fn rules(&self) -> Vec<(PathBuf, BitFlags<AccessFs>)> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let write = read
            | AccessFs::WriteFile
            | AccessFs::MakeReg
            | AccessFs::RemoveFile
            | AccessFs::Refer
            | AccessFs::Truncate;
        let mut rules = vec![
            (PathBuf::from("/proc"), read),
            // Which are online; whether a hook was switched off.
            (PathBuf::from("/sys/devices/system/cpu"), read),
            (PathBuf::from("/sys/kernel/debug/kprobes"), read),
            (PathBuf::from("/sys/kernel/mm/transparent_hugepage"), read),
        ];
        let groups = ["cgroup", "cgroup2"].into_iter().flat_map(mounts);
        rules.extend(groups.map(|mount| (mount, read)));
        rules.extend(self.reads.iter().map(|path| (path.clone(), read)));
        rules.extend(self.folders.iter().map(|folder| (folder.clone(), write)));
        rules
    }
}

/// Gives up what is not needed, for this thread and all that it makes; what could not be.
///
/// # Errors
/// When there are other threads already, or the kernel refuses to take a privilege.
pub fn confine(needs: &Needs) -> Result<Vec<String>, Failure> {
    let failed = |what: &str, why: String| {
        Failure::new(
            Why::Failed,
            format!("privileges cannot be given up: {what}: {why}; report it"),
        )
    };
    if !alone() {
        return Err(failed("threads", "there are some already, which would keep theirs".into()));
    }
    keep(needs.capabilities()).map_err(|e| failed("capset", e.to_string()))?;
    match landlocked(&needs.rules(), needs.scope()) {
        Ok(true) => Ok(Vec::new()),
        Ok(false) => Ok(vec![
            "this kernel has no Landlock: what may be read and written is not confined".into(),
        ]),
        Err(e) => Ok(vec![format!(
            "Landlock was refused ({e}): what may be read and written is not confined"
        )]),
    }
}

/// Of what is held keeps these, for good.
fn keep(wanted: CapabilitySet) -> rustix::io::Result<()> {
    set_no_new_privs(true)?;
    let keep = capabilities(None)?.permitted & wanted;
    // What a program that is executed could get; without CAP_SETPCAP it cannot be taken from it,
    // and no_new_privs keeps it from mattering.
    for capability in (CapabilitySet::all() - keep).iter() {
        let _ = remove_capability_from_bounding_set(capability);
    }
    let _ = clear_ambient_capability_set();
    let sets =
        CapabilitySets { effective: keep, permitted: keep, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets)
}

/// Keeps what reading takes: of files, or of other processes too. Those Landlock would deny, so
/// that it is for files alone.
///
/// # Errors
/// When the kernel refuses to take a privilege.
pub fn keep_for_reading(processes: bool) -> Result<(), String> {
    let files = CapabilitySet::DAC_READ_SEARCH;
    if processes {
        let others = CapabilitySet::SYS_PTRACE | CapabilitySet::CHECKPOINT_RESTORE;
        return keep(files | others).map_err(|e| e.to_string());
    }
    keep(files).map_err(|e| e.to_string())?;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    // Where it is refused, the confined side is refused it too, and says so.
    let _ = landlocked(&[(PathBuf::from("/"), read)], Scope::from_all(KNOWN));
    Ok(())
}

/// Confines this thread to paths; whether the kernel can.
fn landlocked(
    rules: &[(PathBuf, BitFlags<AccessFs>)],
    scope: BitFlags<Scope>,
) -> Result<bool, RulesetError> {
    // Nothing is connected to, and no further port listened at.
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?;
    if !scope.is_empty() {
        ruleset = ruleset.scope(scope)?;
    }
    let mut ruleset = ruleset.create()?;
    for (path, access) in rules {
        // What is not there needs no rule.
        let Ok(fd) = PathFd::new(path) else { continue };
        let access = if path.is_dir() { *access } else { *access & AccessFs::from_file(KNOWN) };
        ruleset = ruleset.add_rule(PathBeneath::new(fd, access))?;
    }
    Ok(ruleset.restrict_self()?.ruleset != RulesetStatus::NotEnforced)
}

/// The version of Landlock that this kernel has; `None` without it.
#[must_use]
pub fn landlock_version() -> Option<u32> {
    /// `LANDLOCK_CREATE_RULESET_VERSION` of include/uapi/linux/landlock.h.
    const VERSION: u32 = 1;
    // SAFETY: the kernel reads nothing where it is asked for the version.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION)
    };
    u32::try_from(version).ok().filter(|version| *version > 0)
}

/// Whether this is the only thread. One that was joined is still listed for a moment.
fn alone() -> bool {
    (0..100).any(|_| {
        let one = fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1);
        if !one {
            thread::sleep(std::time::Duration::from_millis(1));
        }
        one
    })
}

/// Whether /proc shows others' processes to those alone who may trace them.
fn processes_hidden() -> bool {
    mount_options("proc").iter().any(|(mount, options)| {
        mount == Path::new("/proc")
            && options
                .split(',')
                .filter_map(|option| option.strip_prefix("hidepid="))
                .any(|value| value != "0" && value != "off")
    })
}

fn writable_without_privilege(folder: &Path) -> bool {
    without_privilege(|| {
        use rustix::fs::{Access, AtFlags, CWD, accessat};
        accessat(CWD, folder, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_ok()
    })
    .unwrap_or(false)
}

/// What `ask` finds in a thread that has no capabilities.
///
/// # Errors
/// When there can be no such thread.
pub fn without_privilege<T: Send>(ask: impl FnOnce() -> T + Send) -> io::Result<T> {
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, || {
            set_capabilities(None, none)?;
            Ok(ask())
        })?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread broke")))
    })
}

/// The names of capabilities, as capabilities(7) has them.
#[must_use]
pub fn names(set: CapabilitySet) -> Vec<String> {
    set.iter_names().map(|(name, _)| format!("CAP_{name}")).collect()
}
