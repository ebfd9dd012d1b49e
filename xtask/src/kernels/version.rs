//! Debian's order of versions, as deb-version(7) has it.

use std::cmp::Ordering;

/// Which of two versions is the newer.
pub fn compare(a: &str, b: &str) -> Ordering {
    let ((a_epoch, a_upstream, a_revision), (b_epoch, b_upstream, b_revision)) =
        (parts(a), parts(b));
    a_epoch
        .cmp(&b_epoch)
        .then_with(|| compare_part(a_upstream, b_upstream))
        .then_with(|| compare_part(a_revision, b_revision))
}

/// `epoch:upstream-revision`; epoch and revision may be missing.
fn parts(version: &str) -> (u64, &str, &str) {
    let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch.parse().unwrap_or(0), upstream, revision)
}

/// Text and numbers by turns; a number that is missing is 0.
fn compare_part(mut a: &str, mut b: &str) -> Ordering {
    while !a.is_empty() || !b.is_empty() {
        let (a_text, a_rest) = split(a, |c| !c.is_ascii_digit());
        let (b_text, b_rest) = split(b, |c| !c.is_ascii_digit());
        let (a_number, a_next) = split(a_rest, |c| c.is_ascii_digit());
        let (b_number, b_next) = split(b_rest, |c| c.is_ascii_digit());
        let number = |digits: &str| digits.parse::<u128>().unwrap_or(0);
        let order =
            compare_text(a_text, b_text).then_with(|| number(a_number).cmp(&number(b_number)));
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (a_next, b_next);
    }
    Ordering::Equal
}

fn split(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

/// A tilde comes before the end, the end before letters, letters before everything else.
fn compare_text(a: &str, b: &str) -> Ordering {
    let weight = |c: Option<char>| match c {
        Some('~') => (0, '~'),
        None => (1, ' '),
        Some(c) if c.is_ascii_alphabetic() => (2, c),
        Some(c) => (3, c),
    };
    let (mut a, mut b) = (a.chars(), b.chars());
    loop {
        let (x, y) = (a.next(), b.next());
        match weight(x).cmp(&weight(y)) {
            Ordering::Equal if x.is_none() => return Ordering::Equal,
            Ordering::Equal => {}
            order => return order,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(older: &str, newer: &str) {
        assert_eq!(compare(older, newer), Ordering::Less, "{older} < {newer}");
        assert_eq!(compare(newer, older), Ordering::Greater, "{newer} > {older}");
        assert_eq!(compare(older, older), Ordering::Equal, "{older}");
    }

    #[test]
    fn numbers_are_numbers() {
        check("6.1.9-1", "6.1.10-1");
        check("6.12.9-1", "6.12.117-1");
        check("5.10.262-1", "6.1.192-2");
        check("6.19.14-1~bpo13+1", "7.0.4-1~bpo13+1");
        check("7.2.12-1~bpo13+1", "7.3.4-1~bpo13+1");
    }

    #[test]
    fn revisions_and_backports() {
        check("6.1.192-1", "6.1.192-2");
        check("6.1.192-2~deb11u1", "6.1.192-2");
        check("6.12.90-1~deb12u1", "6.12.90-1");
        check("6.12.90-1~deb12u1", "6.12.90-1~deb12u2");
        check("7.3.4-1~bpo13+1", "7.3.4-1~bpo13+2");
        check("7.3~rc7-1~exp1", "7.3.1-1");
    }

    #[test]
    fn epochs_and_missing_parts() {
        check("1.35.0-4", "1:1.30.1-4");
        check("1.0", "1.0-1");
        check("1.0a", "1.0+b1");
        check("1:1.35.0-4+deb12u1", "1:1.35.0-4+deb12u1+b1");
    }
}
