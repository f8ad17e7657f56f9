//! Tests against real servers: one binary, a file per area.

mod demo;
mod grant;
mod histories;
mod scripts;
mod support;
mod table;
