//! Where a request comes from: address, device, channel.

use std::net::IpAddr;

use hyper::HeaderMap;
use ipnet::IpNet;

use crate::domain::outcome::ClaimOutcome;
use crate::http::problem::Problem;
use crate::limits::{CHANNEL_MAX, DEVICE_ID_MAX};

/// The client's address: the right-most of `X-Forwarded-For` that is no trusted proxy, if the peer
/// is one; else the peer. What an untrusted peer writes into the header is never believed.
pub fn address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |ip: IpAddr| trusted.iter().any(|net| net.contains(&ip));
    let mut client = peer.to_canonical();
    if trusted.is_empty() || !is_trusted(client) {
        return client;
    }
    // Several header lines are one list; the last line is the nearest proxy's.
    for line in headers.get_all("x-forwarded-for").iter().rev() {
        let Ok(line) = line.to_str() else { return client };
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

/// `X-Device-Id`, if it is there: 1 to 128 characters of printable ASCII.
pub fn device(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    word(headers, "x-device-id", DEVICE_ID_MAX)
}

/// `X-Channel`, if it is there: 1 to 32 characters of printable ASCII.
pub fn channel(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    word(headers, "x-channel", CHANNEL_MAX)
}

/// A header of printable ASCII without space, at most `max` characters; refused by name otherwise.
pub fn word<'a>(headers: &'a HeaderMap, name: &str, max: usize) -> Result<Option<&'a str>, Problem> {
    headers.get(name).map(|value| plain(name, value.as_bytes(), max)).transpose()
}

/// The same of a channel in a query.
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
            let client = address(peer.parse().unwrap(), &headers, &trusted);
            assert_eq!(client, expected.parse::<IpAddr>().unwrap(), "{peer} {lines:?}");
        }
    }

    #[test]
    fn words_are_bounded_and_printable() {
        let mut headers = HeaderMap::new();
        assert_eq!(device(&headers).unwrap(), None);
        headers.insert("x-device-id", "d-1".parse().unwrap());
        assert_eq!(device(&headers).unwrap(), Some("d-1"));
        for bad in ["", "a b", &"x".repeat(129)] {
            headers.insert("x-device-id", bad.parse().unwrap());
            assert_eq!(device(&headers).unwrap_err().code, "invalid_request");
        }
    }
}
