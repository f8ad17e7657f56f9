//! Rows in PostgreSQL's binary COPY format, encoded by hand.
//!
//! The format: docs of COPY, "Binary Format". Each field is its length (4 bytes, -1 for null) and
//! its value, big-endian. Encoding 20,000 coupons this way costs a tenth of a typed writer.

use std::pin::Pin;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::TryStreamExt;
use tokio_postgres::CopyOutStream;

use super::PgFault;
use crate::domain::window::Millis;

/// Milliseconds from the Unix epoch to PostgreSQL's, 2000-01-01 UTC.
const PG_EPOCH_MS: Millis = 946_684_800_000;

/// A COPY stream in memory.
pub struct CopyRows {
    bytes: BytesMut,
    rows: usize,
}

/// Rows as COPY TO STDOUT sends them.
pub struct CopiedRows {
    stream: Pin<Box<CopyOutStream>>,
    begun: bool,
}

/// One row of them; its fields are read in the order of the columns.
pub struct CopiedRow {
    rest: Bytes,
}

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

// === impl CopyRows ===

impl CopyRows {
    pub fn with_capacity(bytes: usize) -> Self {
        let mut rows = CopyRows { bytes: BytesMut::with_capacity(bytes + 32), rows: 0 };
        rows.bytes.put_slice(SIGNATURE);
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

// === impl CopiedRows ===

impl CopiedRows {
    pub fn new(stream: CopyOutStream) -> Self {
        CopiedRows { stream: Box::pin(stream), begun: false }
    }

    /// The next row; PostgreSQL sends each in a message of its own, the first behind the header.
    pub async fn next(&mut self) -> Result<Option<CopiedRow>, PgFault> {
        while let Some(mut rest) = self.stream.try_next().await? {
            if !self.begun {
                // Signature, flags, and the length of an extension that nothing uses.
                let header = SIGNATURE.len() + 8;
                if rest.len() < header || !rest.starts_with(SIGNATURE) {
                    return Err(torn());
                }
                rest.advance(header);
                self.begun = true;
                if rest.is_empty() {
                    continue;
                }
            }
            if rest.len() < 2 {
                return Err(torn());
            }
            // The number of fields; -1 ends the rows.
            if rest.get_i16() >= 0 {
                return Ok(Some(CopiedRow { rest }));
            }
        }
        Ok(None)
    }
}

// === impl CopiedRow ===

impl CopiedRow {
    pub fn int4(&mut self) -> Result<i32, PgFault> {
        Ok(self.sized::<4>()?.map(i32::from_be_bytes).unwrap_or_default())
    }

    pub fn int8(&mut self) -> Result<i64, PgFault> {
        Ok(self.int8_or_null()?.unwrap_or_default())
    }

    pub fn int8_or_null(&mut self) -> Result<Option<i64>, PgFault> {
        Ok(self.sized::<8>()?.map(i64::from_be_bytes))
    }

    /// `timestamptz` in milliseconds.
    pub fn time(&mut self) -> Result<Millis, PgFault> {
        Ok(self.int8()?.div_euclid(1000) + PG_EPOCH_MS)
    }

    pub fn text(&mut self) -> Result<String, PgFault> {
        let Some(length) = self.length()? else { return Ok(String::new()) };
        let text = std::str::from_utf8(&self.rest[..length]).map_err(|_| torn())?.to_owned();
        self.rest.advance(length);
        Ok(text)
    }

    fn sized<const N: usize>(&mut self) -> Result<Option<[u8; N]>, PgFault> {
        match self.length()? {
            None => Ok(None),
            Some(length) if length == N => {
                let mut bytes = [0; N];
                self.rest.copy_to_slice(&mut bytes);
                Ok(Some(bytes))
            }
            Some(_) => Err(torn()),
        }
    }

    /// The next field's length, which is there as a whole. `None`: null.
    fn length(&mut self) -> Result<Option<usize>, PgFault> {
        if self.rest.len() < 4 {
            return Err(torn());
        }
        let Ok(length) = usize::try_from(self.rest.get_i32()) else { return Ok(None) };
        if self.rest.len() < length { Err(torn()) } else { Ok(Some(length)) }
    }
}

fn torn() -> PgFault {
    PgFault::fault("COPY sends what is not its binary format")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_they_were_packed() {
        let mut rows = CopyRows::with_capacity(64);
        rows.row(6).int4(7).int8(-1).null().text("käse".as_bytes()).time(1_800_000_000_123).time(12);
        let mut bytes = rows.finish();
        bytes.advance(SIGNATURE.len() + 8);
        assert_eq!(bytes.get_i16(), 6);
        let mut row = CopiedRow { rest: bytes };
        assert_eq!((row.int4().unwrap(), row.int8().unwrap(), row.int8_or_null().unwrap()), (7, -1, None));
        assert_eq!(row.text().unwrap(), "käse");
        assert_eq!((row.time().unwrap(), row.time().unwrap()), (1_800_000_000_123, 12));
        assert!(row.int8().is_err(), "what is left is the end of the stream");
    }
}
