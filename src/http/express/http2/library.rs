//! The library's side of a connection.

use std::collections::{HashMap, VecDeque};

use tokio::io::ReadBuf;

use super::{BLOCK, clear};
use crate::http::express::frame::{self, Frame};
use crate::http::express::hpack::{self, Fields};
use crate::limits::HEAD_BYTES_MAX;

/// What goes to the library and comes from it.
#[derive(Default)]
pub struct Library {
    /// For the library, frame after frame, and how much of it was taken.
    input: Vec<u8>,
    taken: usize,
    /// Its streams, until both sides have ended them.
    streams: HashMap<u32, Sides>,
    /// What it wrote of a frame, or of a head, that is not whole.
    output: Vec<u8>,
    /// The last stream of a claim: its GOAWAY must name that, too.
    pub last_claim: u32,
    /// Streams that it has reset, of the client's open ones the latest.
    reset: VecDeque<u32>,
    /// It has begun to say goodbye: from then on, nobody but it takes requests.
    leaving: bool,
    /// The last stream that its goodbye names.
    pub named: Option<u32>,
}

/// Who has ended a stream.
#[derive(Clone, Copy, Default)]
struct Sides {
    client: bool,
    library: bool,
}

/// Streams that were begun and have not ended: twice as many as any setting allows at once.
const STREAMS_KEPT_MAX: usize = 20_000;

/// Streams that the library has reset while the client sent: what was on its way when it heard of it.
const STREAMS_RESET_MAX: usize = 64;

/// What may wait for the library.
const INPUT_BYTES_MAX: usize = 64 * 1024;

// === impl Library ===

impl Library {
    /// Whether it goes on to take requests.
    pub fn is_serving(&self) -> bool {
        !self.leaving
    }

    /// Whether so much waits for it that nothing may be added: a head is much longer here than compressed.
    pub fn is_behind(&self) -> bool {
        self.input.len() - self.taken > INPUT_BYTES_MAX
    }

    pub fn has(&self, stream: u32) -> bool {
        self.streams.contains_key(&stream)
    }

    /// Whether there are more streams than any client has.
    pub fn is_full(&self) -> bool {
        self.streams.len() >= STREAMS_KEPT_MAX
    }

    pub fn begin(&mut self, stream: u32) {
        self.streams.insert(stream, Sides::default());
    }

    pub fn forget(&mut self, stream: u32) {
        self.streams.remove(&stream);
    }

    /// Gives it what there is: whether there was anything.
    pub fn give(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let rest = &self.input[self.taken..];
        let bytes = &rest[..rest.len().min(buffer.remaining())];
        buffer.put_slice(bytes);
        self.taken += bytes.len();
        let any = !bytes.is_empty();
        if self.taken == self.input.len() {
            self.taken = 0;
            clear(&mut self.input);
        }
        any
    }

    /// Takes what it writes, and puts what is whole into `out`. Tells how many octets of it are for windows to bear.
    pub fn take(&mut self, slices: &[&[u8]], out: &mut Vec<u8>) -> usize {
        let mut output = std::mem::take(&mut self.output);
        slices.iter().for_each(|bytes| output.extend_from_slice(bytes));
        let (mut read, mut whole, mut in_head, mut data) = (0, 0, false, 0);
        while let Ok(Some(frame)) = Frame::first(&output[read..]) {
            let payload = read + frame::HEAD_BYTES..read + frame.whole.len();
            read = payload.end;
            let ends = frame.has(frame::END_STREAM);
            match frame.kind {
                frame::HEADERS => {
                    in_head = !frame.has(frame::END_HEADERS);
                    self.library_ends(frame.stream, ends);
                }
                frame::CONTINUATION => in_head = !frame.has(frame::END_HEADERS),
                frame::DATA => {
                    data += payload.len();
                    self.library_ends(frame.stream, ends);
                }
                frame::RST_STREAM => self.library_resets(frame.stream),
                frame::GOAWAY => self.leave(&mut output[payload]),
                _ => {}
            }
            if !in_head {
                whole = read;
            }
        }
        out.extend_from_slice(&output[..whole]);
        output.drain(..whole);
        self.output = output;
        data
    }

    pub fn pass(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// SETTINGS, but for larger frames and the compression's table: the library keeps to the default of frames, which
    /// every client takes, and uses no table, since heads that it does not know of go out between its own.
    pub fn settings(&mut self, frame: &Frame<'_>) {
        let is_whole = frame.payload.len().is_multiple_of(6);
        if !is_whole || frame.has(frame::ACK) {
            return self.pass(frame.whole);
        }
        let is_kept = |(name, value): &(u16, u32)| match *name {
            frame::HEADER_TABLE_SIZE => false,
            frame::MAX_FRAME_SIZE => (*value as usize) < frame::PAYLOAD_MAX,
            _ => true,
        };
        let no_table = (frame::HEADER_TABLE_SIZE, 0);
        let kept = || frame.settings().filter(is_kept).chain([no_table]);
        frame::put_head(&mut self.input, 6 * kept().count(), frame::SETTINGS, frame.flags, frame.stream);
        for (name, value) in kept() {
            self.input.extend_from_slice(&name.to_be_bytes());
            self.input.extend_from_slice(&value.to_be_bytes());
        }
    }

    /// Its window of the connection grows.
    pub fn grow(&mut self, octets: u32) {
        if octets > 0 {
            frame::put_numbers(&mut self.input, frame::WINDOW_UPDATE, 0, &[octets]);
        }
    }

    /// A head that is no claim. Of one that is too large the library gets a small one that counts as too large: what is
    /// left of it must not pass for all of it.
    pub fn head(&mut self, stream: u32, end_stream: bool, fields: &Fields) {
        BLOCK.with_borrow_mut(|block| {
            block.clear();
            if fields.is_too_large() {
                let pseudo =
                    fields.iter().filter(|(name, value)| name.starts_with(b":") && name.len() + value.len() < 1024);
                pseudo.take(4).for_each(|(name, value)| hpack::put_field(block, name, value));
                (0..=HEAD_BYTES_MAX / hpack::FIELD_OVERHEAD).for_each(|_| hpack::put_field(block, b"x", b""));
            } else {
                fields.iter().for_each(|(name, value)| hpack::put_field(block, name, value));
            }
            frame::put_headers(&mut self.input, stream, end_stream, block);
            clear(block);
        });
        self.client_ends(stream, end_stream);
    }

    pub fn client_ends(&mut self, stream: u32, ends: bool) {
        if ends {
            self.side(stream, |sides| sides.client = true);
        }
    }

    fn library_ends(&mut self, stream: u32, ends: bool) {
        if ends {
            self.side(stream, |sides| sides.library = true);
        }
    }

    fn library_resets(&mut self, stream: u32) {
        self.library_ends(stream, true);
        if self.has(stream) {
            self.reset.push_back(stream);
            if self.reset.len() > STREAMS_RESET_MAX
                && let Some(oldest) = self.reset.pop_front()
            {
                self.forget(oldest);
            }
        }
    }

    fn side(&mut self, stream: u32, end: impl FnOnce(&mut Sides)) {
        if let Some(sides) = self.streams.get_mut(&stream) {
            end(sides);
            if sides.client && sides.library {
                self.streams.remove(&stream);
            }
        }
    }

    /// A GOAWAY of the library's names the claims' streams, too. The first of an orderly end names them all.
    fn leave(&mut self, payload: &mut [u8]) {
        let Some(last) = payload.first_chunk_mut::<4>() else { return };
        let told = u32::from_be_bytes(*last);
        self.leaving = true;
        if i64::from(told) < frame::WINDOW_MAX {
            let named = told.max(self.last_claim);
            self.named = Some(named);
            *last = named.to_be_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame::put_head(&mut bytes, payload.len(), kind, flags, stream);
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn what_it_writes_goes_out_in_whole_frames_and_whole_heads() {
        let settings = of(frame::SETTINGS, 0, 0, &[]);
        let head = [of(frame::HEADERS, 0, 1, b"ab"), of(frame::CONTINUATION, frame::END_HEADERS, 1, b"c")].concat();
        let data = of(frame::DATA, frame::END_STREAM, 1, b"body");
        let written = [settings.clone(), head.clone(), data].concat();
        for cut in 0..=written.len() {
            let (mut library, mut out) = (Library::default(), Vec::new());
            let first = library.take(&[&written[..cut]], &mut out);
            let ends = [0, settings.len(), settings.len() + head.len(), written.len()];
            assert!(ends.contains(&out.len()), "cut at {cut}: {} octets", out.len());
            let second = library.take(&[&written[cut..]], &mut out);
            assert_eq!((first + second, &out), (4, &written), "cut at {cut}");
        }
    }

    #[test]
    fn its_goodbye_names_the_claims_too() {
        let goodbye = |last: u32| of(frame::GOAWAY, 0, 0, &[last.to_be_bytes(), [0; 4]].concat());
        let most = frame::WINDOW_MAX as u32;
        for (told, last_claim, expected) in [(most, 9, most), (7, 9, 9), (11, 9, 11)] {
            let mut library = Library { last_claim, ..Library::default() };
            let mut out = Vec::new();
            library.take(&[&goodbye(told)], &mut out);
            assert_eq!(out, goodbye(expected));
            assert!(!library.is_serving(), "what is read now, the library may have refused");
        }
    }

    #[test]
    fn a_stream_is_its_own_until_both_sides_have_ended_it() {
        let mut library = Library::default();
        library.begin(1);
        let mut out = Vec::new();
        library.take(&[&of(frame::HEADERS, frame::END_HEADERS | frame::END_STREAM, 1, &[])], &mut out);
        assert!(library.has(1), "the client still sends");
        library.client_ends(1, false);
        assert!(library.has(1));
        library.client_ends(1, true);
        assert!(!library.has(1));
    }

    #[test]
    fn streams_that_it_has_reset_are_forgotten_in_time() {
        let mut library = Library::default();
        let mut out = Vec::new();
        for stream in (1..20_000).step_by(2) {
            library.begin(stream);
            library.take(&[&of(frame::RST_STREAM, 0, stream, &[0; 4])], &mut out);
            assert!(library.has(stream) && library.streams.len() <= STREAMS_RESET_MAX, "stream {stream}");
        }
    }

    #[test]
    fn it_keeps_to_the_default_size_of_frames_and_to_no_table() {
        let setting = |name: u16, value: u32| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
        let sent = [setting(1, 99), setting(frame::MAX_FRAME_SIZE, 1 << 20), setting(4, 9), setting(5, 1)].concat();
        let mut library = Library::default();
        library.settings(&Frame::first(&of(frame::SETTINGS, 0, 0, &sent)).unwrap().unwrap());
        assert_eq!(library.input, of(frame::SETTINGS, 0, 0, &[setting(4, 9), setting(5, 1), setting(1, 0)].concat()));
        let (mut library, torn) = (Library::default(), of(frame::SETTINGS, 0, 0, &sent[..7]));
        library.settings(&Frame::first(&torn).unwrap().unwrap());
        assert_eq!(library.input, torn, "the library has a word for it");
    }

    #[test]
    fn a_head_that_was_cut_short_is_too_large_for_it() {
        let mut fields = Fields::new(100);
        let mut block = Vec::new();
        (0..5).for_each(|_| hpack::put_field(&mut block, b"name", b"value"));
        hpack::Decoder::new(4096).decode(&block, &mut fields).unwrap();
        assert!(fields.is_too_large());
        let mut library = Library::default();
        library.head(1, true, &fields);
        let mut told = Fields::new(HEAD_BYTES_MAX);
        let frame = Frame::first(&library.input).unwrap().unwrap();
        hpack::Decoder::new(4096).decode(frame.payload, &mut told).unwrap();
        assert!(frame.has(frame::END_HEADERS | frame::END_STREAM) && told.is_too_large());
    }
}
