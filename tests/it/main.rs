//! Tests against real servers: one binary, a file per area.

mod demo;
mod demo_process;
mod grant;
mod histories;
mod scripts;
mod support;
mod table;
