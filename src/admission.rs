//! May this request spend anything at all? What a gateway decides from memory, before a lane.
//!
//! # Layout
//! - [`client`]: where a request comes from: address, device, channel
//! - [`identity`]: who asks, by token or trusted header
//! - [`throttle`]: how many requests a user, an address or a device may make
//! - [`latch`]: sold out, and for how long that may be believed
//! - [`probe`]: asks Redis again before a latch is no longer believed

pub mod client;
pub mod identity;
pub mod latch;
pub mod probe;
pub mod throttle;
