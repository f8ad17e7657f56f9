//! `floodgate reconcile`: Redis, the grant queue and PostgreSQL compared, and what is safe mended.
//!
//! Exit codes: 0 they agree (or all was mended), 1 they differ, 2 it could not be looked.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use tokio_postgres::Client;

use super::{Failure, Source, app, logging, out, runtime};
use crate::app::App;
use crate::journal::Record;
use crate::reconcile::difference::Difference;
use crate::reconcile::walk::Walk;
use crate::reconcile::{Blind, View, cell, journal, mend};

#[derive(Args)]
pub struct Reconcile {
    /// Mend what is safe: give Redis back what PostgreSQL has, and trim what is stored
    #[arg(long)]
    repair: bool,
    /// A client's journal (of floodgate-load): every coupon that it was answered must be somewhere
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// One JSON object a line: the differences, then a summary
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: Source,
}

/// What was found so far.
#[derive(Default)]
struct Tally {
    differences: usize,
    mended: usize,
    promises: usize,
}

/// A cell that is opened anew is waited for.
const OPEN_PATIENCE: Duration = Duration::from_secs(15);
const OPEN_POLL: Duration = Duration::from_millis(200);

// === impl Reconcile ===

impl Reconcile {
    pub fn run(self) -> Result<(), Failure> {
        let config = self.source.config()?;
        logging::start(&config.log)?;
        let record = match &self.journal {
            Some(path) => Some(Record::read(path).map_err(Failure::Unable)?),
            None => None,
        };
        runtime()?.block_on(async {
            let app = app(config).await.map_err(Failure::Unable)?;
            let client = app.pg.own().await.map_err(|fault| Failure::Unable(fault.to_string()))?;
            let mut tally = Tally::default();
            let begun = Instant::now();
            let walk = self.compare(&app, &client, record.as_ref(), &mut tally).await?;
            self.sum_up(&walk, &tally, begun.elapsed());
            if tally.differences > tally.mended { Err(Failure::Silent) } else { Ok(()) }
        })
    }

    async fn compare(
        &self,
        app: &App,
        client: &Client,
        record: Option<&Record>,
        tally: &mut Tally,
    ) -> Result<Walk, Failure> {
        let unable = |blind: Blind| Failure::Unable(blind.to_string());
        let mut walk = Walk::default();
        let mut view = self.open(app, client, tally).await?;
        while !walk.is_over() {
            match walk.step(&view).await {
                Ok(found) => self.tell(&view, &found, tally).await.map_err(unable)?,
                // It was opened anew meanwhile: the step is taken again.
                Err(Blind::NotOpen) => view = self.open(app, client, tally).await?,
                Err(blind) => return Err(unable(blind)),
            }
        }
        let Some(record) = record else { return Ok(walk) };
        loop {
            match journal::look(&view, record).await {
                Ok((found, promises)) => {
                    tally.promises = promises;
                    self.tell(&view, &found, tally).await.map_err(unable)?;
                    return Ok(walk);
                }
                Err(Blind::NotOpen) => view = self.open(app, client, tally).await?,
                Err(blind) => return Err(unable(blind)),
            }
        }
    }

    /// Waits for an open cell; one that no flusher will open is a difference and the end.
    async fn open<'a>(&self, app: &'a App, client: &'a Client, tally: &mut Tally) -> Result<View<'a>, Failure> {
        let begun = Instant::now();
        loop {
            match View::open(app, client).await {
                Ok(view) => return Ok(view),
                Err(Blind::NotOpen) => {}
                Err(blind) => return Err(Failure::Unable(blind.to_string())),
            }
            if let Some(refused) = cell::refused(app).await.map_err(Failure::Unable)? {
                self.say(&refused, None, tally);
                return Err(Failure::Silent);
            }
            if begun.elapsed() > OPEN_PATIENCE {
                return Err(Failure::Unable(Blind::NotOpen.to_string()));
            }
            tokio::time::sleep(OPEN_POLL).await;
        }
    }

    async fn tell(&self, view: &View<'_>, found: &[Difference], tally: &mut Tally) -> Result<(), Blind> {
        let mended = if self.repair { mend::all(view, found).await? } else { vec![None; found.len()] };
        for (difference, mended) in found.iter().zip(mended) {
            self.say(difference, mended, tally);
        }
        Ok(())
    }

    fn say(&self, difference: &Difference, mended: Option<bool>, tally: &mut Tally) {
        tally.differences += 1;
        tally.mended += usize::from(mended == Some(true));
        if self.json {
            return out::say(difference.to_json(mended));
        }
        let end = match mended {
            Some(true) => "Mended.".to_owned(),
            Some(false) => format!("It could not be mended. To do: {}", difference.place.kind.remedy()),
            None => format!("To do: {}", difference.place.kind.remedy()),
        };
        out::say(format_args!("{difference}. {end}"));
    }

    fn sum_up(&self, walk: &Walk, tally: &Tally, took: Duration) {
        let Walk { templates, rows, receipts, .. } = walk;
        let Tally { differences, mended, promises } = tally;
        let seconds = took.as_secs_f64();
        if self.json {
            return out::say(json!({"summary": {
                "templates": templates, "rows": rows, "receipts": receipts, "promises": promises,
                "differences": differences, "repaired": mended, "seconds": seconds,
            }}));
        }
        out::say(format_args!(
            "{differences} differences, {mended} mended: {templates} templates, {rows} rows, {receipts} receipts and \
             {promises} answers of a journal in {seconds:.1} s"
        ));
    }
}
