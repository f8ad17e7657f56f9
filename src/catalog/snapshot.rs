//! What gateways hold in memory: every template that was ever published, and the blacklist.
//!
//! A snapshot is immutable and replaced as a whole. Made-up template ids are answered from it and
//! reach neither store. While PostgreSQL is away the last snapshot stays in force.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use arc_swap::ArcSwap;
use ipnet::IpNet;

use crate::admission::latch::Latch;
use crate::domain::ids::TemplateId;
use crate::domain::template::{Definition, Status};
use crate::domain::user::UserRef;
use crate::domain::window::Millis;
use crate::pricing::Terms;

/// A template as gateways know it.
pub struct LiveTemplate {
    pub id: TemplateId,
    pub definition: Definition,
    /// What its coupons are worth. `None`: its rules are none that this build knows.
    pub terms: Option<Arc<Terms>>,
    /// Published, paused, stopped or finished.
    pub status: Status,
    pub revision: i64,
    pub stock_generation: u32,
    /// Its Redis keys were freed: claims are answered `ended`.
    pub freed: bool,
    /// Shared by all snapshots: survives the replacement of this one.
    pub latch: Arc<Latch>,
}

/// Everything that a gateway decides by without asking a store.
#[derive(Default)]
pub struct Snapshot {
    pub templates: HashMap<TemplateId, Arc<LiveTemplate>>,
    pub blacklist: Blacklist,
    /// `catalog_versions.templates` and `.blacklist` that this snapshot shows. 0: nothing loaded yet.
    pub templates_version: i64,
    pub blacklist_version: i64,
    /// When it was last compared with PostgreSQL. 0: never.
    pub checked_at: AtomicI64,
}

/// Who may not claim. An entry holds until its time; `None`: for good.
#[derive(Clone, Default)]
pub struct Blacklist {
    pub users: HashMap<UserRef, Option<Millis>>,
    /// By the 64-bit keyed hash of the device id.
    pub devices: HashMap<u64, Option<Millis>>,
    /// IPv4 networks by prefix length and network address; likewise IPv6.
    pub v4: Vec<(u8, HashMap<Ipv4Addr, Option<Millis>>)>,
    pub v6: Vec<(u8, HashMap<Ipv6Addr, Option<Millis>>)>,
}

/// The place where the present snapshot is found.
pub type SharedSnapshot = Arc<ArcSwap<Snapshot>>;

// === impl Blacklist ===

impl Blacklist {
    pub fn add_network(&mut self, network: IpNet, until: Option<Millis>) {
        match network {
            IpNet::V4(net) => by_length(&mut self.v4, net.prefix_len()).insert(net.network(), until),
            IpNet::V6(net) => by_length(&mut self.v6, net.prefix_len()).insert(net.network(), until),
        };
    }

    /// Whether a claim by this user, from this address and device, is blocked at `now`.
    pub fn blocks(&self, user: &UserRef, ip: Option<IpAddr>, device: Option<u64>, now: Millis) -> bool {
        let holds = |until: Option<&Option<Millis>>| until.is_some_and(|until| until.is_none_or(|until| now < until));
        if holds(self.users.get(user)) || device.is_some_and(|device| holds(self.devices.get(&device))) {
            return true;
        }
        match ip {
            None => false,
            Some(IpAddr::V4(ip)) => self.v4.iter().any(|(length, networks)| {
                let mask = u32::MAX.checked_shl(32 - u32::from(*length)).unwrap_or(0);
                holds(networks.get(&Ipv4Addr::from_bits(ip.to_bits() & mask)))
            }),
            Some(IpAddr::V6(ip)) => self.v6.iter().any(|(length, networks)| {
                let mask = u128::MAX.checked_shl(128 - u32::from(*length)).unwrap_or(0);
                holds(networks.get(&Ipv6Addr::from_bits(ip.to_bits() & mask)))
            }),
        }
    }
}

fn by_length<A>(sets: &mut Vec<(u8, HashMap<A, Option<Millis>>)>, length: u8) -> &mut HashMap<A, Option<Millis>> {
    let at = sets.iter().position(|(known, _)| *known == length).unwrap_or_else(|| {
        sets.push((length, HashMap::new()));
        sets.len() - 1
    });
    &mut sets[at].1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_every_length_block() {
        let mut list = Blacklist::default();
        list.add_network("10.1.0.0/16".parse().unwrap(), None);
        list.add_network("192.0.2.7/32".parse().unwrap(), Some(1000));
        list.add_network("2001:db8::/64".parse().unwrap(), None);
        let user = UserRef::from_store("u").unwrap();
        let blocks = |ip: &str, now| list.blocks(&user, Some(ip.parse().unwrap()), None, now);
        assert!(blocks("10.1.2.3", 0) && !blocks("10.2.0.1", 0));
        assert!(blocks("192.0.2.7", 999) && !blocks("192.0.2.7", 1000));
        assert!(blocks("2001:db8::1:2:3:4", 0) && !blocks("2001:db8:0:1::1", 0));

        let mut everyone = Blacklist::default();
        everyone.add_network("0.0.0.0/0".parse().unwrap(), None);
        assert!(everyone.blocks(&user, Some("8.8.8.8".parse().unwrap()), None, 0));
        let mut people = Blacklist::default();
        people.users.insert(user.clone(), None);
        people.devices.insert(7, Some(10));
        assert!(people.blocks(&user, Some("8.8.8.8".parse().unwrap()), None, 0));
        let other = UserRef::from_store("v").unwrap();
        assert!(people.blocks(&other, Some("8.8.8.8".parse().unwrap()), Some(7), 9));
        assert!(!people.blocks(&other, Some("8.8.8.8".parse().unwrap()), Some(7), 10));
    }
}
