//! Who is confined can do what it still needs, and nothing of what an attacker who took it over
//! would try next.
//!
//! A program without the test harness: confinement takes a process of one thread.

use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::{
        fd::AsRawFd as _,
        linux::net::SocketAddrExt as _,
        unix::{
            fs::symlink,
            net::{SocketAddr, UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command},
};

use forkscope::confine::{Needs, confine, landlock_version};

/// What there is before anything is given up.
struct World {
    /// The output folder.
    out: PathBuf,
    /// A file of ours, elsewhere, that everyone may read and write.
    elsewhere: PathBuf,
    /// Another process of the same user.
    other: Child,
    listener: TcpListener,
    abstract_name: SocketAddr,
    _abstract_listener: UnixListener,
}

impl World {
    fn make() -> Self {
        let base = std::env::temp_dir().join(format!("forkscope-confined-{}", std::process::id()));
        let (out, elsewhere) = (base.join("out"), base.join("elsewhere"));
        fs::create_dir_all(&out).expect("a folder");
        fs::write(&elsewhere, "precious").expect("a file");
        let name = format!("forkscope-confined-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(name).expect("a name");
        Self {
            out,
            elsewhere,
            other: Command::new("sleep").arg("600").spawn().expect("sleep"),
            listener: TcpListener::bind("127.0.0.1:0").expect("a port"),
            _abstract_listener: UnixListener::bind_addr(&abstract_name).expect("a socket"),
            abstract_name,
        }
    }

    fn of_other(&self, what: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{what}", self.other.id()))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.other.kill();
        let _ = self.other.wait();
        let _ = fs::remove_dir_all(self.out.parent().expect("a folder above"));
    }
}

type Attempt = (&'static str, Box<dyn Fn(&World) -> io::Result<()>>);

fn attempt(name: &'static str, does: impl Fn(&World) -> io::Result<()> + 'static) -> Attempt {
    (name, Box::new(does))
}

fn checked(result: i64) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn read(path: impl AsRef<Path>) -> io::Result<()> {
    File::open(path)?.read(&mut [0; 64]).map(drop)
}

/// Opens for writing, and writes nothing.
fn write(path: impl AsRef<Path>) -> io::Result<()> {
    OpenOptions::new().write(true).open(path).map(drop)
}

fn path_of(path: &Path) -> CString {
    CString::new(path.as_os_str().as_encoded_bytes()).expect("no NUL")
}

/// The file handle of a path, before confinement or after: asking for it opens nothing.
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    data: [u8; 128],
}

fn by_handle(mount: &Path, path: &Path, flags: i32) -> io::Result<()> {
    let mut handle = Handle { bytes: 128, kind: 0, data: [0; 128] };
    let mut mount_id = 0_i32;
    let name = path_of(path);
    // SAFETY: a handle with room for as much as it says, and a path that ends.
    checked(unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            name.as_ptr(),
            &raw mut handle,
            &raw mut mount_id,
            0,
        )
    })?;
    let mount = OpenOptions::new().read(true).open(mount)?;
    // SAFETY: as above.
    let fd =
        unsafe { libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), &handle, flags) };
    checked(fd)
}

fn files() -> Vec<Attempt> {
    vec![
        attempt("make a file in /tmp", |_| File::create_new("/tmp/forkscope-was-here").map(drop)),
        attempt("make a file in /etc", |_| File::create_new("/etc/forkscope-was-here").map(drop)),
        attempt("write a file elsewhere", |w| write(&w.elsewhere)),
        attempt("truncate a file elsewhere", |w| {
            let path = path_of(&w.elsewhere);
            // SAFETY: a path that ends.
            checked(i64::from(unsafe { libc::truncate(path.as_ptr(), 0) }))
        }),
        attempt("remove a file elsewhere", |w| fs::remove_file(&w.elsewhere)),
        attempt("rename a file elsewhere into the folder", |w| {
            fs::rename(&w.elsewhere, w.out.join("taken"))
        }),
        attempt("link a file elsewhere into the folder", |w| {
            fs::hard_link(&w.elsewhere, w.out.join("linked"))
        }),
        attempt("make a symlink in the folder", |w| symlink("/etc", w.out.join("link"))),
        attempt("make a folder in the folder", |w| fs::create_dir(w.out.join("folder"))),
        attempt("read a file elsewhere", |w| read(&w.elsewhere)),
        attempt("read /etc/passwd", |_| read("/etc/passwd")),
        attempt("read /etc/passwd by /proc/self/root", |_| read("/proc/self/root/etc/passwd")),
        attempt("list /root", |_| fs::read_dir("/root").map(drop)),
        attempt("list /", |_| fs::read_dir("/").map(drop)),
        attempt("read a file elsewhere by its handle", |w| {
            by_handle(&w.out, &w.elsewhere, libc::O_RDONLY)
        }),
        attempt("write a file elsewhere by its handle", |w| {
            by_handle(&w.out, &w.elsewhere, libc::O_WRONLY)
        }),
        attempt("write /proc/sys/kernel/core_pattern", |_| write("/proc/sys/kernel/core_pattern")),
        attempt("write /proc/self/oom_score_adj", |_| write("/proc/self/oom_score_adj")),
        attempt("write to a disk", |_| {
            let disk = fs::read_dir("/sys/class/block")?.flatten().next();
            write(Path::new("/dev").join(disk.ok_or(io::ErrorKind::PermissionDenied)?.file_name()))
        }),
    ]
}

fn processes() -> Vec<Attempt> {
    let mut attempts = vec![
        attempt("ptrace", |w| {
            // SAFETY: attaching takes no memory of ours.
            checked(unsafe {
                libc::ptrace(libc::PTRACE_SEIZE, w.other.id() as i32, 0_usize, 0_usize)
            })
        }),
        attempt("process_vm_readv", |w| {
            let mut bytes = [0_u8; 8];
            let here = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: 8 };
            let there = libc::iovec { iov_base: 0x1000 as *mut libc::c_void, iov_len: 8 };
            // SAFETY: one buffer of ours; the other address is of the other process.
            let read = unsafe {
                libc::process_vm_readv(
                    w.other.id() as i32,
                    &raw const here,
                    1,
                    &raw const there,
                    1,
                    0,
                )
            };
            // EFAULT would say that it was allowed to look.
            checked(read as i64)
        }),
        attempt("take a descriptor of another", |w| {
            // SAFETY: no pointers.
            let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, w.other.id(), 0) };
            checked(pidfd)?;
            // SAFETY: as above.
            checked(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd, 0, 0) })
        }),
        attempt("signal another", |w| {
            // SAFETY: no pointers; signal 0 only asks.
            checked(i64::from(unsafe { libc::kill(w.other.id() as i32, 0) }))
        }),
        attempt("run a program", |_| Command::new("/bin/true").status().map(drop)),
    ];
    for what in ["maps", "mem", "environ", "smaps_rollup", "root/etc/passwd", "fd/0"] {
        attempts.push(attempt(what, move |w| read(w.of_other(what))));
    }
    attempts.push(attempt("exe", |w| fs::read_link(w.of_other("exe")).map(drop)));
    attempts
}

fn machine() -> Vec<Attempt> {
    vec![
        attempt("connect by TCP", |w| {
            TcpStream::connect(w.listener.local_addr().expect("an address")).map(drop)
        }),
        attempt("listen at a port", |_| TcpListener::bind("127.0.0.1:0").map(drop)),
        attempt("connect to an abstract socket", |w| {
            UnixStream::connect_addr(&w.abstract_name).map(drop)
        }),
        attempt("mount", |w| mount_on(&w.out)),
        attempt("chroot", |w| std::os::unix::fs::chroot(&w.out)),
        attempt("become another user", |_| {
            // SAFETY: no pointers.
            checked(i64::from(unsafe { libc::setresuid(1234, 1234, 1234) }))
        }),
        attempt("set the clock", |_| {
            let now = libc::timespec { tv_sec: 1, tv_nsec: 0 };
            // SAFETY: a time of ours.
            checked(i64::from(unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const now) }))
        }),
        attempt("count on all CPUs", |_| {
            // A `perf_event_attr` of the first size: type software (1), config 0, the CPU clock.
            let mut attr = [0_u32; 16];
            (attr[0], attr[1]) = (1, 64);
            // SAFETY: the kernel reads as much as `attr` says that it has.
            checked(unsafe {
                libc::syscall(libc::SYS_perf_event_open, attr.as_ptr(), -1, 0, -1, 0)
            })
        }),
        attempt("a BPF program of another by its number", |_| {
            // BPF_PROG_GET_FD_BY_ID
            let attr = [1_u32; 1];
            // SAFETY: as above.
            checked(unsafe { libc::syscall(libc::SYS_bpf, 13, attr.as_ptr(), 4) })
        }),
        // The last: it changes who the child is.
        attempt("mount, in a user namespace of its own", |w| {
            // SAFETY: no pointers. This child is gone after the attempts.
            checked(i64::from(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) }))?;
            mount_on(&w.out)
        }),
    ]
}

fn mount_on(folder: &Path) -> io::Result<()> {
    let folder = path_of(folder);
    // SAFETY: strings that end.
    checked(i64::from(unsafe {
        libc::mount(c"none".as_ptr(), folder.as_ptr(), c"tmpfs".as_ptr(), 0, std::ptr::null())
    }))
}

/// What tracing goes on to need.
fn needed() -> Vec<Attempt> {
    vec![
        attempt("read /proc/1/stat", |_| read("/proc/1/stat")),
        attempt("read /proc/1/cmdline", |_| read("/proc/1/cmdline")),
        attempt("read which CPUs are online", |_| read("/sys/devices/system/cpu/online")),
        attempt("list control groups", |_| match cgroup_mount() {
            Some(mount) => fs::read_dir(mount).map(drop),
            None => Ok(()),
        }),
        attempt("a control group by its handle", |_| match cgroup_mount() {
            Some(mount) => by_handle(&mount, &mount, libc::O_PATH),
            None => Ok(()),
        }),
        attempt("make, rename and remove files in the folder", |w| {
            let (one, two) = (w.out.join("one"), w.out.join("two"));
            File::create_new(&one)?.write_all(b"x")?;
            fs::rename(&one, &two)?;
            read(&two)?;
            fs::remove_file(&two)
        }),
    ]
}

fn cgroup_mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
    Some(mount.split(' ').nth(1)?.into())
}

/// In a child that is confined: what each attempt came to, a line each.
fn told(world: &World, needs: &Needs, attempts: &[Attempt]) -> Vec<(String, Option<i32>)> {
    let (mut reader, mut writer) = io::pipe().expect("a pipe");
    // SAFETY: this process has one thread.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let code = match confine(needs) {
            Ok(notes) if notes.is_empty() => {
                for (name, does) in attempts {
                    let errno = does(world).err().map(|e| e.raw_os_error().unwrap_or(-1));
                    let _ = writeln!(writer, "{name}\t{}", errno.unwrap_or(0));
                }
                0
            }
            other => {
                let _ = writeln!(io::stderr(), "{:?}", other.map_err(|e| e.to_string()));
                1
            }
        };
        // SAFETY: never returns; nothing of the parent's is undone.
        unsafe { libc::_exit(code) }
    }
    assert!(child > 0, "{}", io::Error::last_os_error());
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("text");
    let mut status = 0;
    // SAFETY: our own child.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0, "the child; it told: {text}");
    let line = |line: &str| {
        let (name, errno) = line.split_once('\t').expect("two fields");
        let errno: i32 = errno.parse().expect("a number");
        (name.to_string(), (errno != 0).then_some(errno))
    };
    let told: Vec<_> = text.lines().map(line).collect();
    assert_eq!(told.len(), attempts.len(), "{told:?}");
    told
}

/// Each is refused, and for want of permission: without confinement it would have come to pass, or
/// failed otherwise.
fn all_refused(world: &World, needs: &Needs, attempts: &[Attempt]) {
    let allowed: Vec<_> = told(world, needs, attempts)
        .into_iter()
        .filter(|(_, errno)| !matches!(errno, Some(libc::EACCES | libc::EPERM | libc::EXDEV)))
        .collect();
    assert!(allowed.is_empty(), "not refused: {allowed:?}");
    assert_eq!(fs::read(&world.elsewhere).expect("it is there"), b"precious");
}

fn in_folder(world: &World) -> Needs {
    Needs { folders: vec![world.out.clone()], ..Needs::default() }
}

fn what_it_needs_it_may(world: &World) {
    let refused: Vec<_> = told(world, &in_folder(world), &needed())
        .into_iter()
        .filter(|(_, errno)| errno.is_some())
        .collect();
    assert!(refused.is_empty(), "{refused:?}");
}

fn other_files_are_out_of_reach(world: &World) {
    all_refused(world, &in_folder(world), &files());
    // Nor with what `serve --filters` keeps.
    let loads = Needs { loads: true, reads: vec!["/sys/kernel".into()], ..in_folder(world) };
    all_refused(world, &loads, &files());
}

fn other_processes_are_out_of_reach(world: &World) {
    all_refused(world, &in_folder(world), &processes());
    // Who has a COMMAND may send signals, and no more.
    let signals = Needs { signals: true, ..in_folder(world) };
    let attempts: Vec<_> =
        processes().into_iter().filter(|(name, _)| *name != "signal another").collect();
    all_refused(world, &signals, &attempts);
}

fn the_machine_is_out_of_reach(world: &World) {
    all_refused(world, &in_folder(world), &machine());
}

/// An attempt that fails before anything is given up would prove nothing.
fn without_confinement_attempts_succeed(world: &World) {
    for name in ["read a file elsewhere", "read a file elsewhere by its handle", "list /"] {
        let (_, does) = files().into_iter().find(|(one, _)| *one == name).expect("the attempt");
        does(world).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    for name in ["maps", "environ", "exe", "signal another", "run a program"] {
        let (_, does) = processes().into_iter().find(|(one, _)| *one == name).expect("it");
        does(world).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    for name in ["connect by TCP", "listen at a port", "connect to an abstract socket"] {
        let (_, does) = machine().into_iter().find(|(one, _)| *one == name).expect("it");
        does(world).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

type Test = (&'static str, fn(&World));

/// As the harness prints it.
fn main() {
    let tests: [Test; 5] = [
        ("without_confinement_attempts_succeed", without_confinement_attempts_succeed),
        ("what_it_needs_it_may", what_it_needs_it_may),
        ("other_files_are_out_of_reach", other_files_are_out_of_reach),
        ("other_processes_are_out_of_reach", other_processes_are_out_of_reach),
        ("the_machine_is_out_of_reach", the_machine_is_out_of_reach),
    ];
    let words: Vec<String> = std::env::args().skip(1).collect();
    let filters: Vec<_> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let chosen = |name: &str| filters.is_empty() || filters.iter().any(|f| name.contains(&**f));
    let listed = words.iter().any(|word| word == "--list");
    // SAFETY: no arguments.
    let root = unsafe { libc::geteuid() } == 0;
    let world = (root && !listed).then(World::make);
    let mut passed = 0;
    for (name, test) in tests.into_iter().filter(|(name, _)| chosen(name)) {
        if listed {
            println!("{name}: test");
            continue;
        }
        print!("test {name} ... ");
        let _ = io::stdout().flush();
        match &world {
            None => println!("skipped: confinement is tried as root"),
            // ABI 6 has signals and abstract sockets.
            Some(_) if landlock_version().is_none_or(|version| version < 6) => {
                println!("skipped: this kernel's Landlock is older than what is tried");
            }
            Some(world) => test(world),
        }
        println!("ok");
        passed += 1;
    }
    if !listed {
        println!("\ntest result: ok. {passed} passed; 0 failed; 0 ignored; 0 measured");
    }
}
