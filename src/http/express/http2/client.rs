//! The client's side of a connection.

use std::borrow::Cow;

use crate::http::express::frame::{self, ErrorCode, Frame};
use crate::http::express::hpack::{self, Decoder, Fields};
use crate::limits::HEAD_BYTES_MAX;

/// What comes from the client.
pub struct Client {
    /// How much of a connection's beginning has passed.
    preface: usize,
    /// Its claims are the library's: it is none of those that this knows to answer.
    odd: bool,
    /// Its settings have come.
    pub is_set: bool,
    decoder: Decoder,
    /// It was told that answers use no table.
    is_told: bool,
    /// What has arrived and could not be looked at: half a frame, or what must wait.
    pub unread: Vec<u8>,
    /// A head whose end has not arrived.
    head: Option<OpenHead>,
    /// The last stream that it opened.
    last: u32,
    /// It sends no more.
    pub ended: bool,
}

/// A head that has arrived.
pub struct WholeHead<'a> {
    pub stream: u32,
    pub end_stream: bool,
    pub block: Cow<'a, [u8]>,
}

struct OpenHead {
    head: WholeHead<'static>,
    frames: usize,
}

/// What a client sends first (RFC 9113, 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The compression's table of the protocol's default: the library announces no other.
const TABLE_BYTES: usize = 4096;

/// A head that arrives in parts: octets as sent, and parts.
const BLOCK_BYTES_MAX: usize = 2 * HEAD_BYTES_MAX;
const BLOCK_FRAMES_MAX: usize = 16;

// === impl Client ===

impl Client {
    pub fn new(is_public: bool) -> Self {
        Client {
            preface: 0,
            odd: !is_public,
            is_set: false,
            decoder: Decoder::new(TABLE_BYTES),
            is_told: false,
            unread: Vec::new(),
            head: None,
            last: 0,
            ended: false,
        }
    }

    /// How many octets at the front belong to the preface. Whoever says another one is told by the library.
    pub fn preface(&mut self, bytes: &[u8]) -> usize {
        let preface = &PREFACE[self.preface..];
        let length = preface.len().min(bytes.len());
        self.odd |= bytes[..length] != preface[..length];
        self.preface += length;
        length
    }

    pub fn may_be_plain(&self) -> bool {
        !self.odd && self.is_set
    }

    pub fn last(&self) -> u32 {
        self.last
    }

    /// Whether a head opens its stream.
    pub fn opens(&mut self, stream: u32) -> bool {
        let opens = stream % 2 == 1 && stream > self.last;
        if opens {
            self.last = stream;
        }
        opens
    }

    pub fn has_opened(&self, stream: u32) -> bool {
        stream <= self.last
    }

    pub fn is_in_head(&self) -> bool {
        self.head.is_some()
    }

    /// Takes HEADERS or CONTINUATION; gives the head with its last part.
    pub fn collect<'a>(&mut self, frame: &Frame<'a>) -> Result<Option<WholeHead<'a>>, ErrorCode> {
        if frame.kind == frame::HEADERS {
            let block = frame.block().ok_or(ErrorCode::Protocol)?;
            let (stream, end_stream) = (frame.stream, frame.has(frame::END_STREAM));
            if frame.has(frame::END_HEADERS) {
                return Ok(Some(WholeHead { stream, end_stream, block: Cow::Borrowed(block) }));
            }
            let head = WholeHead { stream, end_stream, block: Cow::Owned(block.to_vec()) };
            self.head = Some(OpenHead { head, frames: 1 });
            return Ok(None);
        }
        let open = self.head.as_mut().filter(|open| open.head.stream == frame.stream).ok_or(ErrorCode::Protocol)?;
        open.frames += 1;
        let block = open.head.block.to_mut();
        if open.frames > BLOCK_FRAMES_MAX || block.len() + frame.payload.len() > BLOCK_BYTES_MAX {
            return Err(ErrorCode::EnhanceYourCalm);
        }
        block.extend_from_slice(frame.payload);
        Ok(if frame.has(frame::END_HEADERS) { self.head.take().map(|open| open.head) } else { None })
    }

    /// Heads must be read in their order, every one.
    pub fn decode(&mut self, block: &[u8], fields: &mut Fields) -> Result<(), ErrorCode> {
        self.decoder.decode(block, fields).map_err(|hpack::Malformed| ErrorCode::Compression)
    }

    /// Before the fields of an answer's head: the first one says that there is no table. Whatever the client says of its
    /// table then needs no word, and the library, which is told to use none, says the same before its own first head.
    pub fn put_table_size(&mut self, block: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.is_told, true) {
            hpack::put_table_size(block, 0);
        }
    }
}
