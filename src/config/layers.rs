//! Settings as they are merged: the compiled-in default, a file, the environment, flags.

use std::path::Path;

use toml::{Table, Value};

use super::{Config, ConfigError};
use crate::faults;

const DEFAULTS: &str = include_str!("default.toml");

/// Settings as they were merged, not yet typed: what `floodgate config` prints.
pub struct Layers {
    table: Table,
}

// === impl Layers ===

impl Layers {
    /// The defaults, then `file`, then variables of the environment that begin with `FLOODGATE_`.
    pub fn read(file: Option<&Path>, env: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let mut table: Table = DEFAULTS.parse().expect("default.toml is checked by a test");
        let mut wrong = Vec::new();
        if let Some(path) = file {
            match std::fs::read_to_string(path) {
                Err(error) => wrong.push(format!("cannot read the settings file {}: {error}", path.display())),
                Ok(text) => match text.parse::<Table>() {
                    Err(error) => wrong.push(format!("{} is no TOML: {}", path.display(), error.message())),
                    Ok(over) => lay_over(&mut table, over, &path.display().to_string(), &mut wrong),
                },
            }
        }
        for (variable, text) in env {
            if let Some(name) = variable.strip_prefix("FLOODGATE_") {
                set_from_env(&mut table, name, &variable, &text, &mut wrong);
            }
        }
        if wrong.is_empty() { Ok(Layers { table }) } else { Err(ConfigError(wrong)) }
    }

    /// Sets one value, as a flag does. `section.key` must exist.
    pub fn set(&mut self, section: &str, key: &str, value: impl Into<Value>) {
        let table = self.table.get_mut(section).and_then(Value::as_table_mut).expect("a known section");
        assert!(table.insert(key.to_owned(), value.into()).is_some(), "{section}.{key} is no setting");
    }

    /// Typed and checked.
    pub fn build(self) -> Result<Config, ConfigError> {
        let config: Config =
            self.table.try_into().map_err(|error| ConfigError(vec![error.to_string().trim().to_owned()]))?;
        config.checked()
    }

    /// As TOML, secrets hidden: passwords in URLs, keys, and whatever else must not be seen.
    pub fn print(&self) -> String {
        let mut shown = self.table.clone();
        for (section, key) in SECRETS {
            let slot = shown.get_mut(*section).and_then(Value::as_table_mut).and_then(|table| table.get_mut(*key));
            if let Some(Value::String(text)) = slot {
                *text = if key.ends_with("url") {
                    hide_password(text)
                } else if text.is_empty() {
                    String::new()
                } else {
                    "(hidden)".into()
                };
            } else if let Some(Value::Array(urls)) = slot {
                urls.iter_mut().for_each(|url| *url = url.as_str().map(hide_password).unwrap_or_default().into());
            }
        }
        toml::to_string(&shown).expect("a table of plain values")
    }
}

const SECRETS: &[(&str, &str)] = &[
    ("redis", "url"),
    ("redis", "sentinels"),
    ("postgres", "url"),
    ("postgres", "replica_url"),
    ("auth", "jwt_secret"),
    ("auth", "admin_key"),
    ("code", "key"),
    ("approval", "secret"),
];

/// Names that the environment may use beside FLOODGATE_SECTION_KEY.
const SHORT_NAMES: &[(&str, &str, &str)] = &[
    ("JWT_SECRET", "auth", "jwt_secret"),
    ("JWT_SECRET_FILE", "auth", "jwt_secret_file"),
    ("JWT_ISSUER", "auth", "jwt_issuer"),
    ("JWT_AUDIENCE", "auth", "jwt_audience"),
    ("ADMIN_KEY", "auth", "admin_key"),
    ("ADMIN_KEY_FILE", "auth", "admin_key_file"),
    ("TRUSTED_PROXIES", "auth", "trusted_proxies"),
];

/// Variables that are no settings: read by the command line, the last four by tests and benchmarks.
const NOT_SETTINGS: &[&str] =
    &["CONFIG", "ROLES", "DATA", "COMMIT", "PRICING_CASES", "PRICING_SEED", "PRICING_CARTS", "PRICING_CUT"];

fn lay_over(table: &mut Table, over: Table, origin: &str, wrong: &mut Vec<String>) {
    for (section, values) in over {
        let Some(known) = table.get_mut(&section).and_then(Value::as_table_mut) else {
            wrong.push(format!("{origin}: there is no section [{section}]"));
            continue;
        };
        let Value::Table(values) = values else {
            wrong.push(format!("{origin}: {section} is a section: write [{section}] and its settings below"));
            continue;
        };
        for (key, value) in values {
            match known.get_mut(&key) {
                Some(slot) => *slot = value,
                None => wrong.push(format!("{origin}: there is no setting {key} in [{section}]")),
            }
        }
    }
}

fn set_from_env(table: &mut Table, name: &str, variable: &str, text: &str, wrong: &mut Vec<String>) {
    if NOT_SETTINGS.contains(&name) || faults::is_variable(name) {
        return;
    }
    let short = SHORT_NAMES
        .iter()
        .find(|(short, ..)| *short == name)
        .map(|(_, section, key)| ((*section).to_owned(), (*key).to_owned()));
    let long = || {
        table.keys().find_map(|section| {
            let key = name.strip_prefix(&section.to_uppercase())?.strip_prefix('_')?.to_lowercase();
            table[section].get(&key).map(|_| (section.clone(), key))
        })
    };
    let Some((section, key)) = short.or_else(long) else {
        if is_service_link(name, text) {
            return;
        }
        wrong.push(format!("{variable} names no setting: see `floodgate config`"));
        return;
    };
    let slot = &mut table[&section][&key];
    let parsed = match slot {
        Value::Integer(_) => text.trim().parse().ok().map(Value::Integer),
        Value::Boolean(_) => text.trim().parse().ok().map(Value::Boolean),
        Value::Array(_) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Some(Value::Array(items.map(|item| Value::String(item.to_owned())).collect()))
        }
        _ => Some(Value::String(text.to_owned())),
    };
    match parsed {
        Some(value) => *slot = value,
        None => wrong.push(format!(
            "{variable}={text} is no {}",
            if slot.is_integer() { "whole number" } else { "true or false" }
        )),
    }
}

/// Whether Kubernetes has set a variable, as it does in every pod of a namespace for a Service whose name begins with
/// this program's.
fn is_service_link(name: &str, text: &str) -> bool {
    let is_address = text.starts_with("tcp://") || text.starts_with("udp://");
    let of_port = |name: &str| name.starts_with(|digit: char| digit.is_ascii_digit());
    name.ends_with("SERVICE_HOST")
        || name.contains("SERVICE_PORT")
        || name.split("PORT_").skip(1).any(of_port)
        || name.ends_with("PORT") && is_address
}

fn hide_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let Some((user, host)) = rest.rsplit_once('@') else { return url.to_owned() };
    let user = user.split(':').next().unwrap_or_default();
    format!("{scheme}://{user}:(hidden)@{host}")
}
