//! Ledgers of programs that people run, held against what these say of themselves, and against
//! the kernel's own count of their minor faults.

mod redis;
mod servers;
