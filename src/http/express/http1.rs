//! Plain claims over HTTP/1.1: whole, and alone on their connection.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::{Begun, Decided, Head, begin, with_date};
use crate::admission::client::Headers;
use crate::domain::ids::TemplateId;
use crate::http::entrance::Entrance;
use crate::http::handlers::claims;
use crate::http::respond::{self, Answer};
use crate::http::route::Door;

/// The claims of one connection.
pub struct Express {
    entrance: Arc<Entrance>,
    peer: IpAddr,
    claim: Option<Pin<Box<dyn Future<Output = Decided> + Send>>>,
    /// An answer, and how much of it is sent.
    out: Vec<u8>,
    sent: usize,
    /// The answer was the connection's last.
    closing: bool,
}

/// Header lines that a plain claim may have.
const LINES_MAX: usize = 32;

// === impl Express ===

impl Express {
    /// For a connection of the public listener: claims have no other door.
    pub fn at(entrance: &Arc<Entrance>, peer: IpAddr) -> Option<Self> {
        let express =
            || Express { entrance: entrance.clone(), peer, claim: None, out: Vec::new(), sent: 0, closing: false };
        (entrance.door == Door::Public).then(express)
    }

    /// Takes a request that is a plain claim, whole and alone. `false`: it is for the library.
    pub fn take(&mut self, bytes: &[u8]) -> bool {
        let Some(head) = parse(bytes) else { return false };
        match begin(&self.entrance, self.peer, &head) {
            Begun::UnderWay(claim) => self.claim = Some(Box::pin(claim)),
            Begun::Refused(decided) => self.answer(*decided),
        }
        true
    }

    /// Goes on with the claim under way: ready, when there is none or its answer stands in [`Self::unsent`].
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(claim) = &mut self.claim {
            let decided = ready!(claim.as_mut().poll(cx));
            self.claim = None;
            self.answer(decided);
        }
        Poll::Ready(())
    }

    /// What is left to send.
    pub fn unsent(&self) -> &[u8] {
        &self.out[self.sent..]
    }

    /// So much of it was sent.
    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent == self.out.len() {
            self.sent = 0;
            self.out.clear();
        }
    }

    /// Whether a claim is under way or its answer not sent.
    pub fn is_busy(&self) -> bool {
        self.claim.is_some() || !self.out.is_empty()
    }

    /// Whether nothing may follow on this connection.
    pub fn is_over(&self) -> bool {
        self.closing && !self.is_busy()
    }

    fn answer(&mut self, decided: Decided) {
        let mut answer = decided.answer(&self.entrance);
        if self.entrance.app.draining() {
            respond::close(&mut answer);
            self.closing = true;
        }
        write_http1(&answer, &mut self.out);
    }
}

/// An answer as HTTP/1.1 has it.
fn write_http1(answer: &Answer, out: &mut Vec<u8>) {
    let status = answer.status();
    let body = answer.body();
    let mut number = itoa::Buffer::new();
    out.reserve(body.len() + 256);
    for part in ["HTTP/1.1 ", status.as_str(), " ", status.canonical_reason().unwrap_or(""), "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    for (name, value) in answer.headers() {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(b"content-length: ");
    out.extend_from_slice(number.format(body.len()).as_bytes());
    out.extend_from_slice(b"\r\ndate: ");
    with_date(|date| out.extend_from_slice(date));
    out.extend_from_slice(b"\r\n\r\n");
    out.extend_from_slice(body);
}

/// `None`: anything else than one whole and plain claim.
fn parse(bytes: &[u8]) -> Option<Head<'_>> {
    // The guard refuses what stands before a request; the library shall see it.
    if !bytes.starts_with(b"POST /v1/templates/") || has_bare_lf(bytes) {
        return None;
    }
    let mut lines = [httparse::EMPTY_HEADER; LINES_MAX];
    let mut request = httparse::Request::new(&mut lines);
    let httparse::Status::Complete(length) = request.parse(bytes).ok()? else { return None };
    if length != bytes.len() || request.version != Some(1) {
        return None;
    }
    let path = request.path?;
    let id = claims::template_of(path)?;
    let (mut headers, mut hosts) = (Headers::default(), 0);
    for line in request.headers.iter() {
        let name = line.name.as_bytes();
        let plain = match name.len() {
            4 if is(name, b"host") => {
                hosts += 1;
                true
            }
            14 if is(name, b"content-length") => line.value == b"0",
            10 if is(name, b"connection") => is(line.value, b"keep-alive"),
            2 if is(name, b"te") => false,
            6 if is(name, b"expect") => false,
            7 if is(name, b"upgrade") || is(name, b"trailer") => false,
            17 if is(name, b"transfer-encoding") => false,
            _ => headers.add(name, line.value),
        };
        if !plain {
            return None;
        }
    }
    let template = TemplateId::parse(id)?;
    (hosts == 1).then_some(Head { path, template, headers })
}

fn is(text: &[u8], word: &[u8]) -> bool {
    text.eq_ignore_ascii_case(word)
}

fn has_bare_lf(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', bytes).any(|at| at == 0 || bytes[at - 1] != b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::client::Name;
    use crate::http::problem::Problem;

    const PLAIN: &str = "POST /v1/templates/7/claims HTTP/1.1\r\nHost: a\r\nX-User-Id: ann\r\n\r\n";

    #[test]
    fn a_plain_claim_is_read() {
        let head = parse(PLAIN.as_bytes()).unwrap();
        assert_eq!((head.template, head.path), (TemplateId(7), "/v1/templates/7/claims"));
        assert_eq!(head.headers.get(Name::UserId), Some(&b"ann"[..]));
        let more = PLAIN.replace("\r\n\r\n", "\r\nContent-Length: 0\r\nConnection: Keep-Alive\r\nAccept: */*\r\n\r\n");
        assert!(parse(more.as_bytes()).is_some());
    }

    #[test]
    fn everything_else_is_for_the_library() {
        for end in 0..PLAIN.len() {
            assert!(parse(&PLAIN.as_bytes()[..end]).is_none(), "cut at {end}");
        }
        let with = |line: &str| PLAIN.replace("\r\n\r\n", &format!("\r\n{line}\r\n\r\n"));
        for line in [
            "Host: b",
            "X-User-Id: ben",
            "Content-Length: 2",
            "Content-Length: 00",
            "Transfer-Encoding: chunked",
            "Expect: 100-continue",
            "Connection: close",
            "Connection: keep-alive, upgrade",
            "Upgrade: h2c",
            "TE: trailers",
            "Trailer: x",
            "no header",
            "a: b\nc: d",
        ] {
            assert!(parse(with(line).as_bytes()).is_none(), "{line}");
        }
        for other in [
            PLAIN.replace("POST", "GET"),
            PLAIN.replace("POST", "post"),
            PLAIN.replace("HTTP/1.1", "HTTP/1.0"),
            PLAIN.replace("Host: a\r\n", ""),
            PLAIN.replace("/7/", "/seven/"),
            PLAIN.replace("/claims", "/claims?x=1"),
            PLAIN.replace("/claims", "/claims/"),
            PLAIN.replace("\r\n", "\n"),
            format!("\r\n{PLAIN}"),
            format!("{PLAIN}{PLAIN}"),
            format!("{PLAIN}x"),
            with(&"a: b\r\n".repeat(LINES_MAX)),
        ] {
            assert!(parse(other.as_bytes()).is_none(), "{other}");
        }
    }

    #[test]
    fn an_answer_is_http() {
        let mut answer = respond::problem(&Problem::new("sold_out", "nothing left"), "r-1");
        respond::name_request(&mut answer, "r-1");
        let mut out = Vec::new();
        write_http1(&answer, &mut out);
        let (mut lines, text) = ([httparse::EMPTY_HEADER; 16], String::from_utf8(out.clone()).unwrap());
        let mut response = httparse::Response::new(&mut lines);
        let length = response.parse(&out).unwrap().unwrap();
        assert_eq!((response.version, response.code, response.reason), (Some(1), Some(410), Some("Gone")));
        let value = |name| response.headers.iter().find(|line| line.name == name).map(|line| line.value);
        assert_eq!(value("content-length").unwrap(), (out.len() - length).to_string().as_bytes());
        assert_eq!(value("x-request-id"), Some(&b"r-1"[..]));
        assert!(text.contains("GMT\r\n\r\n{\"type\""), "{text}");
    }
}
