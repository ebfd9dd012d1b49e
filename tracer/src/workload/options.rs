//! What is to be made, and in what surroundings.

use std::path::PathBuf;
use std::time::Duration;

use super::flags::CloneFlags;
use super::{Kind, Part, snapshot};

/// Of a snapshot's server, unless told otherwise.
const REQUESTS_PER_SECOND: f64 = 10_000.0;

/// What to make, and in what surroundings.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// How the tasks are made, in turn.
    pub parts: Vec<Part>,
    /// How many creating calls each part makes, those that fail included (those of the warm-up
    /// come on top); at least one.
    pub count: u64,
    /// Ends it earlier.
    pub duration: Option<Duration>,
    /// What children do before they exit or execute.
    pub child: ChildWork,
    /// What `clone` and `clone3` are asked for; `None` is what each is described with.
    pub flags: Option<CloneFlags>,
    /// The parent.
    pub shape: Shape,
    /// What the parent writes.
    pub writes: Writes,
    /// When calls are made.
    pub load: Load,
    /// Governs what is in the pages, in which order they are touched (hence where they lie
    /// physically), which are written, and when calls arrive. Nothing else is left to chance.
    pub seed: u64,
    /// Where a line for each spawn goes.
    pub log: Option<PathBuf>,
}

/// The life of a child.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChildWork {
    /// What is executed by those that execute (but `system` and `popen`: a shell).
    pub program: Executable,
    /// Bytes of arguments after the program's name.
    pub argv_bytes: u64,
    /// Pages of the parent's memory that it writes.
    pub writes: Amount,
    /// Pages that it reads, from the first on.
    pub reads: Amount,
    /// How long it waits after that.
    pub hold: Duration,
}

/// What is executed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Executable {
    /// `/bin/true`, which a dynamic loader has to link first.
    #[default]
    Dynamic,
    /// A program of a few instructions, made in memory.
    Static,
    /// Another one.
    Path(PathBuf),
}

/// The parent's memory and what else a fork has to account for.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Bytes of anonymous memory (rounded up to pages).
    pub rss: u64,
    /// The share that is touched beforehand, and of this the share that is written; the rest
    /// is only read (private memory then maps the zero page).
    pub touched: f64,
    /// See `touched`.
    pub dirty: f64,
    /// Into how many mappings it is cut; `None` is as the layout has it.
    pub vmas: Option<u64>,
    /// How these lie.
    pub layout: Layout,
    /// Who shares it.
    pub sharing: Sharing,
    /// Whether it is in huge pages.
    pub huge_pages: HugePages,
    /// Idle threads, beyond those that spawn.
    pub threads: u32,
    /// Open descriptors beyond the usual.
    pub fds: u32,
    /// Bytes of environment that executed programs get.
    pub environment: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            rss: 0,
            touched: 1.0,
            dirty: 1.0,
            vmas: None,
            layout: Layout::Contiguous,
            sharing: Sharing::Private,
            huge_pages: HugePages::System,
            threads: 0,
            fds: 0,
            environment: 0,
        }
    }
}

/// Pages: so many, or a share of those that the parent wrote beforehand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// So many.
    Pages(u64),
    /// A share, from 0 to 1.
    Share(f64),
}

impl Default for Amount {
    fn default() -> Self {
        Self::Pages(0)
    }
}

impl Amount {
    /// Pages of so many.
    #[must_use]
    pub fn of(self, pages: u64) -> u64 {
        match self {
            Self::Pages(n) => n,
            Self::Share(share) => (pages as f64 * share).round() as u64,
        }
    }

    /// The share that it is of so many.
    pub(super) fn share_of(self, pages: u64) -> f64 {
        self.of(pages) as f64 / pages.max(1) as f64
    }

    /// Whether it is nothing at all.
    #[must_use]
    pub fn is_none(self) -> bool {
        self.of(u64::MAX) == 0
    }
}

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }
    };
}

names! {
    /// How the mappings lie.
    Layout {
        /// One after the other.
        #[default]
        Contiguous,
        /// Each followed by a hole of its own size; 16 pages each unless --vmas says how many.
        Fragmented,
    }
}
names! {
    /// Who shares the memory.
    Sharing {
        /// The child has a copy, made page by page as either writes.
        #[default]
        Private,
        /// Parent and child have the same (MAP_SHARED).
        Shared,
        /// The child has none of it (MADV_DONTFORK).
        Dontfork,
    }
}
names! {
    /// Transparent huge pages.
    HugePages {
        /// As the system's policy has it.
        #[default]
        System,
        /// Asked for (MADV_HUGEPAGE).
        Always,
        /// Forbidden (MADV_NOHUGEPAGE).
        Never,
    }
}
names! {
    /// Which pages are written, and in which order.
    Pattern {
        /// From the first on.
        #[default]
        Sequential,
        /// Each a page table (512 pages) further on than the last, until all are written.
        Strided,
        /// Each picked at random: some twice, some never.
        Random,
        /// As random, but a few are picked most of the time (Zipf's law, exponent 0.99).
        Zipf,
    }
}
names! {
    /// How calls of an open loop arrive.
    Arrival {
        /// At equal distances.
        #[default]
        Constant,
        /// At random, so many a second on average.
        Poisson,
    }
}

/// What the parent writes, each time it has made a child.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Writes {
    /// How much; with a random pattern so many writes, of which some hit the same page.
    pub amount: Amount,
    /// Which.
    pub pattern: Pattern,
    /// Pages a second; `None` is as fast as it goes.
    pub per_second: Option<f64>,
    /// Once the child has gone, and not while it waits for that.
    pub when_gone: bool,
}

/// When calls are made.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// Calls a second (open loop); `None` is one after the other (closed loop).
    pub per_second: Option<f64>,
    /// How they arrive.
    pub arrival: Arrival,
    /// Threads that make them; one is the program's first.
    pub concurrency: u32,
    /// Processors to stay on; empty is wherever.
    pub cpus: Vec<usize>,
    /// Calls of each part that are made first, and not timed.
    pub warm_up: u64,
    /// Share of a snapshot's requests that write.
    pub write_share: Option<f64>,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            per_second: None,
            arrival: Arrival::Constant,
            concurrency: 1,
            cpus: Vec::new(),
            warm_up: 0,
            write_share: None,
        }
    }
}

impl Options {
    /// `count` tasks made by `mechanism`, with nothing special around them.
    #[must_use]
    pub fn new(mechanism: Kind, count: u64) -> Self {
        Self {
            parts: vec![Part::usual(mechanism)],
            count,
            duration: None,
            child: ChildWork::default(),
            flags: None,
            shape: Shape::default(),
            writes: Writes::default(),
            load: Load::default(),
            seed: 0,
            log: None,
        }
    }

    /// The flags that a part's call is made with.
    #[must_use]
    pub fn flags(&self, kind: Kind) -> CloneFlags {
        match kind {
            Kind::Clone => self.flags.unwrap_or(CloneFlags::SHARED_FILES),
            Kind::Clone3 => self.flags.unwrap_or(CloneFlags::NONE),
            _ => CloneFlags::NONE,
        }
    }

    /// What is made, as on the command line.
    #[must_use]
    pub fn name(&self) -> String {
        let word = |part: &Part| match part.child == part.kind.default_child() {
            true => part.kind.name().to_owned(),
            false => format!("{}+{}", part.kind.name(), part.child.name()),
        };
        self.parts.iter().map(word).collect::<Vec<_>>().join(",")
    }

    /// Whether it is a server that saves.
    pub(super) fn saves(&self) -> bool {
        self.parts.iter().any(|part| part.kind == Kind::Snapshot)
    }

    /// What that server is to do.
    pub(super) fn server(&self) -> snapshot::Wanted {
        snapshot::Wanted {
            rate_per_s: self.load.per_second.unwrap_or(REQUESTS_PER_SECOND),
            arrival: self.load.arrival,
            saves: self.count,
            duration: self.duration,
            hold: self.child.hold,
            write_share: self.load.write_share.unwrap_or(0.5),
            seed: self.seed,
        }
    }

    /// Whether it can be told beforehand which writes are copied: not when several threads'
    /// children share the same pages, or when turns with and without a copy of the memory
    /// leave pages to each other.
    pub(super) fn writes_are_foreseen(&self) -> bool {
        if self.shape.rss > 0 && self.shape.sharing != Sharing::Private {
            return self.load.concurrency == 1;
        }
        let shares = |part: &Part| part.kind.shares_memory(self.flags(part.kind));
        let all = self.parts.iter().all(shares);
        if self.load.concurrency > 1 {
            return all;
        }
        let writes = !(self.writes.amount.is_none() && self.child.writes.is_none());
        !writes || all || !self.parts.iter().any(shares)
    }
}
