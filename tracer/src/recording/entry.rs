//! Records as they are read back: everything borrowed from the line, nothing assumed that a
//! newer version might not keep.

#![expect(missing_docs, reason = "each field is that of the record it is named after")]
use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, de::Visitor};

use crate::{
    container,
    record::{Counters, CowLatency, CurvePoint, LostTotals},
};

/// Text of a line, borrowed from it unless it had to be unescaped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Text<'a>(pub Cow<'a, str>);

impl std::ops::Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

// serde borrows a `Cow` only where a field says so, and never inside an `Option`.
impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowing;
        impl<'de> Visitor<'de> for Borrowing {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrowing)
    }
}

/// [`crate::record::Parent`]
#[derive(Debug, Deserialize)]
pub struct Parent<'a> {
    pub pid: u32,
    pub tid: u32,
    #[serde(borrow)]
    pub comm: Text<'a>,
    pub start_time: u64,
}

/// [`crate::record::Child`]
#[derive(Debug, Deserialize)]
pub struct Child {
    pub pid: u32,
    pub tid: u32,
    pub ns_pid: Option<u32>,
    pub start_time: u64,
}

/// [`crate::container::Described`]
#[derive(Debug, Deserialize)]
pub struct Container<'a> {
    #[serde(borrow)]
    pub runtime: Option<Text<'a>>,
    #[serde(borrow)]
    pub id: Text<'a>,
    #[serde(borrow)]
    pub pod: Option<Text<'a>>,
    #[serde(borrow)]
    pub name: Option<Text<'a>>,
    #[serde(borrow)]
    pub image: Option<Text<'a>>,
    #[serde(borrow)]
    pub pod_name: Option<Text<'a>>,
    #[serde(borrow)]
    pub namespace: Option<Text<'a>>,
}

impl Container<'_> {
    /// What people call it, if the record says: in a pod with the pod's name.
    #[must_use]
    pub fn label(&self) -> Option<String> {
        container::label(self.pod_name.as_deref(), self.name.as_deref())
    }
}

/// [`crate::record::Spawn`]
#[derive(Debug, Deserialize)]
pub struct Spawn<'a> {
    #[serde(borrow)]
    pub time: Text<'a>,
    #[serde(borrow)]
    pub mechanism: Text<'a>,
    #[serde(borrow)]
    pub syscall: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub clone_flags: Vec<Text<'a>>,
    #[serde(borrow)]
    pub parent: Parent<'a>,
    pub child: Child,
    pub uid: Option<u32>,
    #[serde(borrow)]
    pub cgroup: Option<Text<'a>>,
    #[serde(borrow)]
    pub container: Option<Container<'a>>,
    pub latency_ns: Option<u64>,
    pub blocked_ns: Option<u64>,
    pub copy_ns: Option<u64>,
    pub start_delay_ns: Option<u64>,
    pub parent_rss_bytes: Option<u64>,
    pub parent_page_table_bytes: Option<u64>,
    pub parent_vmas: Option<u32>,
    pub parent_threads: Option<u32>,
    #[serde(default)]
    pub lossy: bool,
}

/// [`crate::record::SpawnUpdate`]
#[derive(Debug, Deserialize)]
pub struct SpawnUpdate<'a> {
    #[serde(borrow)]
    pub time: Text<'a>,
    pub child: Child,
    pub latency_ns: Option<u64>,
    pub blocked_ns: Option<u64>,
    pub start_delay_ns: Option<u64>,
}

/// [`crate::record::SpawnFailure`]
#[derive(Debug, Deserialize)]
pub struct SpawnFailure<'a> {
    #[serde(borrow)]
    pub time: Text<'a>,
    #[serde(borrow)]
    pub parent: Parent<'a>,
    #[serde(borrow)]
    pub syscall: Option<Text<'a>>,
    #[serde(borrow)]
    pub clone_flags: Option<Vec<Text<'a>>>,
    #[serde(borrow)]
    pub errno: Text<'a>,
    pub uid: Option<u32>,
    #[serde(borrow)]
    pub cgroup: Option<Text<'a>>,
    #[serde(borrow)]
    pub container: Option<Container<'a>>,
    #[serde(default)]
    pub lossy: bool,
}

/// [`crate::record::Exec`]
#[derive(Debug, Deserialize)]
pub struct Exec<'a> {
    #[serde(borrow)]
    pub time: Text<'a>,
    pub pid: u32,
    pub tid: u32,
    pub old_tid: Option<u32>,
    pub ppid: Option<u32>,
    pub start_time: u64,
    #[serde(borrow)]
    pub comm: Text<'a>,
    #[serde(borrow)]
    pub filename: Option<Text<'a>>,
    #[serde(borrow)]
    pub argv: Option<Vec<Text<'a>>>,
    #[serde(default)]
    pub argv_truncated: bool,
    #[serde(borrow)]
    pub errno: Option<Text<'a>>,
    pub latency_ns: Option<u64>,
    pub prepare_ns: Option<u64>,
    pub replace_ns: Option<u64>,
    pub load_ns: Option<u64>,
    pub since_spawn_ns: Option<u64>,
    #[serde(borrow)]
    pub mechanism: Option<Text<'a>>,
    pub uid: Option<u32>,
    #[serde(borrow)]
    pub cgroup: Option<Text<'a>>,
    #[serde(borrow)]
    pub container: Option<Container<'a>>,
    #[serde(default)]
    pub lossy: bool,
}

/// [`crate::record::Exit`]
#[derive(Debug, Deserialize)]
pub struct Exit<'a> {
    #[serde(borrow)]
    pub time: Text<'a>,
    pub pid: u32,
    pub tid: u32,
    pub ppid: Option<u32>,
    pub start_time: u64,
    #[serde(borrow)]
    pub comm: Text<'a>,
    #[serde(borrow)]
    pub argv: Option<Vec<Text<'a>>>,
    pub uid: Option<u32>,
    #[serde(borrow)]
    pub cgroup: Option<Text<'a>>,
    #[serde(borrow)]
    pub container: Option<Container<'a>>,
    pub exit_code: Option<u32>,
    #[serde(borrow)]
    pub signal: Option<Text<'a>>,
    #[serde(default)]
    pub core_dumped: bool,
    pub lifetime_ns: Option<u64>,
    pub group_dead: bool,
    #[serde(borrow)]
    pub mechanism: Option<Text<'a>>,
    #[serde(default)]
    pub lossy: bool,
}

/// [`crate::record::CowSide`]
#[derive(Debug, Deserialize)]
pub struct CowSide<'a> {
    pub pid: u32,
    #[serde(borrow)]
    pub comm: Text<'a>,
    pub start_time: u64,
    pub faults: u64,
    pub copied: u64,
    pub reused: u64,
    pub copied_bytes: u64,
    pub stall_ns: Option<u64>,
}

/// [`crate::record::Ledger`]
#[derive(Debug, Deserialize)]
pub struct Ledger<'a> {
    #[serde(borrow)]
    pub time: Text<'a>,
    #[serde(borrow)]
    pub parent: CowSide<'a>,
    #[serde(borrow)]
    pub child: CowSide<'a>,
    #[serde(borrow)]
    pub end: Text<'a>,
    pub duration_ns: u64,
    pub overlapping: bool,
    #[serde(default)]
    pub carried_over: u64,
    #[serde(default)]
    pub huge_splits: u64,
    pub hugetlb_copied_bytes: Option<u64>,
    #[serde(default)]
    pub latency: CowLatency,
    #[serde(default)]
    pub curve: Vec<CurvePoint>,
    #[serde(default)]
    pub lossy: bool,
}

/// [`crate::record::CowFault`]
#[derive(Debug, Deserialize)]
pub struct CowFault<'a> {
    #[serde(borrow)]
    pub time: Text<'a>,
    pub pid: u32,
    pub tid: u32,
    pub start_time: u64,
    #[serde(borrow)]
    pub role: Text<'a>,
    #[serde(borrow)]
    pub outcome: Text<'a>,
    #[serde(borrow)]
    pub address: Text<'a>,
    pub latency_ns: u64,
}

/// [`crate::record::Lost`]
#[derive(Debug, Deserialize)]
pub struct Lost<'a> {
    #[serde(borrow)]
    pub time: Text<'a>,
    #[serde(borrow)]
    pub stage: Text<'a>,
    pub count: u64,
}

/// [`crate::record::MeasureNote`]
#[derive(Clone, Debug, Deserialize)]
pub struct Measure {
    pub by: Option<String>,
    pub state: String,
    pub sampling_period: Option<u32>,
    pub why: Option<String>,
}

/// [`crate::record::Header`]
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Header {
    pub schema: u32,
    pub version: String,
    pub host: String,
    pub kernel: String,
    pub arch: String,
    pub backend: String,
    pub boot_id: String,
    pub time: String,
    pub session: Option<String>,
    pub piece: Option<u32>,
    #[serde(default)]
    pub measures: BTreeMap<String, Measure>,
}

/// [`crate::record::Distribution`]: what the histogram itself does not hold.
#[derive(Debug, Deserialize)]
pub struct Distribution {
    pub count: u64,
    pub mean_ns: u64,
    pub hdr: String,
}

/// [`crate::record::Histograms`]
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Histograms {
    pub spawn_latency: BTreeMap<String, Distribution>,
    pub blocked: BTreeMap<String, Distribution>,
    pub start_delay: BTreeMap<String, Distribution>,
    pub copy: Option<Distribution>,
    pub exec_latency: Option<Distribution>,
    pub since_spawn: Option<Distribution>,
    pub lifetime: Option<Distribution>,
    pub cow_fault: BTreeMap<String, Distribution>,
}

impl Histograms {
    /// Those that there are: metric, label (a mechanism or a role), histogram.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, Option<&str>, &Distribution)> {
        let Self {
            spawn_latency,
            blocked,
            start_delay,
            copy,
            exec_latency,
            since_spawn,
            lifetime,
            cow_fault,
        } = self;
        let labelled = [
            ("spawn_latency", spawn_latency),
            ("blocked", blocked),
            ("start_delay", start_delay),
            ("cow_fault", cow_fault),
        ];
        let plain = [
            ("copy", copy),
            ("exec_latency", exec_latency),
            ("since_spawn", since_spawn),
            ("lifetime", lifetime),
        ];
        let labelled = labelled.into_iter().flat_map(|(metric, by)| {
            by.iter().map(move |(label, found)| (metric, Some(&**label), found))
        });
        let plain = plain.into_iter();
        labelled.chain(plain.filter_map(|(metric, found)| Some((metric, None, found.as_ref()?))))
    }
}

/// [`crate::record::Summary`]
#[derive(Debug, Deserialize)]
pub struct Summary {
    pub duration_ns: u64,
    #[serde(default)]
    pub continues: bool,
    pub counters: Counters,
    pub lost: LostTotals,
    pub histograms: Histograms,
}
