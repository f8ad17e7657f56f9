//! Header compression of HTTP/2 (RFC 7541): reads what clients send, writes what needs no memory.
//!
//! A client's blocks are read with its dynamic table, whole and in their order, since each one builds on
//! those before it; a block that is wrong ends the connection. Answers are written without a table: no
//! block of ours changes what the client remembers, so they may be made in any order.
//!
//! Nothing here trusts a length. Every number, string, table and list has a bound, and what a head
//! needed beyond the usual is given back with the next one.

mod huffman;
mod known;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use huffman::decode_huffman;
use known::STATIC_TABLE;
pub use known::name_index;

/// A block that is no HPACK: the connection cannot go on (`COMPRESSION_ERROR`).
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads the heads of one connection in their order.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    /// What a size update may ask for, in octets.
    table_max: usize,
}

/// The fields of one head, in one buffer that is used again.
#[derive(Debug)]
pub struct Fields {
    /// Name, value, name, value and so on, without a gap.
    bytes: Vec<u8>,
    spans: Vec<Span>,
    /// The list so far as RFC 9113 counts it; not counted on once it is too large.
    size: usize,
    size_max: usize,
    too_large: bool,
}

/// A field in [`Fields::bytes`]. It begins where the one before it ends.
#[derive(Debug)]
struct Span {
    name_end: usize,
    end: usize,
}

/// The dynamic table. Entries leave in the order they came, so the living bytes lie in one piece.
#[derive(Debug)]
struct Table {
    /// Newest first, as the index counts.
    entries: VecDeque<Entry>,
    /// Evicted entries' bytes, then those of the entries, oldest first: at most twice the largest table.
    bytes: Vec<u8>,
    /// Octets of evicted entries.
    dead: usize,
    /// As RFC 7541 section 4.1 counts it, and its limit at present.
    size: usize,
    size_max: usize,
}

/// Name and value in [`Table::bytes`].
#[derive(Debug)]
struct Entry {
    start: usize,
    name_length: usize,
    length: usize,
}

/// A field of either table: its name and value in one piece, and the name's length.
#[derive(Clone, Copy, Debug)]
struct Known<'a> {
    text: &'a [u8],
    name_length: usize,
}

/// What of a block is not yet read.
struct Unread<'a>(&'a [u8]);

/// The table's size before the peer says anything else (RFC 9113 section 6.5.2).
const TABLE_SIZE_INITIAL: usize = 4096;

/// What a field counts beside its name and value, in tables and in lists.
pub const FIELD_OVERHEAD: usize = 32;

/// The largest number in a block: far beyond any length, far below any overflow.
const INTEGER_MAX: u64 = 1 << 28;

/// Buffers of [`Fields`] keep so much for the next head, in octets and in fields.
const BYTES_KEPT: usize = 4096;
const SPANS_KEPT: usize = 64;

// === impl Decoder ===

impl Decoder {
    /// `table_max`: the `SETTINGS_HEADER_TABLE_SIZE` that was told to the peer, in octets.
    ///
    /// The table has 4096 octets until the peer changes it, whatever it was told: a peer may write its
    /// first heads before it reads that, and then has to announce a smaller table itself.
    pub fn new(table_max: usize) -> Self {
        Decoder { table: Table::new(TABLE_SIZE_INITIAL), table_max }
    }

    /// Decodes one whole header block, replacing what `fields` held. Nothing is left in them on an error.
    pub fn decode(&mut self, block: &[u8], fields: &mut Fields) -> Result<(), Malformed> {
        fields.clear();
        let result = self.read(Unread(block), fields);
        if result.is_err() {
            fields.clear();
        }
        fields.give_back();
        result
    }

    fn read(&mut self, mut unread: Unread<'_>, fields: &mut Fields) -> Result<(), Malformed> {
        let mut beginning = true;
        while let Ok(first) = unread.octet() {
            match first {
                0x80.. => {
                    let index = unread.integer(first, 0x7f)?;
                    let known = self.known(index)?;
                    fields.push(known);
                }
                0x40.. => self.literal(&mut unread, first, 0x3f, fields)?,
                0x20.. => {
                    let size = unread.integer(first, 0x1f)?;
                    if !beginning || size > self.table_max {
                        return Err(Malformed);
                    }
                    self.table.resize(size);
                    continue;
                }
                // Without indexing (0x00) or never indexed (0x10): one to a reader.
                _ => self.literal(&mut unread, first, 0x0f, fields)?,
            }
            beginning = false;
        }
        Ok(())
    }

    /// A field with its value in full. It is read behind the others, goes from there into the table where
    /// it shall, and stays if there is room.
    #[inline]
    fn literal(&mut self, unread: &mut Unread<'_>, first: u8, mask: u8, fields: &mut Fields) -> Result<(), Malformed> {
        let remember = first >= 0x40;
        let start = fields.bytes.len();
        match unread.integer(first, mask)? {
            0 => unread.string(&mut fields.bytes)?,
            index => {
                let known = self.known(index)?;
                // Two octets can name a long name: where nobody wants it, it is not copied.
                if remember || !fields.too_large {
                    fields.bytes.extend_from_slice(&known.text[..known.name_length]);
                }
            }
        }
        let name_end = fields.bytes.len();
        unread.string(&mut fields.bytes)?;
        if remember {
            self.table.insert(Known { text: &fields.bytes[start..], name_length: name_end - start });
        }
        fields.end(start, name_end);
        Ok(())
    }

    #[inline]
    fn known(&self, index: usize) -> Result<Known<'_>, Malformed> {
        let index = index.checked_sub(1).ok_or(Malformed)?;
        match STATIC_TABLE.get(index) {
            Some(known) => Ok(*known),
            None => self.table.get(index - STATIC_TABLE.len()).ok_or(Malformed),
        }
    }
}

// === impl Fields ===

impl Fields {
    /// `size_max`: in octets as RFC 9113 6.5.2 counts a list, name + value + 32 for each field.
    ///
    /// The field that passes the bound is the last one kept, and only if its name and value are not
    /// longer than `size_max` by themselves. So kept are at most `2 * size_max` octets in
    /// `size_max / 32 + 1` fields. Besides, a field is decoded here before it is judged: for so long
    /// there may be 8/5 of its block and an entry of the table more. Between two heads the capacity is
    /// 4096 octets and 64 fields, or what the head needs that is held.
    pub fn new(size_max: usize) -> Self {
        Fields { bytes: Vec::new(), spans: Vec::new(), size: 0, size_max, too_large: false }
    }

    /// Names and values in the order they came.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut start = 0;
        self.spans.iter().map(move |span| {
            let name = &self.bytes[start..span.name_end];
            start = span.end;
            (name, &self.bytes[span.name_end..span.end])
        })
    }

    /// Whether the list was larger than `size_max`. What came behind was decoded, so the table is right,
    /// and is not kept; see [`Fields::new`].
    pub fn is_too_large(&self) -> bool {
        self.too_large
    }

    #[inline]
    fn push(&mut self, known: Known<'_>) {
        if !self.too_large {
            let start = self.bytes.len();
            self.bytes.extend_from_slice(known.text);
            self.end(start, start + known.name_length);
        }
    }

    /// Keeps the bytes from `start` on as a field, or drops them.
    #[inline]
    fn end(&mut self, start: usize, name_end: usize) {
        let end = self.bytes.len();
        let length = end - start;
        if self.too_large {
            return self.bytes.truncate(start);
        }
        self.size += length + FIELD_OVERHEAD;
        if self.size > self.size_max {
            self.too_large = true;
            if length > self.size_max {
                return self.bytes.truncate(start);
            }
        }
        self.spans.push(Span { name_end, end });
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.spans.clear();
        self.size = 0;
        self.too_large = false;
    }

    fn give_back(&mut self) {
        if self.bytes.capacity() > BYTES_KEPT {
            self.bytes.shrink_to(BYTES_KEPT);
        }
        if self.spans.capacity() > SPANS_KEPT {
            self.spans.shrink_to(SPANS_KEPT);
        }
    }
}

// === impl Table ===

impl Table {
    fn new(size_max: usize) -> Self {
        Table { entries: VecDeque::new(), bytes: Vec::new(), dead: 0, size: 0, size_max }
    }

    /// 0: the newest.
    #[inline]
    fn get(&self, index: usize) -> Option<Known<'_>> {
        let entry = self.entries.get(index)?;
        let text = &self.bytes[entry.start..entry.start + entry.length];
        Some(Known { text, name_length: entry.name_length })
    }

    /// An entry larger than the table empties it, and is no error.
    fn insert(&mut self, known: Known<'_>) {
        let length = known.text.len();
        let size = length + FIELD_OVERHEAD;
        self.evict(self.size_max.saturating_sub(size));
        if size > self.size_max {
            return;
        }
        // No more is moved than has died since the last move, so a byte is moved about once.
        if self.dead > self.bytes.len() - self.dead {
            self.bytes.drain(..self.dead);
            for entry in &mut self.entries {
                entry.start -= self.dead;
            }
            self.dead = 0;
        }
        self.entries.push_front(Entry { start: self.bytes.len(), name_length: known.name_length, length });
        self.bytes.extend_from_slice(known.text);
        self.size += size;
    }

    fn resize(&mut self, size_max: usize) {
        self.size_max = size_max;
        self.evict(size_max);
    }

    /// Drops the oldest until no more than `size` is left.
    fn evict(&mut self, size: usize) {
        while self.size > size
            && let Some(entry) = self.entries.pop_back()
        {
            self.dead += entry.length;
            self.size -= entry.length + FIELD_OVERHEAD;
        }
    }
}

// === impl Unread ===

impl<'a> Unread<'a> {
    #[inline]
    fn octet(&mut self) -> Result<u8, Malformed> {
        let (first, behind) = self.0.split_first().ok_or(Malformed)?;
        self.0 = behind;
        Ok(*first)
    }

    /// A number (RFC 7541 section 5.1) that begins in the bits `mask` of the octet `first`.
    #[inline]
    fn integer(&mut self, first: u8, mask: u8) -> Result<usize, Malformed> {
        let prefix = first & mask;
        if prefix < mask { Ok(usize::from(prefix)) } else { self.long_integer(mask) }
    }

    #[inline(never)]
    fn long_integer(&mut self, mask: u8) -> Result<usize, Malformed> {
        let mut value = u64::from(mask);
        for shift in [0, 7, 14, 21, 28] {
            let octet = self.octet()?;
            value += u64::from(octet & 0x7f) << shift;
            if octet < 0x80 {
                return if value <= INTEGER_MAX { Ok(value as usize) } else { Err(Malformed) };
            }
        }
        Err(Malformed)
    }

    /// Appends a string (RFC 7541 section 5.2) to `out`.
    #[inline]
    fn string(&mut self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        let first = self.octet()?;
        let length = self.integer(first, 0x7f)?;
        let (text, behind) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = behind;
        if first >= 0x80 {
            return decode_huffman(text, out);
        }
        out.extend_from_slice(text);
        Ok(())
    }
}

// === Writing ===

/// The table's new size, before a block's fields: of octets.
pub fn put_table_size(out: &mut Vec<u8>, size: usize) {
    let at = out.len();
    put_integer(out, 0x1f, size);
    out[at] |= 0x20;
}

/// Indexed field of the static table.
pub fn put_indexed(out: &mut Vec<u8>, index: u8) {
    debug_assert!((1..=STATIC_TABLE.len()).contains(&usize::from(index)));
    out.push(0x80 | index);
}

/// Literal without indexing, its name from the static table.
pub fn put_value(out: &mut Vec<u8>, name_index: u8, value: &[u8]) {
    debug_assert!((1..=STATIC_TABLE.len()).contains(&usize::from(name_index)));
    put_integer(out, 0x0f, usize::from(name_index));
    put_string(out, value);
}

/// Literal without indexing, name and value in full, no Huffman. The name is in lower case already.
pub fn put_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.push(0);
    put_string(out, name);
    put_string(out, value);
}

fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    put_integer(out, 0x7f, text.len());
    out.extend_from_slice(text);
}

/// A number whose first octet has no other bits than those of `mask`.
fn put_integer(out: &mut Vec<u8>, mask: u8, value: usize) {
    if value < usize::from(mask) {
        return out.push(value as u8);
    }
    out.push(mask);
    let mut left = value - usize::from(mask);
    while left >= 0x80 {
        out.push(0x80 | (left & 0x7f) as u8);
        left >>= 7;
    }
    out.push(left as u8);
}
