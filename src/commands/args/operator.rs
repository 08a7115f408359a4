//! The flags of `rollcall status` and `rollcall users`.

use clap::Args;

use super::admin::Asked;
use super::values::room;
use crate::names::Room;

#[derive(Debug, Args)]
pub struct Status {
    #[command(flatten)]
    pub asked: Asked,

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

    #[command(flatten)]
    pub asked: Asked,

    /// Print one line of JSON: all that `/_/rooms/{room}` tells
    #[arg(long)]
    pub json: bool,
}
