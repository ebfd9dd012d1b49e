//! Flags of `serve`.

use std::net::SocketAddr;

use clap::Args;

/// Flags of `serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// Where to answer
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9464")]
    pub listen: SocketAddr,
}
