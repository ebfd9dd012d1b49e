//! The only code that knows which hook called. A new backend is a new file.

mod fentry;
mod kprobe;
mod tracepoint;

/// Runs it with the CPU held: a program can be preempted otherwise, and while one is, the kernel
/// skips it for every other task on the CPU.
macro_rules! undisturbed {
    ($logic:expr) => {{
        $crate::kernel::hold_cpu();
        $logic;
        $crate::kernel::release_cpu();
        0
    }};
}
use undisturbed;
