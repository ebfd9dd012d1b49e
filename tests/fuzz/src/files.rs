//! Files of others: executables that traced processes map, and the file of filters.

/// An executable: names of bounded length.
pub fn symbols(data: &[u8]) {
    for offset in [0, 0x1000, u64::MAX] {
        for name in forkscope::fuzz::functions(data, offset) {
            assert!(name.len() <= 1024, "{} bytes", name.len());
        }
    }
}

/// A mangled name, which can mean megabytes.
pub fn demangle(data: &[u8]) {
    let name = forkscope::fuzz::demangled(&String::from_utf8_lossy(data));
    assert!(name.len() <= 1024, "{} bytes", name.len());
}

/// A file of filters: filters, or one line that says why not.
pub fn filters(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(failure) = forkscope::fuzz::filters(text) {
        let line = failure.to_string();
        assert!(!line.trim().is_empty() && !line.contains(['\n', '\x1b']), "{line:?}");
        assert_eq!(failure.exit_code(), 2, "{line:?}");
    }
}
