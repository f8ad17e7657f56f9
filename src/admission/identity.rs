//! Who asks, by token or trusted header.
//!
//! A token is verified once and remembered until it expires, with the user's reference already
//! sealed: the claim path costs a look into a table.

use std::net::IpAddr;
use std::sync::Arc;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};

use super::client::{Headers, Name};
use crate::clock::now_ms;
use crate::config::{Auth, AuthMode};
use crate::domain::audience::Facts;
use crate::domain::outcome::ClaimOutcome;
use crate::domain::user::{USER_ID_MAX, UserCodec, UserId, UserRef};
use crate::domain::window::Millis;
use crate::http::problem::Problem;
use crate::limits::{FACT_TAGS_MAX, FACT_WORD_MAX};
use crate::telemetry::metrics;

/// A shopper: their reference in the stores, and what is said of them.
#[derive(Debug)]
pub struct Shopper {
    pub user: UserRef,
    pub facts: Facts,
}

/// Tells shoppers by their requests.
pub struct Gatekeeper {
    mode: AuthMode,
    key: DecodingKey,
    validation: Validation,
    leeway_s: u64,
    /// Token -> shopper and expiry (seconds). The whole token is the key: a hash could collide.
    tokens: Cache<Box<str>, Arc<(Shopper, u64)>>,
    trusted: Vec<ipnet::IpNet>,
}

/// What is read of a shopper's token. Issuer and audience (a text or a list of them, RFC 7519) are
/// checked beside it.
#[derive(Debug, Deserialize)]
struct ReadClaims {
    sub: String,
    exp: u64,
    level: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    registered_at: Option<String>,
    first_order: Option<bool>,
}

/// What a token that is made here says.
#[derive(Debug, Serialize)]
pub struct TokenClaims {
    pub sub: String,
    pub iss: String,
    pub aud: String,
    /// Seconds since the Unix epoch.
    pub exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registered_at: Option<String>,
    /// Whether what is bought now is the shopper's first order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_order: Option<bool>,
}

/// The longest token that is looked at.
const TOKEN_MAX: usize = 4096;

// === impl Gatekeeper ===

impl Gatekeeper {
    pub fn new(config: &Auth) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.algorithms = vec![Algorithm::HS256];
        validation.set_issuer(&[&config.jwt_issuer]);
        validation.set_audience(&[&config.jwt_audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = config.jwt_leeway_s;
        Gatekeeper {
            mode: config.mode,
            key: DecodingKey::from_secret(config.jwt_secret.expose().as_bytes()),
            validation,
            leeway_s: config.jwt_leeway_s,
            tokens: Cache::new(config.token_cache_max),
            trusted: config.trusted_proxies.clone(),
        }
    }

    /// Who asks. `peer` is the connection's other end: headers are believed from trusted ones only.
    pub fn identify(
        &self,
        headers: &Headers<'_>,
        peer: IpAddr,
        users: &UserCodec,
    ) -> Result<Arc<(Shopper, u64)>, Problem> {
        match self.mode {
            AuthMode::Jwt => self.by_token(headers, users),
            AuthMode::TrustedHeader => self.by_header(headers, peer, users),
        }
    }

    /// Tokens that are remembered, for the metrics.
    pub fn report(&self) {
        metrics().token_cache_entries.set(self.tokens.len() as f64);
    }

    fn by_token(&self, headers: &Headers<'_>, users: &UserCodec) -> Result<Arc<(Shopper, u64)>, Problem> {
        let token = headers
            .get(Name::Authorization)
            .and_then(ascii)
            .and_then(|value| value.split_at_checked(7))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer "))
            .map(|(_, token)| token.trim())
            .ok_or_else(|| unauthenticated("send Authorization: Bearer <token>"))?;
        let now = (now_ms() / 1000) as u64;
        if let Some(known) = self.tokens.get(token) {
            if now <= known.1.saturating_add(self.leeway_s) {
                return Ok(known);
            }
            self.tokens.remove(token);
        }
        if token.len() > TOKEN_MAX {
            return Err(unauthenticated("the token is too long"));
        }
        let claims = jsonwebtoken::decode::<ReadClaims>(token, &self.key, &self.validation)
            .map_err(|error| unauthenticated(&format!("the token is not accepted: {}", reason(&error))))?
            .claims;
        let user = UserId::parse(&claims.sub).ok_or_else(|| unauthenticated("the token's sub is no user id"))?;
        let registered_at = match &claims.registered_at {
            None => None,
            Some(text) => {
                Some(parse_time(text).ok_or_else(|| unauthenticated("the token's registered_at is no RFC 3339 time"))?)
            }
        };
        let facts = checked_facts(claims.level, claims.tags, registered_at)
            .ok_or_else(|| unauthenticated("the token's level or tags are too long or too many"))?;
        let facts = Facts { first_order: claims.first_order, ..facts };
        let shopper = Arc::new((Shopper { user: users.seal(&user), facts }, claims.exp));
        self.tokens.insert(token.into(), shopper.clone());
        Ok(shopper)
    }

    fn by_header(
        &self,
        headers: &Headers<'_>,
        peer: IpAddr,
        users: &UserCodec,
    ) -> Result<Arc<(Shopper, u64)>, Problem> {
        let peer = peer.to_canonical();
        if !self.trusted.iter().any(|net| net.contains(&peer)) {
            return Err(unauthenticated("X-User-Id is believed from trusted proxies only"));
        }
        let id = headers.word(Name::UserId, USER_ID_MAX)?.ok_or_else(|| unauthenticated("X-User-Id is missing"))?;
        let user = UserId::parse(id).ok_or_else(|| unauthenticated("X-User-Id is no user id"))?;
        let level = headers.word(Name::UserLevel, FACT_WORD_MAX)?.map(str::to_owned);
        if headers.came_twice(Name::UserTags) {
            return Err(invalid("send one X-User-Tags, its words separated by commas"));
        }
        let tags = match headers.get(Name::UserTags).map(ascii) {
            None => Vec::new(),
            Some(None) => return Err(invalid("X-User-Tags must be ASCII words, separated by commas")),
            Some(Some(list)) => {
                list.split(',').map(|tag| tag.trim().to_owned()).filter(|tag| !tag.is_empty()).collect()
            }
        };
        let registered_at = match headers.word(Name::UserRegisteredAt, FACT_WORD_MAX)? {
            None => None,
            Some(text) => Some(parse_time(text).ok_or_else(|| invalid("X-User-Registered-At is no RFC 3339 time"))?),
        };
        let facts = checked_facts(level, tags, registered_at)
            .ok_or_else(|| invalid(&format!("at most {FACT_TAGS_MAX} tags of {FACT_WORD_MAX} characters")))?;
        let first_order = match headers.word(Name::UserFirstOrder, FACT_WORD_MAX)? {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| invalid("X-User-First-Order must be true or false"))?),
        };
        let facts = Facts { first_order, ..facts };
        Ok(Arc::new((Shopper { user: users.seal(&user), facts }, u64::MAX)))
    }
}

/// Signs a shopper's token, as `floodgate token` and the demo do.
pub fn sign(config: &Auth, claims: &TokenClaims) -> Result<String, String> {
    let key = EncodingKey::from_secret(config.jwt_secret.expose().as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key).map_err(|error| error.to_string())
}

/// Facts within their bounds, or none.
pub fn checked_facts(level: Option<String>, tags: Vec<String>, registered_at: Option<Millis>) -> Option<Facts> {
    let fits = tags.len() <= FACT_TAGS_MAX && tags.iter().chain(&level).all(|word| word.len() <= FACT_WORD_MAX);
    fits.then_some(Facts { level, tags, registered_at, first_order: None })
}

/// RFC 3339 with offset, as milliseconds.
pub fn parse_time(text: &str) -> Option<Millis> {
    chrono::DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_millis())
}

fn ascii(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| text.is_ascii())
}

fn reason(error: &jsonwebtoken::errors::Error) -> &'static str {
    use jsonwebtoken::errors::ErrorKind as E;
    match error.kind() {
        E::ExpiredSignature => "it has expired",
        E::ImmatureSignature => "it is not valid yet",
        E::InvalidSignature => "its signature is wrong",
        E::InvalidIssuer => "its issuer is not this deployment's",
        E::InvalidAudience => "its audience is not this deployment",
        E::InvalidAlgorithm | E::InvalidAlgorithmName => "it must be signed with HS256",
        E::MissingRequiredClaim(_) => "exp, iss, aud and sub are required",
        _ => "it is malformed",
    }
}

fn unauthenticated(detail: &str) -> Problem {
    Problem::of(ClaimOutcome::Unauthenticated, detail)
}

fn invalid(detail: &str) -> Problem {
    Problem::of(ClaimOutcome::InvalidRequest, detail)
}

#[cfg(test)]
mod tests {
    use hyper::HeaderMap;

    use super::*;
    use crate::config::Layers;

    fn auth(pairs: &[(&str, &str)]) -> Auth {
        let enough = [
            ("FLOODGATE_JWT_SECRET", "0123456789abcdef0123456789abcdef"),
            ("FLOODGATE_CODE_KEY", "000102030405060708090a0b0c0d0e0f"),
        ];
        let env = enough.iter().chain(pairs).map(|(name, value)| (name.to_string(), value.to_string()));
        Layers::read(None, env).unwrap().build().unwrap().auth
    }

    fn claims(exp: i64) -> serde_json::Value {
        serde_json::json!({"sub": "u-1", "iss": "floodgate", "aud": "floodgate", "exp": now_ms() / 1000 + exp, "level": "gold"})
    }

    fn bearer(token: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        headers
    }

    fn signed(header: Header, claims: &serde_json::Value, secret: &str) -> String {
        jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    }

    #[test]
    fn only_a_whole_and_timely_token_names_a_shopper() {
        let auth = auth(&[]);
        let keeper = Gatekeeper::new(&auth);
        let peer = "127.0.0.1".parse().unwrap();
        let users = UserCodec::plain();
        let ask = |token: &str| keeper.identify(&Headers::of(&bearer(token)), peer, &users);
        let secret = auth.jwt_secret.expose();
        let good = signed(Header::default(), &claims(60), secret);
        for _ in 0..2 {
            let shopper = ask(&good).unwrap();
            assert_eq!((shopper.0.user.as_str(), shopper.0.facts.level.as_deref()), ("u-1", Some("gold")));
        }
        let mut listed = claims(60);
        listed["aud"] = serde_json::json!(["else", "floodgate"]);
        assert!(ask(&signed(Header::default(), &listed, secret)).is_ok(), "an audience may be a list");
        let without = |member: &str| {
            let mut claims = claims(60);
            claims.as_object_mut().unwrap().remove(member);
            signed(Header::default(), &claims, secret)
        };
        let with = |member: &str, value: serde_json::Value| {
            let mut claims = claims(60);
            claims[member] = value;
            signed(Header::default(), &claims, secret)
        };
        let refused = [
            ("wrong secret", signed(Header::default(), &claims(60), "another-secret-another-secret-xx")),
            ("expired", signed(Header::default(), &claims(-60), secret)),
            ("another algorithm", signed(Header::new(Algorithm::HS512), &claims(60), secret)),
            ("no sub", without("sub")),
            ("no aud", without("aud")),
            ("no iss", without("iss")),
            ("no exp", without("exp")),
            ("other aud", with("aud", "else".into())),
            ("other iss", with("iss", "else".into())),
            ("bad sub", with("sub", "a b".into())),
            ("not yet", with("nbf", (now_ms() / 1000 + 60).into())),
            ("none", "eyJhbGciOiJub25lIn0.e30.".into()),
            ("garbage", "x".into()),
            ("cut", good[..good.len() - 1].into()),
        ];
        for (what, token) in refused {
            assert_eq!(ask(&token).err().map(|problem| problem.code), Some("unauthenticated"), "{what}");
        }
        assert_eq!(keeper.identify(&Headers::default(), peer, &users).unwrap_err().code, "unauthenticated");
    }

    #[test]
    fn a_remembered_token_still_expires() {
        let auth = auth(&[("FLOODGATE_AUTH_JWT_LEEWAY_S", "0")]);
        let keeper = Gatekeeper::new(&auth);
        let token = signed(Header::default(), &claims(60), auth.jwt_secret.expose());
        let shopper = Shopper { user: UserRef::from_store("u-1").unwrap(), facts: Facts::default() };
        keeper.tokens.insert(token.as_str().into(), Arc::new((shopper, 1)));
        let fresh =
            keeper.identify(&Headers::of(&bearer(&token)), "127.0.0.1".parse().unwrap(), &UserCodec::plain()).unwrap();
        assert!(fresh.1 > 1, "the remembered expiry was ignored");
    }

    #[test]
    fn headers_are_believed_from_trusted_proxies_only() {
        let auth = auth(&[("FLOODGATE_AUTH_MODE", "trusted-header"), ("FLOODGATE_TRUSTED_PROXIES", "10.0.0.0/8")]);
        let keeper = Gatekeeper::new(&auth);
        let users = UserCodec::plain();
        let mut headers = HeaderMap::new();
        headers.insert("x-user-id", "u-9".parse().unwrap());
        headers.insert("x-user-tags", "vip, early".parse().unwrap());
        headers.insert("x-user-registered-at", "2026-01-01T00:00:00+08:00".parse().unwrap());
        let shopper = keeper.identify(&Headers::of(&headers), "10.1.1.1".parse().unwrap(), &users).unwrap();
        assert_eq!(shopper.0.facts.tags, ["vip", "early"]);
        assert!(shopper.0.facts.registered_at.is_some());
        assert_eq!(shopper.0.facts.first_order, None);
        for (text, known) in [("true", Some(true)), ("false", Some(false)), ("perhaps", None)] {
            headers.insert("x-user-first-order", text.parse().unwrap());
            let shopper = keeper.identify(&Headers::of(&headers), "10.1.1.1".parse().unwrap(), &users);
            assert_eq!(shopper.ok().and_then(|shopper| shopper.0.facts.first_order), known, "{text}");
        }
        headers.remove("x-user-first-order");
        assert_eq!(
            keeper.identify(&Headers::of(&headers), "11.1.1.1".parse().unwrap(), &users).unwrap_err().code,
            "unauthenticated"
        );
        headers.insert("x-user-registered-at", "yesterday".parse().unwrap());
        assert_eq!(
            keeper.identify(&Headers::of(&headers), "10.1.1.1".parse().unwrap(), &users).unwrap_err().code,
            "invalid_request"
        );
    }
}
