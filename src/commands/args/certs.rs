//! The flags of `rollcall certs`.

use std::path::PathBuf;

use clap::Args;

use crate::commands::certs::Names;

#[derive(Debug, Args)]
pub struct Certs {
    /// The folder that the files are written to. If it has a CA already (`ca.pem` and `ca.key`), that is used: so nodes
    /// are added later. Keep `ca.key` away from the nodes: whoever has it can make itself one
    #[arg(long, env = "ROLLCALL_CERTS_OUT", value_name = "DIR")]
    pub out: PathBuf,

    /// For how many days the certificates of the nodes are valid
    #[arg(long, default_value_t = 365, env = "ROLLCALL_CERTS_DAYS", value_parser = clap::value_parser!(u16).range(1..=3650))]
    pub days: u16,

    /// Replace certificates that are there already. The CA is never replaced
    #[arg(long, env = "ROLLCALL_CERTS_FORCE")]
    pub force: bool,

    /// One certificate for each: the host name or IP address at which the others reach the node's mesh
    /// (--mesh-advertise). Several of the same node are separated by commas, and the first names the files
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<Names>,
}
