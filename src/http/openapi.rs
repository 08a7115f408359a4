//! The description of the REST API for programs: OpenAPI 3.1, served at `/_/openapi.json`.
//!
//! Owns the title and the security scheme. [`rest`] describes the operations beside their handlers, and
//! [`crate::roll_call::document`] describes the JSON. The description contains no data, so it needs no authentication.

use utoipa::OpenApi as _;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, OpenApi};

use super::rest;
use crate::auth::ApiAuth;

/// The name of the security scheme.
const BEARER: &str = "bearer";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Rollcall",
        description = "Who is in this Socket.IO room right now, across the whole cluster, and which user is each socket?",
    ),
    paths(rest::users, rest::roll_call)
)]
struct RestApi;

/// The description of this node. It requires a bearer token if the node does.
pub fn document(callers: &ApiAuth) -> OpenApi {
    let mut document = RestApi::openapi();
    // utoipa fills this in from the authors of the package.
    document.info.contact = None;
    if !matches!(callers, ApiAuth::Anyone) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_with(Components::new);
        components.add_security_scheme(BEARER, SecurityScheme::Http(bearer));
        document.security = Some(vec![SecurityRequirement::new(BEARER, Vec::<String>::new())]);
    }
    document
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::roll_call::MAX_DEADLINE;

    #[test]
    fn the_described_maximum_deadline_is_the_real_one() {
        let document: Value = serde_json::to_value(super::document(&ApiAuth::Anyone)).unwrap();
        for path in ["/{room}/users", "/{room}/rollcall"] {
            let parameters = document["paths"][path]["get"]["parameters"].as_array().unwrap();
            let deadline = parameters.iter().find(|parameter| parameter["name"] == "deadline_ms").unwrap();
            assert_eq!(u128::from(deadline["schema"]["maximum"].as_u64().unwrap()), MAX_DEADLINE.as_millis());
        }
        assert_eq!(document["info"]["version"], json!(env!("CARGO_PKG_VERSION")));
    }
}
