//! The rules of docs/ARCHITECTURE.md that can be read off the sources.

use std::fs;
use std::path::{Path, PathBuf};

/// Source files below `src/<folder>`, and `src/<folder>.rs`, without their tests.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = vec![root.join(folder)];
    let mut found = Vec::new();
    if !folder.is_empty() {
        paths.push(root.join(format!("{folder}.rs")));
    }
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|ending| ending == "rs") && path.exists() {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
            found.push((path.strip_prefix(&root).unwrap().to_owned(), code));
        }
    }
    assert!(!found.is_empty(), "src/{folder} holds no source: the rule would say nothing");
    found
}

/// Demands that no line of code, comments aside, in `folder` holds one of `words`.
fn never(folder: &str, except: &[&str], words: &[&str]) {
    for (path, code) in sources(folder) {
        if except.iter().any(|allowed| path.starts_with(allowed)) {
            continue;
        }
        for (number, line) in code.lines().enumerate() {
            let is_comment = line.trim_start().starts_with("//");
            let word = words.iter().find(|word| !is_comment && line.contains(**word));
            assert!(word.is_none(), "src/{}:{} holds {word:?}: {line}", path.display(), number + 1);
        }
    }
}

#[test]
fn only_keys_rs_builds_a_key() {
    never("", &["redis/keys.rs"], &["\"fg:", "fg:{{"]);
}

#[test]
fn only_redis_sends_scripts() {
    never("", &["redis", "redis.rs"], &["EVALSHA", "\"EVAL\"", "redis::Script", "get_multiplexed"]);
}

#[test]
fn claim_never_touches_postgresql_and_grant_never_http() {
    never("claim", &[], &["crate::pg", "tokio_postgres", "bb8"]);
    never("grant", &[], &["crate::http", "hyper"]);
}

#[test]
fn the_domain_and_pricing_do_no_io_and_ask_no_clock() {
    let words = [
        "tokio",
        "crate::pg",
        "crate::redis",
        "crate::http",
        "std::net::Tcp",
        "::now(",
        "getrandom",
        "std::fs",
        "Instant",
    ];
    never("domain", &[], &words);
    never("pricing", &["pricing/tests"], &words);
    never("pricing", &["pricing/tests"], &["crate::clock", "crate::app", "crate::config", "std::env", "f64", "f32"]);
}

#[test]
fn handlers_hold_no_sql_and_no_status_codes() {
    never(
        "http/handlers",
        &[],
        &["SELECT ", "INSERT ", "UPDATE ", "include_str!", "StatusCode", ".query(", ".execute("],
    );
}

#[test]
fn statements_are_files_that_say_what_they_do() {
    let mut paths = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sql")];
    let mut files = 0;
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("-- "), "{} does not say what it does", path.display());
        files += 1;
    }
    assert!(files > 20, "only {files} statements were found");
}

#[test]
fn no_script_builds_a_key() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("lua");
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "lua") {
            let text = fs::read_to_string(&path).unwrap();
            for line in text.lines().filter(|line| !line.trim_start().starts_with("--")) {
                assert!(!line.contains("fg:"), "{}: {line}", path.display());
            }
        }
    }
}

/// Alert rules and runbooks that name a metric which is not there never fire and help nobody.
#[test]
fn every_metric_that_rules_and_runbooks_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let known = fs::read_to_string(root.join("src/telemetry.rs")).unwrap();
    let mut named = 0;
    for path in ["deploy/prometheus/floodgate.rules.yml", "docs/OPERATIONS.md", "docs/ARCHITECTURE.md"] {
        let text = fs::read_to_string(root.join(path)).unwrap();
        for part in text.split("floodgate_").skip(1) {
            let name: String = part.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            let base = ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
            assert!(known.contains(&format!("\"floodgate_{base}")), "{path} names floodgate_{name}");
            named += 1;
        }
    }
    assert!(named > 20, "only {named} names were found");
}
