//! How busy others kept the machine while something was measured.

use std::{fs, time::Duration};

/// More than this of all CPUs' time, and figures are not to be trusted to a tenth.
const MUCH: f64 = 0.1;

/// How the note on it begins.
const BEGINS: &str = "others had ";

/// Whether there is such a note.
pub fn is_told(notes: &[String]) -> bool {
    notes.iter().any(|note| note.starts_with(BEGINS))
}

/// CPU time so far, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Noise {
    /// Of all CPUs: spent on anything, and in all.
    busy: f64,
    all: f64,
    /// Of it by this process and those that it has waited for, with theirs.
    own: f64,
}

impl Noise {
    /// As it is now; `None` where the kernel does not say.
    pub fn now() -> Option<Self> {
        let (busy, all) = spent(&fs::read_to_string("/proc/stat").ok()?)?;
        // SAFETY: no pointers.
        let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        let seconds = |ticks_spent: u64| ticks_spent as f64 / ticks.max(1) as f64;
        let own = [libc::RUSAGE_SELF, libc::RUSAGE_CHILDREN].map(used).iter().sum::<Duration>();
        Some(Self { busy: seconds(busy), all: seconds(all), own: own.as_secs_f64() })
    }

    /// The share of all CPUs' time that others had since then.
    fn share_since(self, before: Self) -> Option<f64> {
        let (busy, own) = (self.busy - before.busy, self.own - before.own);
        let all = self.all - before.all;
        (all > 0.0).then(|| ((busy - own) / all).clamp(0.0, 1.0))
    }

    /// A note on it, where it matters.
    pub fn note_since(self, before: Self) -> Option<String> {
        let share = self.share_since(before).filter(|share| *share > MUCH)?;
        Some(format!(
            "{BEGINS}{:.0} % of the CPUs' time meanwhile: times are longer than on an idle \
             machine, and vary more",
            share * 100.0
        ))
    }
}

/// CPU time of this process, or of its children.
fn used(who: i32) -> Duration {
    // SAFETY: plain data, for which zero is valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is writable.
    if unsafe { libc::getrusage(who, &raw mut usage) } != 0 {
        return Duration::ZERO;
    }
    let time = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// Ticks of all CPUs: spent on anything, and in all. What a hypervisor took counts as spent.
fn spent(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    // user nice system idle iowait irq softirq steal; guests are in user and nice.
    let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|n| n.parse().ok()).collect();
    let idle = ticks.get(3)? + ticks.get(4)?;
    let all: u64 = ticks.iter().sum();
    Some((all - idle, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_read() {
        for (stat, expected) in [
            ("cpu  10 1 20 100 5 1 2 3 9 9\ncpu0 1 1 1 1\n", Some((37, 142))),
            ("cpu  10 1 20 100 5\n", Some((31, 136))),
            ("cpu  10 1\n", None),
            ("intr 5\n", None),
        ] {
            assert_eq!(spent(stat), expected);
        }
    }

    #[test]
    fn what_others_had_is_told_where_it_matters() {
        let at = |busy, all, own| Noise { busy, all, own };
        for (after, share, said) in [
            (at(10.0, 20.0, 10.0), Some(0.0), false),
            (at(10.0, 20.0, 9.0), Some(0.05), false),
            (at(18.0, 20.0, 8.0), Some(0.5), true),
            (at(10.0, 20.0, 10.4), Some(0.0), false),
            (at(0.0, 0.0, 0.0), None, false),
        ] {
            let before = Noise::default();
            assert_eq!(after.share_since(before), share);
            assert_eq!(after.note_since(before).is_some(), said);
        }
        let before = Noise::now().unwrap();
        assert!(before.all > 0.0 && before.busy > 0.0);
    }
}
