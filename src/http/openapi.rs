//! The description of the REST API for programs: OpenAPI 3.1, served at `/_/openapi.json`.
//!
//! Owns the title and the security scheme. [`rest`] describes the operations beside their handlers, and
//! [`crate::roll_call::document`] describes the JSON. The description contains no data, so it needs no authentication.
//! A test writes and compares the description from which the types of the pages are generated (`web/types`).

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
    use std::path::Path;
    use std::{env, fs};

    use serde_json::{Value, json};
    use utoipa::openapi::Info;

    use super::*;
    use crate::http::admin::operator;
    use crate::roll_call::MAX_DEADLINE;
    use crate::status::ReportedDetails;
    use crate::telemetry::route::{ROLL_CALL_PATH, USERS_PATH};

    /// The data of the operators' page, which no port describes.
    #[derive(utoipa::OpenApi)]
    #[openapi(paths(operator::cluster_status), components(schemas(ReportedDetails)))]
    struct OperatorApi;

    #[test]
    fn the_described_maximum_deadline_is_the_real_one() {
        let document: Value = serde_json::to_value(super::document(&ApiAuth::Anyone)).unwrap();
        for path in [USERS_PATH, ROLL_CALL_PATH] {
            let parameters = document["paths"][path]["get"]["parameters"].as_array().unwrap();
            let deadline = parameters.iter().find(|parameter| parameter["name"] == "deadline_ms").unwrap();
            assert_eq!(u128::from(deadline["schema"]["maximum"].as_u64().unwrap()), MAX_DEADLINE.as_millis());
        }
        assert_eq!(document["info"]["version"], json!(env!("CARGO_PKG_VERSION")));
    }

    /// Everything that the pages read: the REST API, and the data of the operators' page.
    fn page_document() -> String {
        let mut document = RestApi::openapi().merge_from(OperatorApi::openapi());
        // Without the version of the program, so that a release changes no generated file.
        document.info = Info::new("What the pages of Rollcall read", "0");
        serde_json::to_string_pretty(&document).unwrap() + "\n"
    }

    /// With `ROLLCALL_BLESS` in the environment, writes the file instead (`make page-types`).
    #[test]
    fn the_document_of_the_page_types_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("web/types/openapi.json");
        if env::var_os("ROLLCALL_BLESS").is_some() {
            fs::write(&path, page_document()).unwrap();
        }
        let committed = fs::read_to_string(&path).unwrap();
        assert!(committed == page_document(), "{} is stale: run `make page-types`", path.display());
    }
}
