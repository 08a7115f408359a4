//! The routes of the public port, as metrics and traces name them.
//!
//! Owns the paths of the two roll-call routes, and the classification of a request by the shape of its path alone. The
//! router's own match cannot be used: metrics also count requests that a layer refuses before the router sees them.

use strum::{EnumCount, IntoStaticStr, VariantArray};

pub const USERS_PATH: &str = "/{room}/users";
pub const ROLL_CALL_PATH: &str = "/{room}/rollcall";

/// The route of a path. A path that no handler serves is the page of a room, or `other`. The names are values of a metric
/// label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumCount, VariantArray, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub(crate) enum PublicRoute {
    Users,
    RollCall,
    Page,
    #[strum(serialize = "socket.io")]
    SocketIo,
    Other,
}

impl PublicRoute {
    pub(crate) fn of(path: &str) -> Self {
        let mut segments = path.strip_prefix('/').unwrap_or(path).split('/');
        match [segments.next(), segments.next(), segments.next()] {
            [Some("socket.io"), ..] => Self::SocketIo,
            [Some("_" | ""), ..] => Self::Other,
            [Some(_), Some("users"), None] => Self::Users,
            [Some(_), Some("rollcall"), None] => Self::RollCall,
            [Some(_), None, None] => Self::Page,
            _ => Self::Other,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        self.into()
    }

    /// The path of a roll-call route, with its parameter.
    pub(crate) fn roll_call_path(self) -> Option<&'static str> {
        match self {
            Self::Users => Some(USERS_PATH),
            Self::RollCall => Some(ROLL_CALL_PATH),
            Self::Page | Self::SocketIo | Self::Other => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_a_route_and_every_route_a_name() {
        for (path, route) in [
            ("/Maths/users", PublicRoute::Users),
            ("/a%2Fb/users", PublicRoute::Users),
            ("/Maths/rollcall", PublicRoute::RollCall),
            ("/Maths", PublicRoute::Page),
            ("/users", PublicRoute::Page),
            ("/", PublicRoute::Other),
            ("//Maths/users", PublicRoute::Other),
            ("/_/assets/room.js", PublicRoute::Other),
            ("/socket.io/", PublicRoute::SocketIo),
            ("/a/users/b", PublicRoute::Other),
            ("/a/b", PublicRoute::Other),
            ("*", PublicRoute::Page),
        ] {
            assert_eq!(PublicRoute::of(path), route, "{path}");
        }
        let names: Vec<_> = PublicRoute::VARIANTS.iter().map(|route| route.name()).collect();
        assert_eq!(names, ["users", "rollcall", "page", "socket.io", "other"]);
    }
}
