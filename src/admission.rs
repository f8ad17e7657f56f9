//! May this request spend anything at all? What a gateway decides from memory, before a lane.
//!
//! # Layout
//! - [`latch`]: sold out, and for how long that may be believed

pub mod latch;
