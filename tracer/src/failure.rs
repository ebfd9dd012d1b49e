//! How forkscope fails: one line, and an exit code that scripts may rely on.

use std::fmt;

/// The exit code's meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was tried and did not work: exit code 1.
    Failed,
    /// The command line makes no sense: exit code 2.
    Usage,
    /// Privileges are missing: exit code 3.
    NotPermitted,
    /// This kernel cannot do it: exit code 4.
    Unsupported,
    /// It was told to stop: exit code 0, as ever.
    Stopped,
    /// The COMMAND could not be run: exit code 127, or 126 when it is there but cannot be executed.
    Command {
        /// 126 or 127.
        code: u8,
    },
}

/// What failed, why, and what to do, in one line.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Decides the exit code.
    pub why: Why,
    /// The line, without a prefix.
    pub message: String,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(why: Why, message: impl Into<String>) -> Self {
        Self { why, message: message.into() }
    }

    /// The process's exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.why {
            Why::Failed => 1,
            Why::Usage => 2,
            Why::NotPermitted => 3,
            Why::Unsupported => 4,
            Why::Stopped => 0,
            Why::Command { code } => code,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whatever was quoted in the message, it stays one line and harmless on a terminal.
        f.write_str(&crate::text::visible(&self.message))
    }
}

impl std::error::Error for Failure {}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(failure) => failure,
            Err(error) => Self::new(Why::Failed, format!("{error:#}")),
        }
    }
}
