//! Flags that several subcommands have, or that are one topic of `serve`: access, limits, Redis, TLS, the log.
//!
//! Owns their help texts, their parsers, and the checks before anything starts. A flag becomes a checked value here; its
//! effect is decided where it is used. [`origin`] merges flags, environment and file.

mod access;
mod advertise;
mod config_file;
mod limits;
mod mesh_token;
pub mod origin;
mod redis;
mod telemetry;
mod tls;
pub mod values;

pub use access::AccessArgs;
pub use access::{AdminPortArgs, AdminTarget};
pub use advertise::Advertise;
pub use config_file::ConfigFileArgs;
pub use limits::LimitArgs;
pub use redis::RedisArgs;
pub use telemetry::{LogArgs, TraceArgs};
pub use tls::{MeshAuthArgs, TlsArgs};
pub use values::{HostPort, ListenAddress, RedisUrl};
