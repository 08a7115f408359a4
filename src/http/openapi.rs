//! What can be asked by REST, for programs: OpenAPI 3.1 at `/_/openapi.json`.
//!
//! Owns what the handlers of [`rest`] share in their descriptions: parameters, errors, and what a caller shows. The rest is
//! said where it is done. Tells nothing about anybody, so whoever reaches the port may have it.

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, OpenApi as Document};
use utoipa::{IntoParams, IntoResponses, OpenApi, ToSchema};

use super::rest;
use crate::auth::ApiAuth;
use crate::problem;

/// How callers show who they are, where they must.
const BEARER: &str = "bearer";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Rollcall",
        description = "Who is in this Socket.IO room right now, across the whole cluster, and which user is each socket?",
    ),
    paths(rest::users, rest::roll_call)
)]
struct Described;

/// The description of this node: where it asks callers who they are, it says so.
pub fn document(callers: &ApiAuth) -> Document {
    let mut document = Described::openapi();
    // Whoever fetched it knows where from.
    document.info.contact = None;
    if !matches!(callers, ApiAuth::Anyone) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_with(Components::new);
        components.add_security_scheme(BEARER, SecurityScheme::Http(bearer));
        document.security = Some(vec![SecurityRequirement::new(BEARER, Vec::<String>::new())]);
    }
    document
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it is described, and read as `Room`")]
pub struct RoomPath {
    /// The room, percent-encoded: 1 to 256 bytes of UTF-8 without control characters. `_`, `.`, `..` and `socket.io`
    /// are none. The pattern leaves out some that may be asked for, too: it cannot count bytes.
    #[param(
        min_length = 1,
        max_length = 256,
        pattern = r"^([ -\-/-\^`-~][ -~]{0,255}|[^\u0000-\u001f\u007f-\u009f._][^\u0000-\u001f\u007f-\u009f]{0,63})$",
        example = "Maths"
    )]
    room: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it is described, and read as `Ask`")]
pub struct AskQuery {
    /// How long the answer may take, in milliseconds. Unless told otherwise, as the node is configured.
    #[param(minimum = 1, maximum = 5000)]
    deadline_ms: Option<u32>,
    /// Rather `503` than an incomplete answer.
    strict: Option<bool>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it is described, and read as `Ask`")]
pub struct HeldHeader {
    /// The `ETag` of what the caller has.
    #[param(rename = "If-None-Match")]
    if_none_match: Option<String>,
}

/// One socket, and its user.
#[derive(ToSchema)]
#[schema(as = Socket)]
#[expect(dead_code, reason = "it is described, and written by the roll call itself")]
pub struct Row {
    /// What its client sees as `socket.id`.
    #[schema(example = "FWHKDkMSQS-LgF51")]
    id_socket: String,
    /// The user that it belongs to.
    #[schema(example = "foo")]
    id_user: String,
}

#[derive(IntoResponses)]
pub enum CallErrors {
    /// The room is none, or a parameter makes no sense.
    #[response(status = 400, content_type = "application/problem+json")]
    BadRequest(#[to_schema] problem::Document<'static>),
    /// Who calls is not known: `WWW-Authenticate` says what is missing.
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthorized(#[to_schema] problem::Document<'static>),
    /// Who calls may not call the roll of this room.
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(#[to_schema] problem::Document<'static>),
    /// It may work later, as `Retry-After` says: the node has too much to do, or `strict` was asked for and somebody did
    /// not answer.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(#[to_schema] problem::Document<'static>),
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::roll_call::MAX_DEADLINE;

    #[test]
    fn the_longest_deadline_is_the_one_that_is_described() {
        let told: Value = serde_json::to_value(document(&ApiAuth::Anyone)).unwrap();
        for path in ["/{room}/users", "/{room}/rollcall"] {
            let parameters = told["paths"][path]["get"]["parameters"].as_array().unwrap();
            let deadline = parameters.iter().find(|parameter| parameter["name"] == "deadline_ms").unwrap();
            assert_eq!(u128::from(deadline["schema"]["maximum"].as_u64().unwrap()), MAX_DEADLINE.as_millis());
        }
        assert_eq!(told["info"]["version"], json!(env!("CARGO_PKG_VERSION")));
    }
}
