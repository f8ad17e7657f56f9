//! `floodgate token`: shoppers' tokens, signed with the settings' HS256 secret.

use std::io::{BufWriter, ErrorKind, Write};
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::Args;

use super::{Failure, Source};
use crate::admission::identity::{self, TokenClaims};
use crate::config::Auth;
use crate::demo::folder;
use crate::domain::user::UserId;

#[derive(Args)]
pub struct Token {
    /// The shopper's id: 1 to 64 characters of printable ASCII without space
    #[arg(long, value_name = "ID", required_unless_present = "users", conflicts_with = "users")]
    user: Option<String>,
    /// That many shoppers, named by --prefix and a number from 1 on; one token a line
    #[arg(long, value_name = "N")]
    users: Option<u32>,
    /// The beginning of the names of --users
    #[arg(long, default_value = "u-", requires = "users")]
    prefix: String,
    /// A fact for audiences: the shopper's level
    #[arg(long)]
    level: Option<String>,
    /// A fact for audiences: a tag of the shopper's; may be given again
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// A fact for audiences: when the shopper registered, as in 2026-06-18T00:00:00+08:00
    #[arg(long, value_name = "TIME")]
    registered_at: Option<String>,
    /// A fact for coupons: whether what the shopper buys now is their first order
    #[arg(long, value_name = "true|false")]
    first_order: Option<bool>,
    /// How long the token is good: 90s, 15m, 24h or 7d
    #[arg(long, value_name = "TIME", default_value = "24h")]
    expires_in: String,
    /// The data folder of a `floodgate demo`, whose secret is taken
    #[arg(long, value_name = "FOLDER", conflicts_with = "file")]
    data: Option<PathBuf>,
    #[command(flatten)]
    source: Source,
}

// === impl Token ===

impl Token {
    pub fn run(self) -> Result<(), Failure> {
        let seconds = seconds(&self.expires_in)
            .ok_or_else(|| Failure::Usage(format!("--expires-in {}: write 90s, 15m, 24h or 7d", self.expires_in)))?;
        if let Some(text) = &self.registered_at {
            DateTime::parse_from_rfc3339(text).map_err(|error| {
                Failure::Usage(format!("--registered-at {text}: {error}; write 2026-06-18T00:00:00+08:00"))
            })?;
        }
        let auth = match &self.data {
            Some(data) => folder::settings(data, self.source.layers()?)?.build()?.auth,
            None => self.source.config()?.auth,
        };
        let now = now_s();
        let claims = |user: String| -> Result<TokenClaims, Failure> {
            if UserId::parse(&user).is_none() {
                return Err(Failure::Usage(format!(
                    "{user:?} is no user id: 1 to 64 characters of printable ASCII without space"
                )));
            }
            Ok(TokenClaims {
                sub: user,
                iss: auth.jwt_issuer.clone(),
                aud: auth.jwt_audience.clone(),
                exp: now + seconds,
                level: self.level.clone(),
                tags: self.tags.clone(),
                registered_at: self.registered_at.clone(),
                first_order: self.first_order,
            })
        };
        let users: Box<dyn Iterator<Item = String>> = match self.users {
            None => Box::new(self.user.iter().cloned()),
            Some(count) => Box::new((1..=count).map(|number| format!("{}{number}", self.prefix))),
        };
        let mut out = BufWriter::new(std::io::stdout().lock());
        for user in users {
            let token = identity::sign(&auth, &claims(user)?)?;
            match writeln!(out, "{token}") {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                written => written.map_err(|error| format!("cannot print: {error}"))?,
            }
        }
        match out.flush() {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(format!("cannot print: {error}").into()),
            _ => Ok(()),
        }
    }
}

/// A token with no facts, good for some days: what `demo` prints.
pub fn plain(auth: &Auth, user: &str, days: u64) -> Result<String, String> {
    let claims = TokenClaims {
        sub: user.into(),
        iss: auth.jwt_issuer.clone(),
        aud: auth.jwt_audience.clone(),
        exp: now_s() + days * 86_400,
        level: None,
        tags: Vec::new(),
        registered_at: None,
        first_order: None,
    };
    identity::sign(auth, &claims)
}

fn now_s() -> u64 {
    Utc::now().timestamp().unsigned_abs()
}

fn seconds(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok().filter(|number| (1..=1_000_000).contains(number))?;
    Some(match unit {
        "s" => number,
        "m" => number * 60,
        "h" => number * 3600,
        "d" => number * 86_400,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        assert_eq!(seconds("90s"), Some(90));
        assert_eq!(seconds("7d"), Some(604_800));
        for wrong in ["", "d", "7", "-1s", "1.5h", "0s", "7ü"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }
}
