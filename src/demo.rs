//! Servers of one's own: a private Redis and PostgreSQL as supervised children.
//!
//! `floodgate demo` runs on them, and so do the tests. They listen on Unix sockets only, keep their
//! data in a folder, start again on it after any death, and never outlive the process that
//! started them.
//!
//! # Layout
//! - [`child`]: a process that dies with its parent, and the lock that its whole family holds
//! - [`place`]: binaries, the user to run as, and folders with names short enough for sockets
//! - [`redis_server`], [`postgres_server`]: the two servers
//! - [`folder`]: a demo's data folder and its secrets
//! - [`template`]: what is on sale
//! - [`run`]: from nothing to a template on sale, and back

pub mod child;
pub mod folder;
pub mod place;
pub mod postgres_server;
pub mod redis_server;
pub mod run;
pub mod template;
