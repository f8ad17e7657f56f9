//! Handlers, one file an area, and the list of all routes.
//!
//! A handler reads the request, calls the module that does the work, and returns what it gave. An
//! endpoint that is not built is absent from this list, and so from router and OpenAPI.

pub mod claims;
pub mod operations;
pub mod wallet;

use super::route::Route;

/// Every route of this build.
pub fn routes() -> Vec<Route> {
    [claims::routes(), wallet::routes(), operations::routes()].into_iter().flatten().collect()
}
