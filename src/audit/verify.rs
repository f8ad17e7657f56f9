//! Whether the audit log is what was sealed, and if not, what was done to it and where.
//!
//! One walk along the chain, in pages: each position is authentic by itself (its hash binds the one
//! before, the record's id and its content's hash), fits to the one before it, and its record still
//! has the content. Then a walk along the records, for those that nobody sealed. Memory is bounded:
//! what does not fit is remembered up to a limit, and counted beyond it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::Row;

use super::anchor::{Anchor, Anchors};
use super::seal::{BEGINNING, ChainKey, Content, Hash, read_hash};
use crate::limits::{AUDIT_FINDINGS_MAX, AUDIT_VERIFY_IDS_MAX, AUDIT_VERIFY_ROWS_MAX};
use crate::pg::{Connection, Pg, PgFault};

const ENDS: &str = include_str!("../sql/audit/verify_ends.sql");
const PAGE: &str = include_str!("../sql/audit/verify_page.sql");
const UNSEALED: &str = include_str!("../sql/audit/verify_unsealed.sql");
const STILL: &str = include_str!("../sql/audit/still_unsealed.sql");

/// How long a record that is not sealed is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);

/// What was done to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tampering {
    /// A record, or a position of the chain, has another content.
    Flipped,
    /// A record, or positions of the chain, are gone.
    Deleted,
    /// Records, or positions of the chain, have changed places.
    Reordered,
    /// The end is gone, or other than it was.
    CutTail,
    /// Records that the chain does not know: nobody seals, or they were put below its end.
    Unsealed,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub tampering: Tampering,
    /// The position of the chain that it was found at; `None`: behind its end.
    pub position: Option<i64>,
    pub what: String,
}

/// What a verification found.
#[derive(Debug, Default)]
pub struct Report {
    /// Positions of the chain that were looked at, and the last of them.
    pub positions: u64,
    pub last: i64,
    /// Anchors that were compared, and lines that were none.
    pub anchors: u64,
    pub strange_lines: u64,
    /// By position, [`AUDIT_FINDINGS_MAX`] at most.
    pub findings: Vec<Finding>,
    /// Findings beyond.
    pub more: u64,
}

/// A content that is not what was sealed at this position.
struct Mismatch {
    position: i64,
    record: i64,
    about: String,
    sealed: Hash,
    now: Hash,
}

/// A position that does not fit to the one before it.
struct Break {
    position: i64,
    wanted: Hash,
    found: Hash,
}

/// A walk along the chain.
struct Walk<'a> {
    key: &'a ChainKey,
    report: Report,
    /// Where the walk stands.
    at: (i64, Hash),
    head: Option<(i64, Hash)>,
    mismatches: Vec<Mismatch>,
    breaks: Vec<Break>,
    /// Positions from this one to the present one whose records are gone, one after the other.
    gone_since: Option<i64>,
    anchors: Vec<AnchorWalk>,
}

/// A file of anchors beside the walk.
struct AnchorWalk {
    path: PathBuf,
    anchors: Anchors,
    next: Option<Anchor>,
    /// Whether one of them did not fit: the others behind it would say the same.
    broken: bool,
}

/// Verifies all that was sealed when it began, against these files of anchors.
pub async fn verify(pg: &Pg, key: &ChainKey, files: &[PathBuf]) -> Result<Report, String> {
    // The anchors first, then the head, then the chain: what is written meanwhile is beyond all three.
    let anchors = files.iter().map(|path| AnchorWalk::open(path)).collect::<Result<Vec<_>, _>>()?;
    let told = |fault: PgFault| fault.to_string();
    let mut client = pg.get().await.map_err(told)?;
    let ends = client.row(ENDS, &[]).await.map_err(told)?.ok_or("PostgreSQL gave no row")?;
    let head = ends.get::<_, Option<i64>>("head").zip(ends.get::<_, Option<&[u8]>>("head_hash"));
    let head = head.and_then(|(position, hash)| Some((position, hash.try_into().ok()?)));
    let (last_id, last): (Option<i64>, Option<i64>) = (ends.get("last_id"), ends.get("last_position"));

    let at = (0, BEGINNING);
    let (report, mismatches, breaks) = (Report::default(), Vec::new(), Vec::new());
    let mut walk = Walk { key, report, at, head, mismatches, breaks, gone_since: None, anchors };
    walk.chain(&client, last.unwrap_or(0)).await?;
    walk.end(last.unwrap_or(0))?;
    let mut report = walk.report;
    unsealed(&mut client, last_id.unwrap_or(0), &mut report).await.map_err(told)?;
    report.findings.sort_by_key(|finding| (finding.position.unwrap_or(i64::MAX), finding.tampering));
    Ok(report)
}

// === impl Walk ===

impl Walk<'_> {
    async fn chain(&mut self, client: &Connection, last: i64) -> Result<(), String> {
        let mut seen = i64::MIN;
        loop {
            let rows = client.rows(PAGE, &[&seen, &last, &AUDIT_VERIFY_ROWS_MAX]).await;
            let rows = rows.map_err(|fault| fault.to_string())?;
            for row in &rows {
                self.position(row).map_err(|fault| fault.to_string())?;
                self.compare_anchors()?;
            }
            match rows.last() {
                Some(row) => seen = row.get("position"),
                None => return Ok(()),
            }
        }
    }

    fn position(&mut self, row: &Row) -> Result<(), PgFault> {
        let position: i64 = row.get("position");
        let record: i64 = row.get("record_id");
        let (sealed, wanted) = (read_hash(row, "record_hash")?, read_hash(row, "previous_hash")?);
        let chain = read_hash(row, "chain_hash")?;
        let (before, found) = self.at;
        let is_next = position == before + 1;
        if !is_next {
            let what = match before + 1 == position - 1 {
                true => format!("position {} of the chain is gone", before + 1),
                false => format!("positions {} to {} of the chain are gone", before + 1, position - 1),
            };
            self.report.add(Tampering::Deleted, Some(position - 1), what);
        }
        if self.key.chain(&wanted, record, &sealed) != chain {
            let what = "the chain itself has another content than was written".to_owned();
            self.report.add(Tampering::Flipped, Some(position), what);
        } else if is_next && wanted != found {
            match self.breaks.len() < AUDIT_FINDINGS_MAX {
                true => self.breaks.push(Break { position, wanted, found }),
                false => self.report.more += 1,
            }
        }
        if row.get::<_, Option<i64>>("id").is_none() {
            self.gone_since.get_or_insert(position);
            self.report.add(Tampering::Deleted, Some(position), format!("record {record} is gone"));
        } else {
            self.gone_since = None;
            let content = Content::read(row);
            let now = content.hash();
            if now != sealed {
                let about = format!("{} of {} by {}", content.action, content.subject, content.actor);
                match self.mismatches.len() < AUDIT_FINDINGS_MAX {
                    true => self.mismatches.push(Mismatch { position, record, about, sealed, now }),
                    false => self.report.more += 1,
                }
            }
        }
        if let Some((head, hash)) = self.head
            && head == position
            && hash != chain
        {
            let what = "the chain's end has another hash than its head says".to_owned();
            self.report.add(Tampering::CutTail, Some(position), what);
        }
        self.at = (position, chain);
        self.report.positions += 1;
        self.report.last = position;
        Ok(())
    }

    /// Anchors of the positions up to this one.
    fn compare_anchors(&mut self) -> Result<(), String> {
        let (position, hash) = self.at;
        for walk in &mut self.anchors {
            while let Some(anchor) = walk.next.take_if(|anchor| anchor.position <= position) {
                self.report.anchors += 1;
                // Positions that are gone in the middle were found by their numbers.
                if anchor.position == position && anchor.hash != hash && !walk.broken {
                    walk.broken = true;
                    let what = format!(
                        "the anchor of {} in {} has another hash: the log was cut before it, and went on",
                        anchor.at,
                        walk.path.display()
                    );
                    self.report.add(Tampering::CutTail, Some(position), what);
                }
                walk.advance()?;
            }
        }
        Ok(())
    }

    /// What only the whole walk shows.
    fn end(&mut self, last: i64) -> Result<(), String> {
        // Positions that changed places want each other's predecessors; positions that are gone are
        // wanted by their followers alone.
        let founds: HashSet<Hash> = self.breaks.iter().map(|broken| broken.found).collect();
        for Break { position, wanted, .. } in &self.breaks {
            let (tampering, what) = match founds.contains(wanted) {
                true => (Tampering::Reordered, "the chain's positions have changed places"),
                false => (Tampering::Deleted, "positions before this one were taken out of the chain"),
            };
            self.report.add(tampering, Some(*position), what.to_owned());
        }
        let places: HashMap<Hash, i64> = self.mismatches.iter().map(|other| (other.sealed, other.record)).collect();
        for Mismatch { position, record, about, now, .. } in &self.mismatches {
            let (tampering, what) = match places.get(now) {
                Some(other) => (Tampering::Reordered, format!("record {record} has the content of record {other}")),
                None => (Tampering::Flipped, format!("record {record} has another content: now it is {about}")),
            };
            self.report.add(tampering, Some(*position), what);
        }
        if let Some(since) = self.gone_since {
            let what = format!("all records from here to the end, position {last}, are gone");
            self.report.add(Tampering::CutTail, Some(since), what);
        }
        match self.head {
            None => self.report.add(Tampering::CutTail, None, "the chain's head is gone".to_owned()),
            Some((head, _)) if head > last => {
                let what = format!("the chain ends at position {last}, its head says {head}");
                self.report.add(Tampering::CutTail, None, what);
            }
            Some((head, _)) if head < last => {
                let what = format!("the chain goes on to position {last}, its head says {head}");
                self.report.add(Tampering::CutTail, None, what);
            }
            Some(_) => {}
        }
        for walk in &mut self.anchors {
            if let Some(anchor) = walk.next.take() {
                let what = format!(
                    "the anchor of {} in {} names position {}, the chain ends at {last}",
                    anchor.at,
                    walk.path.display(),
                    anchor.position
                );
                self.report.add(Tampering::CutTail, None, what);
            }
            self.report.strange_lines += walk.anchors.strange;
        }
        Ok(())
    }
}

/// Records that are in no position of the chain, and that nobody seals while they are waited for.
async fn unsealed(client: &mut Connection, last_id: i64, report: &mut Report) -> Result<(), PgFault> {
    let (mut seen, mut open) = (i64::MIN, Vec::new());
    loop {
        let rows = client.rows(UNSEALED, &[&seen, &last_id, &AUDIT_VERIFY_IDS_MAX]).await?;
        let Some(last) = rows.last() else { break };
        seen = last.get("id");
        for row in rows.iter().filter(|row| !row.get::<_, bool>("is_sealed")) {
            match open.len() < AUDIT_FINDINGS_MAX {
                true => open.push(row.get::<_, i64>("id")),
                false => report.more += 1,
            }
        }
    }
    let until = tokio::time::Instant::now() + PATIENCE;
    while !open.is_empty() {
        open = client.rows(STILL, &[&open]).await?.iter().map(|row| row.get(0)).collect();
        if tokio::time::Instant::now() > until {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    for id in open {
        report.add(Tampering::Unsealed, None, format!("record {id} is in no position of the chain"));
    }
    Ok(())
}

// === impl AnchorWalk ===

impl AnchorWalk {
    fn open(path: &Path) -> Result<AnchorWalk, String> {
        let opened = Anchors::open(path);
        let anchors = opened.map_err(|error| format!("cannot read the anchors in {}: {error}", path.display()))?;
        let mut walk = AnchorWalk { path: path.to_owned(), anchors, next: None, broken: false };
        walk.advance()?;
        match &walk.next {
            Some(_) => Ok(walk),
            None => Err(format!("{} holds no anchor", path.display())),
        }
    }

    fn advance(&mut self) -> Result<(), String> {
        let next = self.anchors.read_next();
        self.next = next.map_err(|error| format!("cannot read {}: {error}", self.path.display()))?;
        Ok(())
    }
}

// === impl Report ===

impl Report {
    fn add(&mut self, tampering: Tampering, position: Option<i64>, what: String) {
        match self.findings.len() < AUDIT_FINDINGS_MAX {
            true => self.findings.push(Finding { tampering, position, what }),
            false => self.more += 1,
        }
    }
}

// === impl Tampering ===

impl Tampering {
    pub fn word(self) -> &'static str {
        match self {
            Tampering::Flipped => "flipped",
            Tampering::Deleted => "deleted",
            Tampering::Reordered => "reordered",
            Tampering::CutTail => "cut tail",
            Tampering::Unsealed => "unsealed",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.tampering.word();
        match self.position {
            Some(position) => write!(f, "{word}: position {position}: {}", self.what),
            None => write!(f, "{word}: {}", self.what),
        }
    }
}
