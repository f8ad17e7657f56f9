//! Tests against real servers: one binary, a file per area.

mod catalog;
mod demo;
mod support;
mod table;
