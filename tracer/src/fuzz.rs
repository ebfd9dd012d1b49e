//! Doors for `tests/fuzz` to what nobody else calls from outside. No part of the API.

use std::{
    io::{self, Read},
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    failure::Failure,
    kernel::host,
    plan::Filters,
    profile::{room, symbols, watch},
    recording::{self, Reader},
    serve::{
        desk::{Desk, Snapshot},
        http,
        model::{Family, Metrics, Unit},
    },
};

/// A recording as [`Reader::open`] takes it from a file, compressed or not.
///
/// # Errors
/// Those of the beginning of a compressed stream.
pub fn reader(raw: Box<dyn Read>) -> io::Result<Reader> {
    Ok(Reader::new("fuzzed".into(), recording::unpacked(raw)?))
}

/// The filters in a file of them.
///
/// # Errors
/// Those of a user's file.
pub fn filters(text: &str) -> Result<Filters, Failure> {
    crate::cli::serve::parse(text)?.validated(false)
}

/// The functions of an executable file with their names for people, and a name for an offset.
#[must_use]
pub fn functions(file: &[u8], offset: u64) -> Vec<String> {
    symbols::names(io::Cursor::new(file), offset)
}

/// A mangled name for people.
#[must_use]
pub fn demangled(name: &str) -> String {
    symbols::demangled(name)
}

/// Mount points of control groups, and the paths of a process in them.
#[must_use]
pub fn cgroups(text: &str) -> (Vec<PathBuf>, [Option<String>; 2]) {
    let mounts = text
        .lines()
        .flat_map(|line| ["cgroup", "cgroup2", "tracefs"].map(|kind| host::mount_of(line, kind)));
    let (v2, v1) = room::paths(text);
    (mounts.flatten().map(|(path, _)| path).collect(), [v2, v1].map(|path| path.map(Into::into)))
}

/// Everything that is read of single files about the machine; how many CPUs a list has.
pub fn machine(text: &str) -> usize {
    let _ = (host::chosen_word(text), host::physical_bits(text), host::hugetlb_bytes(text));
    let _ = (host::memory_end(text), host::highest_cpu(text));
    for key in ["MemAvailable", "CommitLimit", "Rss", "inactive_file"] {
        let _ = (room::meminfo(text, key), room::value(text, key), watch::kilobytes(text, key));
    }
    host::cpus_in(text).len()
}

/// What the daemon answers on one connection, with a metric of each kind.
pub async fn answer<S: AsyncRead + AsyncWrite + Unpin>(stream: S) {
    let desk = Arc::new(Desk::new());
    let family = |name, metrics| Family { name, help: "What it is.", unit: None, metrics };
    let hostile = vec![("comm", "a\"b\\c\nd\u{fffd}".to_string())];
    let families = vec![
        Family {
            unit: Some(Unit::Bytes),
            ..family("fuzzed_copied", Metrics::Counters(vec![(hostile.clone(), u64::MAX)]))
        },
        family("fuzzed_build", Metrics::Infos(vec![hostile])),
    ];
    let loop_of_the_session = async {
        loop {
            desk.bell.notified().await;
            desk.beat();
            let (families, troubles) = (families.clone(), vec!["a trouble".into()]);
            desk.publish(Snapshot { as_of: Instant::now(), families, troubles });
        }
    };
    tokio::select! {
        () = http::answer(stream, Arc::clone(&desk)) => {}
        () = loop_of_the_session => {}
    }
}
