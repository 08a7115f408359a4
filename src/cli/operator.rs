//! The flags of `rollcall status` and `rollcall users`.

use clap::Args;

use super::values::{Advertised, room};
use crate::names::Room;

#[derive(Debug, Args)]
pub struct Status {
    /// The admin port of the node that asks the others. Where that listens on every address, it is asked over loopback
    #[arg(long, default_value = "127.0.0.1:9001", env = "ROLLCALL_ADMIN_LISTEN", value_name = "HOST:PORT")]
    pub admin: Advertised,

    /// Print one line of JSON: all that `/_/status` tells
    #[arg(long)]
    pub json: bool,

    /// Ask again every two seconds, until Ctrl-C
    #[arg(long)]
    pub watch: bool,
}

#[derive(Debug, Args)]
pub struct Users {
    /// The room
    #[arg(value_name = "ROOM", value_parser = room)]
    pub room: Room,

    /// The admin port of the node that calls the roll. Where that listens on every address, it is asked over loopback
    #[arg(long, default_value = "127.0.0.1:9001", env = "ROLLCALL_ADMIN_LISTEN", value_name = "HOST:PORT")]
    pub admin: Advertised,

    /// Print one line of JSON: all that `/_/rooms/{room}` tells
    #[arg(long)]
    pub json: bool,
}
