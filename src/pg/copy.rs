//! Rows in PostgreSQL's binary COPY format, encoded by hand.
//!
//! The format: docs of COPY, "Binary Format". Each field is its length (4 bytes, -1 for null) and
//! its value, big-endian. Encoding 20,000 coupons this way costs a tenth of a typed writer.

use bytes::{BufMut, BytesMut};

use crate::domain::window::Millis;

/// Milliseconds from the Unix epoch to PostgreSQL's, 2000-01-01 UTC.
const PG_EPOCH_MS: Millis = 946_684_800_000;

/// A COPY stream in memory.
pub struct CopyRows {
    bytes: BytesMut,
    rows: usize,
}

// === impl CopyRows ===

impl CopyRows {
    pub fn with_capacity(bytes: usize) -> Self {
        let mut rows = CopyRows { bytes: BytesMut::with_capacity(bytes + 32), rows: 0 };
        rows.bytes.put_slice(b"PGCOPY\n\xff\r\n\0");
        rows.bytes.put_i32(0);
        rows.bytes.put_i32(0);
        rows
    }

    /// Begins a row of `fields` fields; each must follow in the order of the columns.
    pub fn row(&mut self, fields: i16) -> &mut Self {
        self.rows += 1;
        self.bytes.put_i16(fields);
        self
    }

    pub fn int2(&mut self, value: i16) -> &mut Self {
        self.bytes.put_i32(2);
        self.bytes.put_i16(value);
        self
    }

    pub fn int4(&mut self, value: i32) -> &mut Self {
        self.bytes.put_i32(4);
        self.bytes.put_i32(value);
        self
    }

    pub fn int8(&mut self, value: i64) -> &mut Self {
        self.bytes.put_i32(8);
        self.bytes.put_i64(value);
        self
    }

    pub fn int8_or_null(&mut self, value: Option<i64>) -> &mut Self {
        match value {
            Some(value) => self.int8(value),
            None => self.null(),
        }
    }

    pub fn text(&mut self, value: &[u8]) -> &mut Self {
        self.bytes.put_i32(value.len() as i32);
        self.bytes.put_slice(value);
        self
    }

    /// `timestamptz`: microseconds since 2000.
    pub fn time(&mut self, value: Millis) -> &mut Self {
        self.int8((value - PG_EPOCH_MS) * 1000)
    }

    pub fn null(&mut self) -> &mut Self {
        self.bytes.put_i32(-1);
        self
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The finished stream.
    pub fn finish(mut self) -> bytes::Bytes {
        self.bytes.put_i16(-1);
        self.bytes.freeze()
    }
}
