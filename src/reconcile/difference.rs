//! The kinds of difference: a stable word each, the likely cause, and what is to be done.

use std::fmt;

use serde_json::{Value, json};

use crate::catalog::publish::TemplateRow;
use crate::claim::ring::RingBatch;
use crate::domain::ids::{EntryId, Epoch, Serial, TemplateId};
use crate::domain::window::Millis;
use crate::redis::compare::Mended;

/// What differs. A word is never used again for something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The flusher refuses the cell.
    CellRefused,
    EpochDiffers,
    WatermarkAhead,
    EntryUntrimmed,
    EntryNotStored,
    QueueCount,
    MarkStale,
    TemplateMissing,
    TemplateStale,
    TemplateDiffers,
    TemplateAhead,
    TemplateFreed,
    StockMissing,
    StockBeyond,
    CursorBehind,
    DayCountLow,
    DayCountHigh,
    ReceiptMissing,
    ReceiptDiffers,
    QuotaLow,
    RowMissing,
    SerialStranded,
    ReceiptWithoutRow,
    SetAside,
    ClaimLost,
    PromiseBroken,
    PromiseDiffers,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub place: Place,
    /// What is here and what is there.
    pub detail: String,
    /// What `--repair` would do; none: it is for a person.
    pub mend: Option<Mend>,
}

/// What differs, and where: by it a difference is known again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub kind: Kind,
    pub template: Option<TemplateId>,
    pub serial: Option<Serial>,
    pub epoch: Option<Epoch>,
    pub entry: Option<EntryId>,
    /// The user's reference, as the stores have it.
    pub user: Option<String>,
}

/// What is given back to Redis, or written down.
#[derive(Clone, Debug)]
pub enum Mend {
    /// The queue is trimmed to the watermark, and marks up to it are cleared.
    Trim(Vec<TemplateId>),
    /// The template's row is put, as every change of it is.
    Put,
    /// The same, though Redis has this revision.
    PutAgain(Box<TemplateRow>),
    /// A grant is given back, or the cursor is moved behind it.
    Give(Mended),
    /// The count of a day's grants is raised.
    DayCount(Millis, u64),
    /// A lost claim is written down, so that its code says so.
    Note(Box<RingBatch>),
}

// === impl Kind ===

impl Kind {
    pub const ALL: [Kind; 27] = [
        Kind::CellRefused,
        Kind::EpochDiffers,
        Kind::WatermarkAhead,
        Kind::EntryUntrimmed,
        Kind::EntryNotStored,
        Kind::QueueCount,
        Kind::MarkStale,
        Kind::TemplateMissing,
        Kind::TemplateStale,
        Kind::TemplateDiffers,
        Kind::TemplateAhead,
        Kind::TemplateFreed,
        Kind::StockMissing,
        Kind::StockBeyond,
        Kind::CursorBehind,
        Kind::DayCountLow,
        Kind::DayCountHigh,
        Kind::ReceiptMissing,
        Kind::ReceiptDiffers,
        Kind::QuotaLow,
        Kind::RowMissing,
        Kind::SerialStranded,
        Kind::ReceiptWithoutRow,
        Kind::SetAside,
        Kind::ClaimLost,
        Kind::PromiseBroken,
        Kind::PromiseDiffers,
    ];

    /// The stable word, also the label of the gauge `floodgate_drift`.
    pub fn word(self) -> &'static str {
        match self {
            Kind::CellRefused => "cell_refused",
            Kind::EpochDiffers => "epoch_differs",
            Kind::WatermarkAhead => "watermark_ahead",
            Kind::EntryUntrimmed => "entry_untrimmed",
            Kind::EntryNotStored => "entry_not_stored",
            Kind::QueueCount => "queue_count",
            Kind::MarkStale => "mark_stale",
            Kind::TemplateMissing => "template_missing",
            Kind::TemplateStale => "template_stale",
            Kind::TemplateDiffers => "template_differs",
            Kind::TemplateAhead => "template_ahead",
            Kind::TemplateFreed => "template_freed",
            Kind::StockMissing => "stock_missing",
            Kind::StockBeyond => "stock_beyond",
            Kind::CursorBehind => "cursor_behind",
            Kind::DayCountLow => "day_count_low",
            Kind::DayCountHigh => "day_count_high",
            Kind::ReceiptMissing => "receipt_missing",
            Kind::ReceiptDiffers => "receipt_differs",
            Kind::QuotaLow => "quota_low",
            Kind::RowMissing => "row_missing",
            Kind::SerialStranded => "serial_stranded",
            Kind::ReceiptWithoutRow => "receipt_without_row",
            Kind::SetAside => "set_aside",
            Kind::ClaimLost => "claim_lost",
            Kind::PromiseBroken => "promise_broken",
            Kind::PromiseDiffers => "promise_differs",
        }
    }

    /// Why it most likely is so.
    pub fn cause(self) -> &'static str {
        match self {
            Kind::CellRefused => "Redis came back empty, or with a history that was given up",
            Kind::EpochDiffers | Kind::WatermarkAhead => "Redis was set back and nobody has opened it anew",
            Kind::EntryUntrimmed | Kind::MarkStale => "a flusher stored it and ended before it trimmed",
            Kind::EntryNotStored => "the watermark was moved by hand, or PostgreSQL was set back",
            Kind::QueueCount => "a flusher ended between its commit and its trim",
            Kind::TemplateMissing => "the key was deleted or evicted",
            Kind::TemplateStale | Kind::StockMissing => "a change was saved and no worker has brought it to Redis",
            Kind::TemplateDiffers => "the fields were altered by hand",
            Kind::TemplateAhead | Kind::StockBeyond => "PostgreSQL was set back",
            Kind::TemplateFreed => "Redis holds a tombstone of what PostgreSQL was set back to",
            Kind::CursorBehind | Kind::ReceiptMissing | Kind::QuotaLow | Kind::DayCountLow => {
                "Redis lost writes and went on under the same epoch, or someone altered its keys"
            }
            Kind::DayCountHigh => "someone altered the key",
            Kind::ReceiptDiffers | Kind::ReceiptWithoutRow => "a receipt or a row was altered by hand",
            Kind::RowMissing => "the row was deleted, or PostgreSQL was set back",
            Kind::SerialStranded => "the cursor was moved by hand, or an entry that held them could not be read",
            Kind::SetAside => "PostgreSQL refused the row, or a recovery gave its history up",
            Kind::ClaimLost => "Redis came back without what it had acknowledged",
            Kind::PromiseBroken => "both stores lost it, or the journal is of another installation",
            Kind::PromiseDiffers => "a row was altered by hand",
        }
    }

    /// What a person does, where nothing is mended by itself.
    pub fn remedy(self) -> &'static str {
        match self {
            Kind::CellRefused => "decide, then `floodgate recover --yes`",
            Kind::EpochDiffers | Kind::WatermarkAhead => "see that a flusher runs: it opens the cell anew",
            Kind::EntryUntrimmed | Kind::MarkStale | Kind::QueueCount => "`--repair` trims; so does the next flush",
            Kind::EntryNotStored => {
                "let no flusher start, it would trim; store its grants from the entry by hand, or set PostgreSQL right"
            }
            Kind::TemplateMissing => {
                "`floodgate recover --yes --force`: an open cell must not be given a template anew"
            }
            Kind::TemplateStale | Kind::StockMissing | Kind::TemplateDiffers => {
                "`--repair` puts the row; a worker does"
            }
            Kind::TemplateAhead => "restore PostgreSQL, or change the template once more until its revision is higher",
            Kind::TemplateFreed => "freed is final: make a new template",
            Kind::StockBeyond => "stop the template, restore its ranges in PostgreSQL, start it again",
            Kind::CursorBehind | Kind::ReceiptMissing | Kind::QuotaLow | Kind::DayCountLow => {
                "`--repair` gives it back; then find out how Redis lost it"
            }
            Kind::DayCountHigh => "it refuses too early until the template's day is over; nothing is oversold",
            Kind::ReceiptDiffers | Kind::ReceiptWithoutRow => {
                "find out which of the two is right, and correct the other"
            }
            Kind::RowMissing => {
                "restore the row from a backup; its status and what came after the grant are not in Redis"
            }
            Kind::SerialStranded => "add as much stock anew; the serials are not given out",
            Kind::SetAside => {
                "decide by its reason: insert the row, or refuse the holder; then delete it from set_aside"
            }
            Kind::ClaimLost => "tell or compensate the users, then UPDATE lost_claims SET settled_at = now()",
            Kind::PromiseBroken => "look for the coupon's code by support's history; compensate the user",
            Kind::PromiseDiffers => "find out who altered the row",
        }
    }
}

// === impl Difference ===

impl Difference {
    pub fn new(kind: Kind, detail: impl Into<String>) -> Difference {
        let place = Place { kind, template: None, serial: None, epoch: None, entry: None, user: None };
        Difference { place, detail: detail.into(), mend: None }
    }

    pub fn template(mut self, template: TemplateId) -> Self {
        self.place.template = Some(template);
        self
    }

    pub fn serial(mut self, serial: Serial) -> Self {
        self.place.serial = Some(serial);
        self
    }

    pub fn epoch(mut self, epoch: Epoch) -> Self {
        self.place.epoch = Some(epoch);
        self
    }

    pub fn entry(mut self, entry: EntryId) -> Self {
        self.place.entry = Some(entry);
        self
    }

    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.place.user = Some(user.into());
        self
    }

    pub fn mend(mut self, mend: Mend) -> Self {
        self.mend = Some(mend);
        self
    }

    /// As one JSON object; `repaired` where it was tried.
    pub fn to_json(&self, repaired: Option<bool>) -> Value {
        let Place { kind, template, serial, epoch, entry, user } = &self.place;
        json!({
            "kind": kind.word(),
            "template_id": template.map(|id| id.0),
            "serial": serial,
            "epoch": epoch,
            "entry": entry.map(|entry| entry.to_string()),
            "user_ref": user,
            "detail": self.detail,
            "cause": kind.cause(),
            "remedy": kind.remedy(),
            "safe": self.mend.is_some(),
            "repaired": repaired,
        })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { kind, template, serial, epoch, entry, user } = &self.place;
        write!(f, "{}:", kind.word())?;
        if let Some(template) = template {
            write!(f, " template {template},")?;
        }
        if let Some(serial) = serial {
            write!(f, " serial {serial},")?;
        }
        if let Some(epoch) = epoch {
            write!(f, " epoch {epoch},")?;
        }
        if let Some(entry) = entry {
            write!(f, " entry {entry},")?;
        }
        if let Some(user) = user {
            write!(f, " user {user},")?;
        }
        write!(f, " {}. Likely: {}", self.detail, kind.cause())
    }
}

impl PartialEq for Mend {
    /// Of the same place the same is mended.
    fn eq(&self, other: &Mend) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl Eq for Mend {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_word_of_its_own() {
        let words: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.word()).collect();
        assert_eq!(words.len(), Kind::ALL.len());
        for pair in Kind::ALL.windows(2) {
            assert!(pair[0] < pair[1], "{pair:?}");
        }
    }

    #[test]
    fn a_difference_says_what_it_is_where_and_why() {
        let difference =
            Difference::new(Kind::ReceiptMissing, "the row has no receipt").template(TemplateId(7)).serial(3).user("u");
        assert_eq!(
            difference.to_string(),
            "receipt_missing: template 7, serial 3, user u, the row has no receipt. Likely: Redis lost writes and went \
             on under the same epoch, or someone altered its keys"
        );
        assert_eq!(difference.to_json(None)["safe"], false);
    }
}
