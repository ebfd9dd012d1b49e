//! Counting what `cargo test` prints, while it prints it.

use crate::step::Totals;

const SKIPPED: &str = "skipped: ";

/// Fed with every line of `cargo test … -- --nocapture --test-threads=1`.
///
/// A test that skips itself prints `skipped: <why>` and returns; the test harness calls that
/// passed, we do not.
#[derive(Debug, Default)]
pub struct Tally {
    totals: Totals,
    /// Tests that the test harness calls passed and that skipped themselves.
    not_passed: usize,
    /// Of the test that runs now.
    skips: Vec<String>,
    test: Option<String>,
}

impl Tally {
    /// Takes one line.
    pub fn line(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.end_of_test();
            self.totals.passed += count(result, " passed");
            self.totals.failed += count(result, " failed");
            let ignored = count(result, " ignored");
            self.totals.skipped.extend(std::iter::repeat_n("ignored".to_owned(), ignored));
            return;
        }
        if let Some((name, _)) =
            line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "))
        {
            self.end_of_test();
            self.test = Some(name.to_owned());
        }
        if let Some((_, why)) = line.split_once(SKIPPED) {
            self.skips.push(why.trim().to_owned());
        }
        if line.trim_end().ends_with("FAILED")
            && let Some(name) = self.test.take()
        {
            // It failed all the same, and is counted as that.
            self.skips.clear();
            self.totals.failures.push(name);
        }
    }

    /// The totals; a run that failed without a failed test (it did not compile, or died) is one.
    pub fn finish(mut self, success: bool) -> Totals {
        self.end_of_test();
        self.totals.passed = self.totals.passed.saturating_sub(self.not_passed);
        if !success && self.totals.failed == 0 {
            self.totals.fail("it did not compile, or died".to_owned());
        }
        self.totals
    }

    /// A test that skipped itself is one skip, however many lines it printed about it.
    fn end_of_test(&mut self) {
        let skips = std::mem::take(&mut self.skips);
        if self.test.take().is_some() && !skips.is_empty() {
            self.not_passed += 1;
            self.totals.skipped.push(skips.join("; "));
        } else {
            self.totals.skipped.extend(skips);
        }
    }
}

fn count(result: &str, what: &str) -> usize {
    result
        .split(['.', ';'])
        .find_map(|part| part.trim().strip_suffix(what)?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(output: &str, success: bool, expected: (usize, &[&str], &[&str])) {
        let mut tally = Tally::default();
        output.lines().for_each(|line| tally.line(line));
        let totals = tally.finish(success);
        let (passed, failures, skipped) = expected;
        assert_eq!(totals.passed, passed, "{output}");
        assert_eq!(totals.failed, failures.len(), "{output}");
        assert_eq!(totals.failures, failures, "{output}");
        assert_eq!(totals.skipped, skipped, "{output}");
    }

    #[test]
    fn counts() {
        check(
            "running 2 tests\ntest a ... ok\ntest b ... ok\n\n\
             test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
             test result: ok. 1 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            true,
            (3, &[], &["ignored"; 3]),
        );
        check("error: could not compile", false, (0, &["it did not compile, or died"], &[]));
        check(
            "test a ... FAILED\ntest b ... ok\ntest c ... FAILED\n\nfailures:\n    a\n    c\n\n\
             test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
            false,
            (1, &["a", "c"], &[]),
        );
    }

    #[test]
    fn a_skipped_test_is_not_a_passed_one() {
        check(
            "test a ... skipped: no fentry here\nok\ntest b ... \nskipped: no redis\nskipped: nor valkey\nok\n\
             test c ... ok\n\
             test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out",
            true,
            (1, &[], &["no fentry here", "no redis; nor valkey"]),
        );
    }

    #[test]
    fn a_failed_test_is_not_a_skipped_one() {
        check(
            "test a ... skipped: half of it\nthread 'a' panicked\nFAILED\n\
             test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out",
            false,
            (0, &["a"], &[]),
        );
    }

    #[test]
    fn skips_outside_of_tests_count_too() {
        check(
            "test a ... ok\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured\nskipped: no QEMU",
            true,
            (1, &[], &["no QEMU"]),
        );
    }
}
