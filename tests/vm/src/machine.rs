//! A machine with nothing but a kernel, made fit for tests, and switched off.

use std::{
    ffi::{CStr, CString},
    fs::{self, OpenOptions},
    io::{self, Read as _},
    mem::MaybeUninit,
    os::unix::fs::OpenOptionsExt as _,
    ptr, thread,
    time::Duration,
};

/// What, of which type.
const MOUNTS: [(&str, &str); 5] = [
    ("/proc", "proc"),
    ("/sys", "sysfs"),
    ("/dev", "devtmpfs"),
    ("/tmp", "tmpfs"),
    ("/sys/fs/cgroup", "cgroup2"),
];
/// Of messages, to read with syslog(2)'s numbers: only emergencies go to the console.
const CONSOLE_LEVEL: libc::c_int = 8;
const EMERGENCIES: libc::c_int = 1;

/// Mounts what programs expect; tracefs is not among it.
pub fn prepare() -> Result<(), String> {
    for (place, kind) in MOUNTS {
        mount(place, kind).map_err(|error| format!("mount {place}: {error}"))?;
    }
    // Lines of the kernel would fall into the middle of ours.
    // SAFETY: this action takes no buffer.
    unsafe { libc::klogctl(CONSOLE_LEVEL, ptr::null_mut(), EMERGENCIES) };
    Ok(())
}

fn mount(place: &str, kind: &str) -> io::Result<()> {
    let (place, kind) = (CString::new(place)?, CString::new(kind)?);
    // SAFETY: strings that live until it returns, and no data.
    let result =
        unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, ptr::null()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The kernel's release and architecture.
pub fn kernel() -> String {
    let mut name = MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: a buffer of the right type, valid as zeros should the call fail.
    let name = unsafe {
        libc::uname(name.as_mut_ptr());
        name.assume_init()
    };
    let text = |field: &[libc::c_char]| {
        // SAFETY: the kernel ends its fields with a zero byte, and an empty one has it first.
        unsafe { CStr::from_ptr(field.as_ptr()) }.to_string_lossy().into_owned()
    };
    format!("{} {}", text(&name.release), text(&name.machine))
}

/// Lines of the kernel's log that should not be there.
pub fn complaints() -> Vec<String> {
    const SIGNS: [&str; 6] =
        ["WARNING:", "BUG:", "Oops", "general protection fault", "Call Trace:", "stall"];
    let mut lines = Vec::new();
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
    let Ok(mut log) = OpenOptions::new().read(true).custom_flags(flags).open("/dev/kmsg") else {
        return lines;
    };
    let mut record = [0; 8192];
    // A record a read, until there is none; one that was overwritten meanwhile is EPIPE.
    loop {
        match log.read(&mut record) {
            Ok(length) => {
                let text = String::from_utf8_lossy(&record[..length]).into_owned();
                let message = text.split_once(';').map_or("", |(_, message)| message);
                let message = message.lines().next().unwrap_or_default();
                if SIGNS.iter().any(|sign| message.contains(sign)) {
                    lines.push(message.to_owned());
                }
            }
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(_) => return lines,
        }
    }
}

/// What a suite has left in /tmp.
pub fn tidy() {
    let entries = fs::read_dir("/tmp").into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
    }
}

/// Waits until the serial line has sent what was said; what waits when the power goes is lost.
fn last_words() {
    // Bounded: tcdrain(3) would wait for ever for a line that sends no more.
    for _ in 0..500 {
        let mut waiting: libc::c_int = 0;
        // SAFETY: the argument is an integer that outlives the call.
        let done = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCOUTQ, &raw mut waiting) };
        if done != 0 || waiting == 0 {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    // What the device itself holds: sixteen characters or so.
    thread::sleep(Duration::from_millis(50));
}

/// Does not return.
pub fn power_off() -> ! {
    last_words();
    // SAFETY: no arguments.
    unsafe { libc::sync() };
    // SAFETY: no pointers; there is nothing left to lose.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
    loop {
        // SAFETY: no arguments.
        unsafe { libc::pause() };
    }
}
