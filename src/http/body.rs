//! Bodies: JSON read with a bound on nesting, and exactly where numbers are money.

use serde_json::Value;

use super::problem::Problem;
use crate::limits::JSON_DEPTH_MAX;

/// Reads JSON. Nesting beyond the bound is refused before anything is built from it.
pub fn parse_json(bytes: &[u8]) -> Result<Value, Problem> {
    if std::str::from_utf8(bytes).is_err() {
        return Err(Problem::new("invalid_request", "the body is not UTF-8"));
    }
    if depth(bytes) > JSON_DEPTH_MAX {
        return Err(Problem::new("invalid_request", format!("the body is nested deeper than {JSON_DEPTH_MAX}")));
    }
    serde_json::from_slice(bytes)
        .map_err(|error| Problem::new("invalid_request", format!("the body is no JSON: {error}")))
}

fn depth(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_text, mut escaped) = (0usize, 0, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_or_broken_json_is_refused() {
        assert!(parse_json(b"{\"a\":[1,2,{\"b\":\"]]]]\"}]}").is_ok());
        assert!(parse_json("[".repeat(100_000).as_bytes()).is_err());
        assert!(parse_json(b"\xff").is_err());
        assert!(parse_json(b"{\"a\":1,}").is_err());
        assert_eq!(depth(br#"{"a":"\"[[[["}"#), 1);
    }
}
