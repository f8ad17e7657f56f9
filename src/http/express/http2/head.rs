//! Heads: which of them are plain claims, and those of answers.

use hyper::StatusCode;

use crate::admission::client::Headers;
use crate::domain::ids::TemplateId;
use crate::http::express::hpack::{self, Fields};
use crate::http::express::{Head, with_date};
use crate::http::handlers::claims;
use crate::http::respond::Answer;

/// Places in the compression's static table: of ":status: 200", and of names.
const STATUS: u8 = 8;
const CONTENT_LENGTH: u8 = 28;
const DATE: u8 = 33;

/// `None`: anything else than a plain claim.
pub fn plain_claim(fields: &Fields) -> Option<Head<'_>> {
    if fields.is_too_large() {
        return None;
    }
    let (mut method, mut scheme, mut authority, mut path, mut regular) = (None, None, None, None, false);
    let mut headers = Headers::default();
    for (name, value) in fields.iter() {
        let plain = match name {
            [b':', ..] => {
                let place = match name {
                    b":method" => &mut method,
                    b":scheme" => &mut scheme,
                    b":authority" => &mut authority,
                    b":path" => &mut path,
                    _ => return None,
                };
                !regular && place.replace(value).is_none()
            }
            b"content-length" => value == b"0",
            b"connection" | b"expect" | b"host" | b"keep-alive" | b"proxy-connection" | b"te" | b"trailer"
            | b"transfer-encoding" | b"upgrade" => false,
            _ => name.iter().all(|byte| is_plain_name(*byte)) && !name.is_empty() && headers.add(name, value),
        };
        regular |= !name.starts_with(b":");
        if !plain || !value.iter().all(|byte| is_plain_value(*byte)) {
            return None;
        }
    }
    let plain =
        method == Some(b"POST") && matches!(scheme, Some(b"http" | b"https")) && authority.is_some_and(is_authority);
    let path = std::str::from_utf8(path?).ok()?;
    let template = TemplateId::parse(claims::template_of(path)?)?;
    plain.then_some(Head { path, template, headers })
}

/// A name or an IPv4 address, and perhaps a port.
fn is_authority(text: &[u8]) -> bool {
    let mut parts = text.splitn(2, |byte| *byte == b':');
    let host = parts.next().unwrap_or_default();
    let port = parts.next().unwrap_or(b"0");
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b".-".contains(byte);
    !host.is_empty()
        && host.iter().all(is_of_name)
        && (1..=5).contains(&port.len())
        && port.iter().all(u8::is_ascii_digit)
}

fn is_plain_name(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_'
}

fn is_plain_value(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte)
}

/// An answer's head, without the compression's state.
pub fn put_answer_head(answer: &Answer, block: &mut Vec<u8>) {
    let mut number = itoa::Buffer::new();
    match answer.status() {
        StatusCode::OK => hpack::put_indexed(block, STATUS),
        status => hpack::put_value(block, STATUS, status.as_str().as_bytes()),
    }
    for (name, value) in answer.headers() {
        match hpack::name_index(name.as_str().as_bytes()) {
            Some(index) => hpack::put_value(block, index, value.as_bytes()),
            None => hpack::put_field(block, name.as_str().as_bytes(), value.as_bytes()),
        }
    }
    hpack::put_value(block, CONTENT_LENGTH, number.format(answer.body().len()).as_bytes());
    with_date(|date| hpack::put_value(block, DATE, date));
}
