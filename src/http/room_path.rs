//! The room in a path, percent-decoded and validated. [`Room`] owns the rules for valid names.

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;

use crate::names::Room;
use crate::problem::Problem;

/// Extracts the first path parameter as a room, or refuses the request with `400`.
pub struct RoomPath(pub Room);

impl<S: Send + Sync> FromRequestParts<S> for RoomPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::bad_request("the room's name must be valid UTF-8"))?;
        let (_, room) = params.iter().next().ok_or_else(|| Problem::not_found("the path names no room"))?;
        let room = Room::parse(room).map_err(|error| Problem::bad_request(format!("the room's name {error}")))?;
        Ok(Self(room))
    }
}
