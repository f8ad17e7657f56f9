//! An HTTP/2 client that sends what it is told to, frame by frame.

use std::time::Duration;

use floodgate::http::express::frame::{self, Frame};
use floodgate::http::express::hpack::{self, Decoder, Fields};
pub use floodgate::http::express::http2::PREFACE;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

const PATIENCE: Duration = Duration::from_secs(10);

/// The octets that browsers and proxies allow a connection.
pub const WIDE: u32 = 16 << 20;

pub struct Frames {
    reader: Reader,
    writer: OwnedWriteHalf,
}

/// What the server says.
pub struct Reader {
    stream: OwnedReadHalf,
    input: Vec<u8>,
    decoder: Decoder,
    /// Octets of DATA that have come.
    taken: u32,
}

/// A frame, as it came.
#[derive(Clone, Debug)]
pub struct Came {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
    /// Of HEADERS, sorted.
    pub fields: Vec<(String, String)>,
}

/// What a request came back with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reply {
    /// Sorted, without `date`.
    pub fields: Vec<(String, String)>,
    pub body: String,
    /// See [`is_express`].
    pub express: bool,
    /// Of its head.
    pub first: u8,
    /// There was none, for this reason.
    pub reset: Option<u32>,
}

// === impl Reply ===

impl Reply {
    pub fn status(&self) -> u16 {
        let status = self.fields.iter().find(|(name, _)| name == ":status");
        status.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

// === impl Frames ===

impl Frames {
    /// Connects and says nothing.
    pub async fn connect(address: &str) -> Frames {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (reader, writer) = stream.into_split();
        let reader = Reader { stream: reader, input: Vec::new(), decoder: Decoder::new(4096), taken: 0 };
        Frames { reader, writer }
    }

    /// Connects as most clients do: with a wide window of the connection.
    pub async fn open(address: &str) -> Frames {
        let mut frames = Frames::connect(address).await;
        frames.send(&[hello(&[]), window(0, WIDE)].concat()).await;
        frames
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        // A server that has closed has said why.
        let _ = self.writer.write_all(bytes).await;
    }

    /// Sends as much as is taken within a moment.
    pub async fn send_some(&mut self, bytes: &[u8]) {
        let _ = tokio::time::timeout(Duration::from_millis(300), self.send(bytes)).await;
    }

    /// Sends no more.
    pub async fn shutdown(&mut self) {
        self.writer.shutdown().await.unwrap();
    }

    pub async fn next(&mut self) -> Option<Came> {
        self.reader.next().await
    }

    /// Octets of DATA that have come since the last time.
    pub fn taken(&mut self) -> u32 {
        std::mem::take(&mut self.reader.taken)
    }

    pub fn split(self) -> (Reader, OwnedWriteHalf) {
        (self.reader, self.writer)
    }

    /// Reads until each of these streams is answered, whatever the order; in the order of `streams`.
    pub async fn replies(&mut self, streams: &[u32]) -> Vec<Reply> {
        let mut replies = vec![Reply::default(); streams.len()];
        let mut left = streams.len();
        while left > 0 {
            let came = self.next().await.expect("the server goes on");
            let Some(at) = streams.iter().position(|stream| *stream == came.stream) else { continue };
            match came.kind {
                frame::HEADERS => {
                    replies[at].express = is_express(&came.payload);
                    replies[at].first = came.payload[0];
                    replies[at].fields = came.fields.into_iter().filter(|(name, _)| name != "date").collect();
                }
                frame::DATA => replies[at].body += std::str::from_utf8(&came.payload).unwrap(),
                frame::RST_STREAM if replies[at].reset.is_none() => {
                    let code = u32::from_be_bytes(came.payload[..4].try_into().unwrap());
                    // What is answered already is told only not to send on.
                    if replies[at].fields.is_empty() {
                        replies[at].reset = Some(code);
                        left -= 1;
                    }
                }
                _ => {}
            }
            let ends = matches!(came.kind, frame::HEADERS | frame::DATA) && came.flags & frame::END_STREAM != 0;
            left -= usize::from(ends);
        }
        replies
    }

    pub async fn reply(&mut self, stream: u32) -> Reply {
        self.replies(&[stream]).await.remove(0)
    }

    /// Reads until the server says goodbye: the last stream that it took, and why. `None`: it closed without a word.
    pub async fn goodbye(&mut self) -> Option<(u32, u32)> {
        loop {
            let came = self.next().await?;
            if came.kind == frame::GOAWAY {
                let number = |at: usize| u32::from_be_bytes(came.payload[at..at + 4].try_into().unwrap());
                return Some((number(0), number(4)));
            }
        }
    }
}

// === impl Reader ===

impl Reader {
    /// The next frame; `None`: the server closed.
    pub async fn next(&mut self) -> Option<Came> {
        loop {
            if let Some(frame) = Frame::first(&self.input).expect("no frame is too large") {
                let mut fields = Fields::new(1 << 16);
                if frame.kind == frame::HEADERS {
                    assert!(frame.has(frame::END_HEADERS));
                    self.decoder.decode(frame.block().unwrap(), &mut fields).expect("a block of HPACK");
                }
                if frame.kind == frame::DATA {
                    self.taken += frame.payload.len() as u32;
                }
                let text = |bytes| String::from_utf8(Vec::from(bytes)).unwrap();
                let mut fields: Vec<_> = fields.iter().map(|(name, value)| (text(name), text(value))).collect();
                fields.sort();
                let Frame { kind, flags, stream, payload, whole } = frame;
                let came = Came { kind, flags, stream, payload: payload.to_vec(), fields };
                let length = whole.len();
                self.input.drain(..length);
                return Some(came);
            }
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await;
            if !matches!(read.expect("a frame in time"), Ok(1..)) {
                return None;
            }
        }
    }
}

/// Whether a head was written without the library, whose encoder shortens names.
pub fn is_express(block: &[u8]) -> bool {
    let plain = &b"x-request-id"[..];
    block.windows(plain.len()).any(|part| part == plain)
}

/// The preface and settings.
pub fn hello(settings: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (name, value) in settings {
        payload.extend(name.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    [PREFACE, &of(frame::SETTINGS, 0, 0, &payload)].concat()
}

pub fn of(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::put_head(&mut bytes, payload.len(), kind, flags, stream);
    bytes.extend_from_slice(payload);
    bytes
}

pub fn window(stream: u32, octets: u32) -> Vec<u8> {
    of(frame::WINDOW_UPDATE, 0, stream, &octets.to_be_bytes())
}

/// A head in as many frames as it takes.
pub fn head(stream: u32, end_stream: bool, block: &[u8]) -> Vec<u8> {
    let flags = if end_stream { frame::END_STREAM } else { 0 };
    let mut parts: Vec<&[u8]> = block.chunks(frame::PAYLOAD_MAX).collect();
    let Some(last) = parts.pop() else { return of(frame::HEADERS, flags | frame::END_HEADERS, stream, &[]) };
    let mut bytes = Vec::new();
    for part in &parts {
        let (kind, flags) = if bytes.is_empty() { (frame::HEADERS, flags) } else { (frame::CONTINUATION, 0) };
        bytes.extend(of(kind, flags, stream, part));
    }
    let (kind, flags) = if bytes.is_empty() { (frame::HEADERS, flags) } else { (frame::CONTINUATION, 0) };
    bytes.extend(of(kind, flags | frame::END_HEADERS, stream, last));
    bytes
}

/// A head's block.
pub fn block(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    let pseudo = [(":method", method), (":scheme", "http"), (":authority", "shop"), (":path", path)];
    for (name, value) in pseudo.iter().chain(more) {
        hpack::put_field(&mut block, name.as_bytes(), value.as_bytes());
    }
    block
}

/// A request without a body.
pub fn request(stream: u32, method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    of(frame::HEADERS, frame::END_STREAM | frame::END_HEADERS, stream, &block(method, path, more))
}
