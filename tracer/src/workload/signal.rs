//! A parent can hand down an ignored `SIGCHLD`; children then vanish before
//! they can be waited for, and their exit codes with them.

use std::{io, mem, ptr};

use anyhow::{Context as _, Result};

/// While it lives, `SIGCHLD` is not ignored.
pub(super) struct DefaultSigchld {
    ignored: Option<libc::sigaction>,
}

impl DefaultSigchld {
    pub fn ensure() -> Result<Self> {
        let current = set(None)?;
        let vanish =
            current.sa_sigaction == libc::SIG_IGN || current.sa_flags & libc::SA_NOCLDWAIT != 0;
        if !vanish {
            return Ok(Self { ignored: None });
        }
        // SAFETY: all zeroes are an empty mask, no flags and `SIG_DFL`.
        let default: libc::sigaction = unsafe { mem::zeroed() };
        set(Some(&default))?;
        Ok(Self { ignored: Some(current) })
    }
}

impl Drop for DefaultSigchld {
    fn drop(&mut self) {
        if let Some(ignored) = &self.ignored {
            // It was in force before, so it is valid; there is no one to tell otherwise.
            let _ = set(Some(ignored));
        }
    }
}

fn set(action: Option<&libc::sigaction>) -> Result<libc::sigaction> {
    // SAFETY: `sigaction` is plain data for which all zeroes are valid.
    let mut old: libc::sigaction = unsafe { mem::zeroed() };
    let new = action.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: `new` is null, an all-default action or one that was in force; `old` is writable.
    if unsafe { libc::sigaction(libc::SIGCHLD, new, &raw mut old) } != 0 {
        return Err(io::Error::last_os_error())
            .context("SIGCHLD: its action cannot be changed; run where sigaction is permitted");
    }
    Ok(old)
}
