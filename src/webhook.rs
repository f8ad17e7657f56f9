//! Messages to other systems and from them, signed as Standard Webhooks says.
//!
//! <https://github.com/standard-webhooks/standard-webhooks>: `webhook-id` names the message and stays
//! the same over retries, `webhook-timestamp` is that of the attempt in seconds, `webhook-signature`
//! is `v1,` and the base 64 of HMAC-SHA256 over `id.timestamp.body`. Plain `http://`: this program
//! speaks no TLS; what must leave the company's network goes through a proxy that does.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::{Hmac, Mac};
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{HeaderMap, Request, Uri};
use hyper_util::rt::TokioIo;
use sha2::Sha256;
use tokio::net::TcpStream;

pub const ID: &str = "webhook-id";
pub const TIMESTAMP: &str = "webhook-timestamp";
pub const SIGNATURE: &str = "webhook-signature";

/// What a secret in the standard's form begins with; base 64 follows.
const PREFIX: &str = "whsec_";
/// Bytes of the key that the standard recommends at least.
pub const KEY_BYTES_MIN: usize = 24;

/// Signs and verifies with one secret.
#[derive(Clone)]
pub struct Signer {
    key: Vec<u8>,
}

/// Why a message is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unbelieved {
    /// A header is missing or is none.
    Headers,
    /// The signature is not one of this message under this secret.
    Signature,
    /// It was signed too long ago, or too far ahead.
    Stale,
}

/// Where messages go.
#[derive(Clone, Debug)]
pub struct Target {
    uri: Uri,
    /// Host and port.
    authority: String,
}

// === impl Signer ===

impl Signer {
    /// `whsec_` and base 64, or else any text; `None`: the key would be shorter than the standard says.
    pub fn new(secret: &str) -> Option<Signer> {
        let key = match secret.strip_prefix(PREFIX) {
            Some(text) => STANDARD.decode(text).ok()?,
            None => secret.as_bytes().to_vec(),
        };
        (key.len() >= KEY_BYTES_MIN).then_some(Signer { key })
    }

    /// The value of `webhook-signature`.
    pub fn sign(&self, id: &str, timestamp_s: i64, body: &[u8]) -> String {
        format!("v1,{}", STANDARD.encode(self.mac(id, timestamp_s, body).finalize().into_bytes()))
    }

    /// The message's id, if one of its signatures holds and its time is within `tolerance_s` of `now_s`.
    pub fn verify<'a>(
        &self,
        headers: &'a HeaderMap,
        body: &[u8],
        now_s: i64,
        tolerance_s: i64,
    ) -> Result<&'a str, Unbelieved> {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).ok_or(Unbelieved::Headers);
        let (id, timestamp, signatures) = (header(ID)?, header(TIMESTAMP)?, header(SIGNATURE)?);
        let timestamp: i64 = timestamp.parse().map_err(|_| Unbelieved::Headers)?;
        let holds = |signature: &str| {
            let bytes = signature.strip_prefix("v1,").and_then(|text| STANDARD.decode(text).ok());
            bytes.is_some_and(|bytes| self.mac(id, timestamp, body).verify_slice(&bytes).is_ok())
        };
        if !signatures.split(' ').any(holds) {
            return Err(Unbelieved::Signature);
        }
        if now_s.abs_diff(timestamp) > tolerance_s.unsigned_abs() {
            return Err(Unbelieved::Stale);
        }
        Ok(id)
    }

    fn mac(&self, id: &str, timestamp_s: i64, body: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes a key of any length");
        mac.update(id.as_bytes());
        mac.update(b".");
        mac.update(timestamp_s.to_string().as_bytes());
        mac.update(b".");
        mac.update(body);
        mac
    }
}

// === impl Target ===

impl Target {
    /// `http://host[:port]/path`.
    pub fn parse(url: &str) -> Option<Target> {
        let uri: Uri = url.parse().ok()?;
        if uri.scheme_str() != Some("http") {
            return None;
        }
        let authority = format!("{}:{}", uri.host()?, uri.port_u16().unwrap_or(80));
        Some(Target { uri, authority })
    }

    /// Posts a signed message. `Err`: it was not taken, in a few words.
    pub async fn post(
        &self,
        signer: &Signer,
        id: &str,
        now_s: i64,
        body: Bytes,
        timeout: Duration,
    ) -> Result<(), String> {
        let request = Request::post(self.uri.path_and_query().map_or("/", |path| path.as_str()))
            .header(HOST, self.uri.authority().map_or(self.authority.as_str(), |authority| authority.as_str()))
            .header(CONTENT_TYPE, "application/json")
            .header(ID, id)
            .header(TIMESTAMP, now_s)
            .header(SIGNATURE, signer.sign(id, now_s, &body))
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        match tokio::time::timeout(timeout, self.send(request)).await {
            Ok(Ok(status)) if (200..300).contains(&status) => Ok(()),
            Ok(Ok(status)) => Err(format!("answered {status}")),
            Ok(Err(error)) => Err(error),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<u16, String> {
        let stream = TcpStream::connect(&self.authority).await.map_err(|error| error.to_string())?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
        // The answer's body is not read: the connection ends when both are dropped.
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(|error| error.to_string());
        connection.abort();
        Ok(answer?.status().as_u16())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(id: &str, timestamp: &str, signature: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [(ID, id), (TIMESTAMP, timestamp), (SIGNATURE, signature)] {
            headers.insert(name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_standards_own_example_holds() {
        // From the standard's reference libraries.
        let signer = Signer::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let (id, at, body) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        let signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(signer.sign(id, at, body), signature);
        let told = headers(id, "1614265330", &format!("v1,AAAA v2,xyz {signature}"));
        assert_eq!(signer.verify(&told, body, at + 300, 300), Ok(id));
        assert_eq!(signer.verify(&told, body, at - 301, 300), Err(Unbelieved::Stale));
        assert_eq!(signer.verify(&told, b"{}", at, 300), Err(Unbelieved::Signature));
        let other = Signer::new("another-secret-of-enough-length").unwrap();
        assert_eq!(other.verify(&told, body, at, 300), Err(Unbelieved::Signature));
        for (id, at) in [("msg_x", "1614265330"), (id, "1614265331")] {
            assert_eq!(
                signer.verify(&headers(id, at, signature), body, 1_614_265_330, 300),
                Err(Unbelieved::Signature)
            );
        }
        assert_eq!(signer.verify(&headers(id, "now", signature), body, at, 300), Err(Unbelieved::Headers));
        assert_eq!(signer.verify(&HeaderMap::new(), body, at, 300), Err(Unbelieved::Headers));
        assert!(Signer::new("short").is_none() && Signer::new("whsec_c2hvcnQ=").is_none());
    }

    #[test]
    fn only_plain_http_is_a_target() {
        assert_eq!(Target::parse("http://flow.example/hooks?a=1").unwrap().authority, "flow.example:80");
        assert_eq!(Target::parse("http://127.0.0.1:9/").unwrap().authority, "127.0.0.1:9");
        for wrong in ["https://flow.example/", "flow.example", "/hooks", ""] {
            assert!(Target::parse(wrong).is_none(), "{wrong}");
        }
    }
}
