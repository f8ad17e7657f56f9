//! A small HTTP client with keep-alive, and raw bytes for those who send worse.

use std::io;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper::{HeaderMap, Method, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than any answer may take: a server that hangs fails the test, not the machine.
pub const ANSWER_MAX: Duration = Duration::from_secs(30);

/// What a request came back with.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub bytes: Bytes,
    /// The body as JSON; null where it is none.
    pub json: Value,
}

/// Connections to one listener, kept and used again.
pub struct Client {
    address: String,
    idle: Mutex<Vec<http1::SendRequest<Full<Bytes>>>>,
}

/// One HTTP/2 connection without negotiation.
#[derive(Clone)]
pub struct H2Client {
    address: String,
    sender: http2::SendRequest<Full<Bytes>>,
}

// === impl Answer ===

impl Answer {
    /// The stable word of a problem, or the outcome of a claim; empty where there is neither.
    pub fn code(&self) -> &str {
        self.json["code"].as_str().or(self.json["outcome"].as_str()).unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// `Retry-After` in seconds.
    pub fn retry_after(&self) -> Option<u64> {
        self.header("retry-after").and_then(|text| text.parse().ok())
    }

    async fn read(response: hyper::Response<hyper::body::Incoming>) -> io::Result<Answer> {
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let json: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let answer = Answer { status: head.status.as_u16(), headers: head.headers, bytes, json };
        if answer.header("content-type") == Some("application/problem+json") {
            // RFC 9457: the status again, for whoever sees the body alone.
            assert_eq!(answer.json["status"], answer.status, "{answer:?}");
        }
        Ok(answer)
    }
}

// === impl Client ===

impl Client {
    /// `address` as `127.0.0.1:8080`.
    pub fn new(address: &str) -> Client {
        Client { address: address.to_owned(), idle: Mutex::default() }
    }

    /// Sends one request and reads its answer whole. `Err`: the connection failed, or time ran out.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> io::Result<Answer> {
        let body = body.into();
        let exchange = async {
            loop {
                let mut sender = self.sender().await?;
                let request = request(&self.address, method, path, headers, body.clone(), true);
                let response = match sender.send_request(request).await {
                    // The server closed the idle connection meanwhile; nothing was sent.
                    Err(error) if error.is_canceled() => continue,
                    response => response.map_err(io::Error::other)?,
                };
                let answer = Answer::read(response).await?;
                self.idle.lock().unwrap().push(sender);
                return Ok(answer);
            }
        };
        tokio::time::timeout(ANSWER_MAX, exchange).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// A connection that is open and idle, or a new one.
    async fn sender(&self) -> io::Result<http1::SendRequest<Full<Bytes>>> {
        loop {
            let Some(mut known) = self.idle.lock().unwrap().pop() else { break };
            if known.ready().await.is_ok() {
                return Ok(known);
            }
        }
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

// === impl H2Client ===

impl H2Client {
    pub async fn connect(address: &str) -> io::Result<H2Client> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(H2Client { address: address.to_owned(), sender })
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> io::Result<Answer> {
        let request = request(&format!("http://{}", self.address), method, path, headers, body.into(), false);
        let exchange = async {
            let response = self.sender.clone().send_request(request).await.map_err(io::Error::other)?;
            Answer::read(response).await
        };
        tokio::time::timeout(ANSWER_MAX, exchange).await.map_err(|_| io::ErrorKind::TimedOut)?
    }
}

fn request(
    origin: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
    http1: bool,
) -> Request<Full<Bytes>> {
    let uri = if http1 { path.to_owned() } else { format!("{origin}{path}") };
    let mut builder = Request::builder().method(method.parse::<Method>().unwrap()).uri(uri);
    if http1 {
        builder = builder.header("host", origin);
    }
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(Full::new(body)).unwrap()
}

// === Raw bytes ===

/// Sends bytes as they are, then reads until the server closes or `patience` ends.
/// `None`: it neither closed nor answered in time.
pub async fn raw(address: &str, bytes: &[u8], patience: Duration) -> Option<Vec<u8>> {
    raw_parts(address, &[bytes], patience).await
}

/// The same in parts, each a packet of its own as far as the network keeps them apart.
pub async fn raw_parts(address: &str, parts: &[&[u8]], patience: Duration) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let _ = stream.set_nodelay(true);
    let mut answer = Vec::new();
    let exchange = async {
        let (mut read, mut write) = stream.split();
        let send = async {
            for part in parts {
                // A server that has closed its end has answered.
                if write.write_all(part).await.is_err() {
                    return;
                }
            }
        };
        let receive = async {
            let mut buffer = [0; 8192];
            while let Ok(taken @ 1..) = read.read(&mut buffer).await {
                answer.extend_from_slice(&buffer[..taken]);
            }
        };
        tokio::join!(send, receive);
    };
    let closed = tokio::time::timeout(patience, exchange).await.is_ok();
    (closed || !answer.is_empty()).then_some(answer)
}

/// The status of every answer in what a server sent over HTTP/1.1.
pub fn statuses(answer: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(answer);
    text.match_indices("HTTP/1.").filter_map(|(at, _)| text[at..].split(' ').nth(1)?.get(..3)?.parse().ok()).collect()
}
