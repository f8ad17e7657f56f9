//! The front door: two listeners, one table of routes, one table from reason to answer.
//!
//! # Layout
//! - [`listener`]: sockets, accepting, and how many connections may be open
//! - [`guard`]: bytes that no honest client sends, and clients that stall
//! - [`connection`]: HTTP/1.1 or h2c on one connection, and its orderly end
//! - [`express`]: plain claims, without the HTTP library
//! - [`entrance`]: from a request's head to the handler, and back
//! - [`router`]: the table of routes
//! - [`route`]: what a handler takes and gives, and who may call it
//! - [`body`]: bodies, bounded in size, depth and time
//! - [`problem`]: a refusal on its way out, and the only place that knows statuses
//! - [`respond`]: answers as bytes
//! - [`openapi`]: the router's table as an OpenAPI document
//! - [`handlers`]: one file an area

pub mod body;
pub mod connection;
pub mod entrance;
pub mod express;
pub mod guard;
pub mod handlers;
pub mod listener;
pub mod openapi;
pub mod problem;
pub mod respond;
pub mod route;
pub mod router;
