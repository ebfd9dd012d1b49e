//! The server for real, small; and what it counts by.

use std::{io, ptr, slice};

use super::*;
use crate::workload::memory::page_size;

/// Private anonymous memory as the generator hands it over.
struct Store(*mut u8, usize);

impl Store {
    fn new(len: usize) -> Self {
        // SAFETY: a new anonymous mapping.
        let start = unsafe {
            let how = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            libc::mmap(ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, how, -1, 0)
        };
        assert_ne!(start, libc::MAP_FAILED);
        let mut store = Self(start.cast(), len);
        store.bytes().chunks_mut(page_size()).zip(1_u64..).for_each(|(page, n)| page[0] = n as u8);
        store
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is ours, and this long.
        unsafe { slice::from_raw_parts_mut(self.0, self.1) }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours.
        unsafe { libc::munmap(self.0.cast(), self.1) };
    }
}

const STORE: usize = 8 << 20;

fn wanted() -> Wanted {
    Wanted {
        rate_per_s: 5000.0,
        arrival: Arrival::Constant,
        saves: 2,
        duration: None,
        hold: Duration::from_millis(100),
        write_share: 0.5,
        seed: 7,
    }
}

fn serve_all(wanted: &Wanted) -> Served {
    serve(Store::new(STORE).bytes(), wanted, &|| false).unwrap()
}

#[test]
fn a_server_saves_and_goes_on_serving() {
    let served = serve_all(&wanted());
    let pages = (STORE / page_size()) as u64;
    assert_eq!((served.saves.len(), served.failures), (2, 0));
    assert_eq!(served.child_read, 2 * pages);
    let timed = served.calm.read().count + served.saving.read().count;
    assert_eq!(timed, served.requests + served.rate.unserved);
    assert!(served.saving.read().count > 0 && served.calm.read().count > 0);
    assert_eq!((served.stall.read().count, served.save.read().count), (2, 2));
    assert_eq!(served.first_write.read().count, served.copied);
    assert!(0 < served.copied && served.copied <= served.writes.min(2 * pages));
    assert!(served.writes > served.requests / 3 && served.writes < served.requests * 2 / 3);
    for save in &served.saves {
        assert!(save.began < save.returned && save.returned + 100_000_000 <= save.ended);
    }
}

#[test]
fn without_writes_nothing_is_copied() {
    let served =
        serve_all(&Wanted { write_share: 0.0, arrival: Arrival::Poisson, saves: 1, ..wanted() });
    assert_eq!((served.writes, served.copied, served.reused), (0, 0, 0));
    assert_eq!(served.saves.len(), 1);
}

#[test]
fn a_duration_is_kept_with_its_saves_in_it() {
    let wanted = Wanted { duration: Some(Duration::from_millis(800)), ..wanted() };
    let served = serve_all(&wanted);
    assert_eq!(served.saves.len(), 2);
    assert!(served.elapsed >= Duration::from_millis(800));
}

#[test]
fn a_rate_that_cannot_be_met_is_told() {
    let wanted = Wanted { rate_per_s: 1e9, saves: 0, ..wanted() };
    let served = serve_all(&wanted);
    assert!(served.rate.achieved_per_s < 1e9 / 2.0, "{:?}", served.rate);
}

#[test]
fn it_stops_when_told_and_leaves_no_child() {
    let wanted = Wanted { hold: Duration::from_secs(100), ..wanted() };
    let began = now();
    let mut store = Store::new(STORE);
    let served = serve(store.bytes(), &wanted, &|| now() - began > 500_000_000).unwrap();
    assert!(served.interrupted && served.saves.len() == 1);
    // SAFETY: signal 0 is not sent.
    let gone = unsafe { libc::kill(served.saves[0].pid, 0) };
    assert_eq!((gone, io::Error::last_os_error().raw_os_error()), (-1, Some(libc::ESRCH)));
}

#[test]
fn sums_tell_what_and_where() {
    let mut store = Store::new(4 * VALUE);
    let store = store.bytes();
    store.iter_mut().zip(0..=250).for_each(|(byte, n)| *byte = n);
    let whole = sum_of_values(store, 0);
    let parts = [0, 2].map(|at| sum_of_values(&store[at * VALUE..][..2 * VALUE], at));
    assert_eq!(whole, parts[0].wrapping_add(parts[1]));
    store[5] ^= 1;
    assert_ne!(whole, sum_of_values(store, 0));
    store[5] ^= 1;
    store.swap(0, 1);
    store.rotate_right(VALUE);
    assert_ne!(whole, sum_of_values(store, 0));
}

#[test]
fn requests_come_at_the_rate_that_was_asked_for() {
    for arrival in [Arrival::Constant, Arrival::Poisson] {
        let mut arrivals = Arrivals::new(500, &Wanted { arrival, ..wanted() });
        let due: Vec<_> = (0..50_001).map(|_| arrivals.next()).collect();
        assert!(due.is_sorted() && due[0] == 500);
        let second = due.iter().filter(|&&at| at < 1_000_000_500).count();
        assert!((4700..=5300).contains(&second), "{arrival:?}: {second}");
        let all = due[50_000] as f64;
        assert!((all / 1e10 - 1.0).abs() < 0.03, "{arrival:?}: {all}");
    }
}
