//! Bodies: JSON read with a bound on nesting, and exactly where numbers are money.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use serde_json::Value;

use super::problem::Problem;
use crate::limits::JSON_DEPTH_MAX;

/// Reads a body whole: at most `max` bytes, within `timeout`.
pub async fn read(mut body: Incoming, max: usize, timeout: Duration) -> Result<Bytes, Problem> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let too_large = || Problem::new("payload_too_large", format!("the body may have {max} bytes"));
    if body.size_hint().lower() > max as u64 {
        return Err(too_large());
    }
    let whole = async {
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Problem::new("invalid_request", "the body broke off"))?;
            if let Some(data) = frame.data_ref() {
                if whole.len() + data.len() > max {
                    return Err(too_large());
                }
                whole.extend_from_slice(data);
            }
        }
        Ok(whole.freeze())
    };
    match tokio::time::timeout(timeout, whole).await {
        Ok(read) => read,
        Err(_) => Err(Problem::new("request_timeout", "the body did not arrive in time")),
    }
}

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
