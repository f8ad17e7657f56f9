//! Strings in Huffman's code (RFC 7541, appendix B).

use super::Malformed;

/// Appends what a Huffman string says: at most 8/5 of its octets, as no code is shorter than 5 bits.
///
/// One look-up a symbol where its code has 8 bits or fewer, as those of all letters and digits have.
pub(super) fn decode_huffman(text: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let mut written = out.len();
    out.resize(written + text.len() * 8 / 5, 0);
    // The next bits from the top down, of which `count` are there. Those below are not yet to be looked at.
    let (mut bits, mut count, mut unread) = (0u64, 0u32, text);
    loop {
        if let Some(word) = unread.first_chunk() {
            bits |= u64::from_be_bytes(*word) >> count;
            let octets = (63 - count) / 8;
            unread = &unread[octets as usize..];
            count += octets * 8;
        } else {
            while count <= 56
                && let Some((octet, behind)) = unread.split_first()
            {
                bits |= u64::from(*octet) << (56 - count);
                unread = behind;
                count += 8;
            }
        }
        loop {
            let short = HUFFMAN.short[(bits >> 56) as usize];
            let (length, symbol) = if short.length != 0 { (short.length, Some(short.symbol)) } else { long_code(bits) };
            let length = u32::from(length);
            if length > count {
                break;
            }
            out[written] = symbol.ok_or(Malformed)?;
            written += 1;
            bits <<= length;
            count -= length;
        }
        if unread.is_empty() {
            break;
        }
    }
    out.truncate(written);
    // Padding: the first bits of the end's code, which is all ones, and less than an octet of them.
    let padded = count < 8 && bits | (u64::MAX >> count) == u64::MAX;
    if padded { Ok(()) } else { Err(Malformed) }
}

/// The code of more than 8 bits that `bits` begin with: its length and its symbol, `None` for the end's.
#[inline(never)]
fn long_code(bits: u64) -> (u8, Option<u8>) {
    let bits = (bits >> (64 - CODE_BITS_MAX)) as u32;
    for row in &HUFFMAN.long {
        if bits < row.end {
            let rank = (bits >> (CODE_BITS_MAX - u32::from(row.length))) - row.rank_below;
            return (row.length, HUFFMAN.symbols.get(rank as usize).copied());
        }
    }
    (CODE_BITS_MAX as u8, None)
}

/// The code is canonical: codes count up from zero by length, and by symbol within a length. So their
/// lengths say all.
struct Huffman {
    /// By the next 8 bits; length 0: the code is longer.
    short: [Short; 256],
    /// The lengths from 9 on.
    long: [Long; CODE_BITS_MAX as usize - 8],
    /// By their codes' order. The end's code is the last of all and has no symbol here.
    symbols: [u8; 256],
}

#[derive(Clone, Copy)]
struct Short {
    length: u8,
    symbol: u8,
}

#[derive(Clone, Copy)]
struct Long {
    /// Codes of this length and shorter ones are below this, padded to the longest length.
    end: u32,
    /// A code of this length minus its place among all codes.
    rank_below: u32,
    length: u8,
}

const CODE_BITS_MAX: u32 = 30;

static HUFFMAN: Huffman = Huffman::new();

// === impl Huffman ===

impl Huffman {
    const fn new() -> Self {
        let mut short = [Short { length: 0, symbol: 0 }; 256];
        let mut long = [Long { end: 0, rank_below: 0, length: 0 }; CODE_BITS_MAX as usize - 8];
        let mut symbols = [0; 256];
        let (mut code, mut rank, mut length) = (0, 0, 1);
        while length <= CODE_BITS_MAX {
            let rank_below = code - rank;
            let mut symbol = 0;
            while symbol <= END {
                if CODE_LENGTHS[symbol] as u32 == length {
                    if symbol < END {
                        symbols[rank as usize] = symbol as u8;
                    }
                    if length <= 8 {
                        let (mut at, end) = (code << (8 - length), (code + 1) << (8 - length));
                        while at < end {
                            short[at as usize] = Short { length: length as u8, symbol: symbol as u8 };
                            at += 1;
                        }
                    }
                    code += 1;
                    rank += 1;
                }
                symbol += 1;
            }
            if length > 8 {
                let end = code << (CODE_BITS_MAX - length);
                long[length as usize - 9] = Long { end, rank_below, length: length as u8 };
            }
            code <<= 1;
            length += 1;
        }
        Huffman { short, long, symbols }
    }
}

/// The symbol that no string may have.
pub(super) const END: usize = 256;

/// RFC 7541 appendix B: the bits of each symbol's code, the end's at last.
#[rustfmt::skip]
pub(super) const CODE_LENGTHS: [u8; END + 1] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
     6, 10, 10, 12, 13,  6,  8, 11, 10, 10,  8, 11,  8,  6,  6,  6,
     5,  5,  5,  6,  6,  6,  6,  6,  6,  6,  7,  8, 15,  6, 12, 10,
    13,  6,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,
     7,  7,  7,  7,  7,  7,  7,  7,  8,  7,  8, 13, 19, 13, 14,  6,
    15,  5,  6,  5,  6,  5,  6,  6,  6,  5,  7,  7,  6,  6,  6,  5,
     6,  7,  6,  5,  5,  6,  7,  7,  7,  7,  7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];
