//! Tests against real servers: one binary, a file per area.

mod architecture;
mod audit;
mod catalog;
mod demo;
mod demo_process;
mod expiry;
mod grant;
mod histories;
mod http_admission;
mod http_claims;
mod http_hostile;
mod http_routes;
mod http_stores;
mod http_wallet;
mod kills;
mod ledger;
mod load_scripts;
mod lost_tails;
mod quotes;
mod reads;
mod redemption;
mod revocation;
mod sale;
mod scripts;
mod support;
mod table;
