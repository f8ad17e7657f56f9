//! HTTP/2's frames as bytes (RFC 9113, 4 and 6).

/// Octets before a frame's payload.
pub const HEAD_BYTES: usize = 9;

/// The longest payload that either side may send: nobody here ever allows more than the protocol's default.
pub const PAYLOAD_MAX: usize = 16_384;

pub const DATA: u8 = 0x0;
pub const HEADERS: u8 = 0x1;
pub const PRIORITY: u8 = 0x2;
pub const RST_STREAM: u8 = 0x3;
pub const SETTINGS: u8 = 0x4;
pub const GOAWAY: u8 = 0x7;
pub const WINDOW_UPDATE: u8 = 0x8;
pub const CONTINUATION: u8 = 0x9;

/// Of SETTINGS.
pub const ACK: u8 = 0x1;
/// Of DATA and HEADERS.
pub const END_STREAM: u8 = 0x1;
/// Of HEADERS and CONTINUATION.
pub const END_HEADERS: u8 = 0x4;
/// Of DATA and HEADERS.
pub const PADDED: u8 = 0x8;
/// Of HEADERS.
pub const WITH_PRIORITY: u8 = 0x20;

/// Settings: the compression's table, and how much a client takes on each stream before it says so.
pub const HEADER_TABLE_SIZE: u16 = 0x1;
pub const INITIAL_WINDOW_SIZE: u16 = 0x4;
pub const MAX_FRAME_SIZE: u16 = 0x5;

pub const WINDOW_DEFAULT: i64 = 65_535;
pub const WINDOW_MAX: i64 = (1 << 31) - 1;

/// Why a stream or a connection ends (RFC 9113, 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ErrorCode {
    Protocol = 0x1,
    Internal = 0x2,
    FlowControl = 0x3,
    StreamClosed = 0x5,
    FrameSize = 0x6,
    Compression = 0x9,
    EnhanceYourCalm = 0xb,
}

/// One frame that has arrived whole.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: &'a [u8],
    /// With its head.
    pub whole: &'a [u8],
}

/// A frame's payload is longer than [`PAYLOAD_MAX`].
#[derive(Debug, PartialEq, Eq)]
pub struct TooLarge;

// === impl Frame ===

impl<'a> Frame<'a> {
    /// The first frame of `bytes`; `None`: it has not arrived whole.
    pub fn first(bytes: &'a [u8]) -> Result<Option<Self>, TooLarge> {
        let Some(head) = bytes.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let [a, b, c, kind, flags, stream @ ..] = *head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if length > PAYLOAD_MAX {
            return Err(TooLarge);
        }
        let Some(whole) = bytes.get(..HEAD_BYTES + length) else { return Ok(None) };
        let stream = u32::from_be_bytes(stream) & !(1 << 31);
        Ok(Some(Frame { kind, flags, stream, payload: &whole[HEAD_BYTES..], whole }))
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// A payload of one number of 31 bits, as WINDOW_UPDATE has it.
    pub fn number(&self) -> Option<u32> {
        let bytes: [u8; 4] = self.payload.try_into().ok()?;
        Some(u32::from_be_bytes(bytes) & !(1 << 31))
    }

    /// Names and values of SETTINGS.
    pub fn settings(&self) -> impl Iterator<Item = (u16, u32)> + use<'a> {
        let (settings, _) = self.payload.as_chunks::<6>();
        settings.iter().map(|[a, b, value @ ..]| (u16::from_be_bytes([*a, *b]), u32::from_be_bytes(*value)))
    }

    /// HEADERS without padding and priority. `None`: there is more of these than payload.
    pub fn block(&self) -> Option<&'a [u8]> {
        let mut block = self.payload;
        if self.has(PADDED) {
            let (padding, rest) = block.split_first()?;
            block = rest.get(..rest.len().checked_sub(usize::from(*padding))?)?;
        }
        if self.has(WITH_PRIORITY) {
            block = block.get(5..)?;
        }
        Some(block)
    }
}

pub fn put_head(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    let [_, a, b, c] = (length as u32).to_be_bytes();
    let [d, e, f, g] = stream.to_be_bytes();
    out.extend_from_slice(&[a, b, c, kind, flags, d, e, f, g]);
}

/// A frame whose payload is numbers.
pub fn put_numbers(out: &mut Vec<u8>, kind: u8, stream: u32, numbers: &[u32]) {
    put_head(out, 4 * numbers.len(), kind, 0, stream);
    for number in numbers {
        out.extend_from_slice(&number.to_be_bytes());
    }
}

/// A head of one frame: `block` is no longer than [`PAYLOAD_MAX`].
pub fn put_headers(out: &mut Vec<u8>, stream: u32, end_stream: bool, block: &[u8]) {
    debug_assert!(block.len() <= PAYLOAD_MAX);
    put_head(out, block.len(), HEADERS, END_HEADERS | if end_stream { END_STREAM } else { 0 }, stream);
    out.extend_from_slice(block);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_when_it_is_whole() {
        let mut bytes = Vec::new();
        put_numbers(&mut bytes, WINDOW_UPDATE, 7, &[1 << 31 | 5]);
        bytes.extend([0xff; 3]);
        for end in 0..HEAD_BYTES + 4 {
            assert!(Frame::first(&bytes[..end]).unwrap().is_none(), "cut at {end}");
        }
        let frame = Frame::first(&bytes).unwrap().unwrap();
        assert_eq!((frame.kind, frame.stream, frame.number(), frame.whole.len()), (WINDOW_UPDATE, 7, Some(5), 13));
        assert_eq!(Frame::first(&[0, 0x40, 1, 0, 0, 0, 0, 0, 1]).unwrap_err(), TooLarge);
    }

    #[test]
    fn padding_and_priority_are_no_part_of_a_head() {
        let block = |flags: u8, payload: &[u8]| {
            let mut bytes = Vec::new();
            put_head(&mut bytes, payload.len(), HEADERS, flags, 1);
            bytes.extend_from_slice(payload);
            Frame::first(&bytes).unwrap().unwrap().block().map(<[u8]>::to_vec)
        };
        assert_eq!(block(0, b"ab"), Some(b"ab".to_vec()));
        assert_eq!(block(PADDED, &[2, b'a', b'b', 0, 0]), Some(b"ab".to_vec()));
        assert_eq!(block(PADDED | WITH_PRIORITY, &[1, 0, 0, 0, 0, 9, b'a', 0]), Some(b"a".to_vec()));
        for (flags, payload) in
            [(PADDED, &[][..]), (PADDED, &[3, 0, 0]), (WITH_PRIORITY, &[0; 4]), (0x28, &[1, 0, 0, 0, 0])]
        {
            assert_eq!(block(flags, payload), None, "{payload:?}");
        }
    }
}
