//! What is refused, before anything is made.

use anyhow::{Result, bail};

use super::options::{
    ChildWork, Executable, HugePages, Layout, Options, Pattern, Shape, Sharing, Writes,
};
use super::{Child, Kind, Part, memory, signal};

impl Options {
    /// Refuses what cannot be done here, before anything is made.
    ///
    /// # Errors
    /// One line that says why.
    pub fn check(&self) -> Result<()> {
        self.make_sense()?;
        memory::check_mappings(&self.shape)?;
        memory::check(self)
    }

    /// Refuses what could not be done anywhere.
    ///
    /// # Errors
    /// One line that says why.
    pub fn make_sense(&self) -> Result<()> {
        if self.count == 0 {
            bail!("a count of 0 makes nothing: give at least 1");
        }
        let most = signal::SLOTS as u32;
        if self.load.concurrency == 0 || self.load.concurrency > most {
            bail!("--concurrency {}: give 1 to {most}", self.load.concurrency);
        }
        let parts = || self.parts.iter().map(|part| part.kind);
        if self.saves() {
            self.check_server()?;
        }
        if self.flags.is_some() && !parts().any(|kind| matches!(kind, Kind::Clone | Kind::Clone3)) {
            bail!("--flags: only clone and clone3 take any; choose one of them");
        }
        for part in &self.parts {
            self.check_part(*part)?;
        }
        self.check_unused()?;
        let Writes { amount, pattern, per_second, when_gone } = &self.writes;
        if amount.is_none() && (per_second.is_some() || *when_gone) {
            bail!("--write-rate and --when-gone say how the parent writes: give --parent-writes");
        }
        let dirty = self.shape.dirty_pages();
        for (flag, wanted, repeats) in [
            ("--parent-writes", amount, matches!(pattern, Pattern::Random | Pattern::Zipf)),
            (
                "--child-writes",
                &self.child.writes,
                matches!(pattern, Pattern::Random | Pattern::Zipf),
            ),
            ("--child-reads", &self.child.reads, false),
        ] {
            let pages = wanted.of(dirty);
            if pages > 0 && dirty == 0 {
                bail!("{flag}: the parent has no written memory; give --rss (and --dirty)");
            }
            if pages > dirty && !repeats {
                bail!("{flag} {pages}: the parent has {dirty} written pages; ask for fewer");
            }
            if pages > 100_000_000 {
                bail!("{flag} {pages}: more than 100 million writes for each child; ask for fewer");
            }
        }
        Ok(())
    }

    /// What would be passed over without a word.
    fn check_unused(&self) -> Result<()> {
        let usual = Shape::default();
        let shape = &self.shape;
        let executes = self.parts.iter().any(|part| part.child == Child::Exec);
        let executed = self.child.program != Executable::Dynamic || self.child.argv_bytes > 0;
        if !executes && (executed || shape.environment > 0) {
            bail!(
                "--exec, --argv-size and --environment: no child executes anything; give \
                 --child exec, or fork+exec"
            );
        }
        let plain = Shape {
            rss: 0,
            threads: usual.threads,
            fds: usual.fds,
            environment: usual.environment,
            // What is not there is in no huge pages.
            huge_pages: match shape.huge_pages {
                HugePages::Never => HugePages::System,
                other => other,
            },
            ..shape.clone()
        };
        if shape.rss == 0 && plain != usual {
            bail!("the parent has no memory to shape: give --rss");
        }
        if let Some(vmas) = shape.vmas.filter(|vmas| *vmas > shape.pages()) {
            bail!("--vmas {vmas}: there are {} pages; give more --rss", shape.pages());
        }
        let cut = shape.layout == Layout::Fragmented || shape.sharing == Sharing::Shared;
        if shape.huge_pages == HugePages::Always && cut {
            bail!("--huge-pages always: not in fragments, nor in shared memory; leave one out");
        }
        Ok(())
    }

    fn check_server(&self) -> Result<()> {
        if self.parts.len() > 1 {
            bail!("snapshot is a server, and takes no turns with others: give it alone");
        }
        let Shape { rss, touched, dirty, vmas, layout, sharing, .. } = &self.shape;
        let whole = (*touched, *dirty, *vmas, *layout, *sharing)
            == (1.0, 1.0, None, Layout::Contiguous, Sharing::Private);
        if *rss == 0 || !whole {
            bail!(
                "snapshot keeps a store in one piece of private memory: give --rss, and leave out \
                 --touched, --dirty, --vmas, --layout and --memory"
            );
        }
        let ChildWork { program: _, argv_bytes: _, writes, reads, hold: _ } = &self.child;
        let plain = writes.is_none() && reads.is_none() && self.writes == Writes::default();
        if !plain || self.load.concurrency > 1 || self.load.warm_up > 0 {
            bail!(
                "snapshot decides itself what is read and written: leave out the writes, the \
                 reads, --pattern, --concurrency and --warm-up"
            );
        }
        if self.parts[0].child == Child::Exec {
            bail!("snapshot's child saves: leave out exec");
        }
        Ok(())
    }

    fn check_part(&self, Part { kind, child }: Part) -> Result<()> {
        let name = kind.name();
        let flags = self.flags(kind);
        match (kind, child) {
            (Kind::Thread, Child::Exec) => {
                bail!("a thread makes no child that could exec: leave out exec, or choose fork");
            }
            (Kind::PosixSpawn | Kind::System | Kind::Popen, Child::Exit) => {
                bail!("{name} always executes a program: leave out exit, or choose fork");
            }
            _ => {}
        }
        if flags.is_thread() && child == Child::Exec {
            bail!("CLONE_THREAD: an exec would replace the generator itself; leave out exec");
        }
        if flags.need_clone3() && kind == Kind::Clone {
            bail!("CLONE_NEWTIME and CLONE_CLEAR_SIGHAND: only clone3 takes them; choose clone3");
        }
        let work = &self.child;
        let idle = work.writes.is_none() && work.reads.is_none() && work.hold.is_zero();
        if kind.leaves_no_child() && !idle {
            bail!(
                "{name} leaves its child no time before it executes: choose fork, vfork or clone"
            );
        }
        if matches!(kind, Kind::System | Kind::Popen)
            && (work.program != Executable::Dynamic || work.argv_bytes > 0)
        {
            bail!("{name} executes a shell: leave out --exec and --argv-size");
        }
        if matches!(kind, Kind::System | Kind::Popen) && self.shape.environment > 0 {
            bail!("{name} executes a shell with the environment that there is: set it before");
        }
        if self.shape.sharing == Sharing::Dontfork
            && !kind.shares_memory(flags)
            && !(work.writes.is_none() && work.reads.is_none())
        {
            bail!("--memory dontfork: a child of {name} has none of that memory to read or write");
        }
        Ok(())
    }
}
