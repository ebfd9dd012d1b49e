//! The only code that knows which hook called. A new backend is a new file.

mod fentry;
mod kprobe;
mod tracepoint;
