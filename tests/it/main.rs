//! Tests against real servers: one binary, a file per area.

mod demo;
mod histories;
mod lost_tails;
mod scripts;
mod support;
mod table;
