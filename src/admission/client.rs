//! Where a request comes from: address, device, channel; and the headers that tell it.

use std::net::IpAddr;

use hyper::HeaderMap;
use ipnet::IpNet;
use smallvec::SmallVec;

use crate::domain::outcome::ClaimOutcome;
use crate::http::problem::Problem;
use crate::limits::{CHANNEL_MAX, DEVICE_ID_MAX};

/// The headers by which a request is admitted, found in one pass over its head.
#[derive(Clone, Debug, Default)]
pub struct Headers<'a> {
    values: [Option<&'a [u8]>; Name::COUNT],
    /// A bit for each name that came more than once.
    twice: u16,
    /// The lines of `X-Forwarded-For`, in their order.
    forwarded: SmallVec<[&'a [u8]; 1]>,
}

/// A header that [`Headers`] knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    Authorization,
    Channel,
    DeviceId,
    ForwardedFor,
    IdempotencyKey,
    RequestId,
    TraceParent,
    UserFirstOrder,
    UserId,
    UserLevel,
    UserRegisteredAt,
    UserTags,
}

// === impl Name ===

impl Name {
    const COUNT: usize = 12;

    /// In lower case, in the order of the enumeration.
    const WORDS: [&'static str; Name::COUNT] = [
        "authorization",
        "x-channel",
        "x-device-id",
        "x-forwarded-for",
        "idempotency-key",
        "x-request-id",
        "traceparent",
        "x-user-first-order",
        "x-user-id",
        "x-user-level",
        "x-user-registered-at",
        "x-user-tags",
    ];

    pub fn word(self) -> &'static str {
        Name::WORDS[self as usize]
    }

    /// However its letters are written.
    fn of(name: &[u8]) -> Option<Name> {
        let name_of = |known: Name| name.eq_ignore_ascii_case(known.word().as_bytes()).then_some(known);
        match name.len() {
            9 => name_of(Name::Channel).or_else(|| name_of(Name::UserId)),
            11 => name_of(Name::DeviceId).or_else(|| name_of(Name::TraceParent)).or_else(|| name_of(Name::UserTags)),
            12 => name_of(Name::RequestId).or_else(|| name_of(Name::UserLevel)),
            13 => name_of(Name::Authorization),
            15 => name_of(Name::ForwardedFor).or_else(|| name_of(Name::IdempotencyKey)),
            18 => name_of(Name::UserFirstOrder),
            20 => name_of(Name::UserRegisteredAt),
            _ => None,
        }
    }
}

// === impl Headers ===

impl<'a> Headers<'a> {
    pub fn of(map: &'a HeaderMap) -> Self {
        let mut headers = Headers::default();
        for (name, value) in map {
            headers.add(name.as_str().as_bytes(), value.as_bytes());
        }
        headers
    }

    /// One more line of the head. `false`: it is one that came before.
    pub fn add(&mut self, name: &[u8], value: &'a [u8]) -> bool {
        let Some(name) = Name::of(name) else { return true };
        if name == Name::ForwardedFor {
            self.forwarded.push(value);
        }
        let place = &mut self.values[name as usize];
        let first = place.is_none();
        if first {
            *place = Some(value);
        } else {
            self.twice |= 1 << name as u16;
        }
        first
    }

    /// The first line of that name.
    pub fn get(&self, name: Name) -> Option<&'a [u8]> {
        self.values[name as usize]
    }

    pub fn came_twice(&self, name: Name) -> bool {
        self.twice & 1 << name as u16 != 0
    }

    /// A header of printable ASCII without space, at most `max` characters; refused by name otherwise.
    pub fn word(&self, name: Name, max: usize) -> Result<Option<&'a str>, Problem> {
        if self.came_twice(name) {
            // One of them is a proxy's, the other a client's, and nobody can tell which is which.
            return Err(Problem::of(ClaimOutcome::InvalidRequest, format!("send one {}", name.word())));
        }
        self.get(name).map(|value| plain(name.word(), value, max)).transpose()
    }

    /// `X-Device-Id`, if it is there: 1 to 128 characters of printable ASCII.
    pub fn device(&self) -> Result<Option<&'a str>, Problem> {
        self.word(Name::DeviceId, DEVICE_ID_MAX)
    }

    /// `X-Channel`, if it is there: 1 to 32 characters of printable ASCII.
    pub fn channel(&self) -> Result<Option<&'a str>, Problem> {
        self.word(Name::Channel, CHANNEL_MAX)
    }

    /// The client's address: the right-most of `X-Forwarded-For` that is no trusted proxy, if the peer
    /// is one; else the peer. What an untrusted peer writes into the header is never believed.
    pub fn address(&self, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
        let is_trusted = |ip: IpAddr| trusted.iter().any(|net| net.contains(&ip));
        let mut client = peer.to_canonical();
        if trusted.is_empty() || !is_trusted(client) {
            return client;
        }
        // Several header lines are one list; the last line is the nearest proxy's.
        for line in self.forwarded.iter().rev() {
            let Ok(line) = std::str::from_utf8(line) else { return client };
            for part in line.rsplit(',') {
                let Ok(ip) = part.trim().parse::<IpAddr>() else { return client };
                client = ip.to_canonical();
                if !is_trusted(client) {
                    return client;
                }
            }
        }
        client
    }
}

/// The same as [`Headers::channel`], of a channel in a query.
pub fn queried_channel(value: &str) -> Result<&str, Problem> {
    plain("channel", value.as_bytes(), CHANNEL_MAX)
}

fn plain<'a>(name: &str, bytes: &'a [u8], max: usize) -> Result<&'a str, Problem> {
    let malformed = || {
        let detail = format!("{name} must be 1 to {max} characters of printable ASCII without space");
        Problem::of(ClaimOutcome::InvalidRequest, detail)
    };
    if bytes.is_empty() || bytes.len() > max || !bytes.iter().all(u8::is_ascii_graphic) {
        return Err(malformed());
    }
    std::str::from_utf8(bytes).map_err(|_| malformed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_addresses_are_believed_only_from_trusted_proxies() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        let cases: &[(&str, &[&str], &str)] = &[
            ("203.0.113.9", &[], "203.0.113.9"),
            ("203.0.113.9", &["198.51.100.1"], "203.0.113.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["6.6.6.6, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
            ("10.0.0.1", &["6.6.6.6", "198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["198.51.100.1, garbage, 10.0.0.2"], "10.0.0.2"),
            ("::ffff:10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("::1", &["2001:db8::1"], "2001:db8::1"),
        ];
        for (peer, lines, expected) in cases {
            let mut headers = HeaderMap::new();
            for line in *lines {
                headers.append("x-forwarded-for", line.parse().unwrap());
            }
            let client = Headers::of(&headers).address(peer.parse().unwrap(), &trusted);
            assert_eq!(client, expected.parse::<IpAddr>().unwrap(), "{peer} {lines:?}");
        }
    }

    #[test]
    fn every_name_is_found_however_it_is_written() {
        for (at, word) in Name::WORDS.iter().enumerate() {
            let name = Name::of(word.to_ascii_uppercase().as_bytes()).unwrap();
            assert_eq!((name as usize, name.word()), (at, *word));
            assert_eq!(Name::of(&word.as_bytes()[1..]), None, "{word}");
        }
        assert_eq!((Name::of(b"accept"), Name::of(b"content-length")), (None, None));
    }

    #[test]
    fn words_are_bounded_and_printable() {
        let mut headers = HeaderMap::new();
        assert_eq!(Headers::of(&headers).device().unwrap(), None);
        headers.insert("x-device-id", "d-1".parse().unwrap());
        assert_eq!(Headers::of(&headers).device().unwrap(), Some("d-1"));
        headers.append("x-device-id", "d-1".parse().unwrap());
        assert_eq!(Headers::of(&headers).device().unwrap_err().code, "invalid_request", "two of them");
        for bad in ["", "a b", &"x".repeat(129)] {
            headers.insert("x-device-id", bad.parse().unwrap());
            assert_eq!(Headers::of(&headers).device().unwrap_err().code, "invalid_request");
        }
    }
}
