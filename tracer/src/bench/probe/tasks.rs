//! Many tasks on one kernel thread, and as many kernel threads.

use std::{
    cell::Cell,
    rc::Rc,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::proc;

/// Enough for a thread that only waits.
const STACK_BYTES: usize = 64 << 10;

/// User-level tasks: all begun, none done, when the kernel's are counted.
pub(super) fn user(count: u64) -> Result<Value> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().build().context("a runtime of one thread")?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let gate = Rc::new(tokio::sync::Notify::new());
        let alive = Rc::new(Cell::new(0_u64));
        let tasks: Vec<_> = (0..count)
            .map(|_| {
                let (gate, alive) = (Rc::clone(&gate), Rc::clone(&alive));
                tokio::task::spawn_local(async move {
                    let opened = gate.notified();
                    alive.set(alive.get() + 1);
                    opened.await;
                    alive.set(alive.get() - 1);
                })
            })
            .collect();
        while alive.get() < count {
            tokio::task::yield_now().await;
        }
        let (made, kernel_tasks) = (alive.get(), proc::tasks()?);
        // Waits that were made but never polled would miss `notify_waiters`.
        tokio::task::yield_now().await;
        gate.notify_waiters();
        for task in tasks {
            task.await.context("a task was lost")?;
        }
        Ok(told(made, kernel_tasks))
    })
}

/// Threads: all begun, none done, when the kernel's are counted.
pub(super) fn threads(count: u64) -> Result<Value> {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let mut threads = Vec::new();
    let mut refused = None;
    for _ in 0..count {
        let gate = Arc::clone(&gate);
        let wait = move || {
            let open = gate.0.lock().unwrap_or_else(PoisonError::into_inner);
            drop(gate.1.wait_while(open, |open| !*open));
        };
        match thread::Builder::new().stack_size(STACK_BYTES).spawn(wait) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    let kernel_tasks = proc::tasks();
    *gate.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
    gate.1.notify_all();
    let made = threads.len() as u64;
    for thread in threads {
        let _ = thread.join();
    }
    match refused {
        Some(error) if made == 0 => Err(error).context("a thread"),
        _ => Ok(told(made, kernel_tasks?)),
    }
}

fn told(tasks: u64, kernel_tasks: u64) -> Value {
    json!({ "pid": std::process::id(), "tasks": tasks, "kernel_tasks": kernel_tasks })
}
