//! What is safe to mend: Redis is given back what PostgreSQL has.
//!
//! Every step is idempotent, checks the cell's identity in its script, and adds: a receipt, a stamp, a higher
//! cursor or count, a template's row. Nothing is taken away but queue entries whose grants are stored.

use std::collections::BTreeMap;

use super::difference::{Difference, Mend};
use super::{Blind, View};
use crate::catalog::publish::{NotYet, bring, put_again_call, put_answer};
use crate::config;
use crate::domain::ids::{Serial, TemplateId};
use crate::grant::lost;
use crate::grant::stores::CellLink;
use crate::grant::stores::redis::RedisCell;
use crate::limits::MEND_ROWS_MAX;
use crate::redis::compare::{Mended, mend};

/// Mends what of `found` is safe. For each: whether it was mended; none: it is for a person.
pub async fn all(view: &View<'_>, found: &[Difference]) -> Result<Vec<Option<bool>>, Blind> {
    let mut given: BTreeMap<TemplateId, BTreeMap<Serial, Mended>> = BTreeMap::new();
    for difference in found {
        if let (Some(Mend::Give(grant)), Some(template)) = (&difference.mend, difference.place.template) {
            let of_template = given.entry(template).or_default();
            match of_template.get_mut(&grant.receipt.serial) {
                // A cursor that is moved behind a serial knows no user.
                Some(known) if known.user.is_none() => *known = grant.clone(),
                Some(_) => {}
                None => drop(of_template.insert(grant.receipt.serial, grant.clone())),
            }
        }
    }
    for (template, grants) in &given {
        let grants: Vec<Mended> = grants.values().cloned().collect();
        for some in grants.chunks(MEND_ROWS_MAX) {
            mend(&view.app.redis, &view.app.keys, &view.identity, *template, (0, 0), some).await?;
            tracing::warn!(template = template.0, grants = some.len(), "grants were given back to Redis");
        }
    }
    let mut mended = Vec::with_capacity(found.len());
    for difference in found {
        mended.push(match &difference.mend {
            None => None,
            Some(mend) => Some(one(view, difference.place.template, mend).await?),
        });
    }
    Ok(mended)
}

async fn one(view: &View<'_>, template: Option<TemplateId>, what: &Mend) -> Result<bool, Blind> {
    let app = view.app;
    match (what, template) {
        (Mend::Give(_), _) => {}
        (Mend::Trim(marks), _) => {
            let watermark = view.row().await?.position.watermark;
            let timeout = config::ms(app.config.redis.command_timeout_ms);
            let mut cell = RedisCell::new(app.redis.link().await?, app.keys.clone(), timeout);
            cell.trim(&view.identity, watermark, marks, 0).await?;
            tracing::warn!(%watermark, "the queue was trimmed to the watermark");
        }
        (Mend::Put, Some(id)) => return brought(bring(app, id).await),
        (Mend::PutAgain(row), Some(id)) => {
            put_answer(app.redis.pooled(&put_again_call(&app.keys, &view.identity, row)).await?)?;
            return brought(bring(app, id).await);
        }
        (Mend::DayCount(day, count), Some(id)) => {
            mend(&app.redis, &app.keys, &view.identity, id, (*day, *count), &[]).await?;
            tracing::warn!(template = id.0, count, "the count of the day's grants was raised");
        }
        (Mend::Note(batch), _) => {
            lost::note(view.client, app.cell, batch, "journal").await?;
        }
        (Mend::Put | Mend::PutAgain(_) | Mend::DayCount(..), None) => return Ok(false),
    }
    Ok(true)
}

fn brought(done: Result<(), NotYet>) -> Result<bool, Blind> {
    match done {
        Ok(()) => Ok(true),
        Err(NotYet::Postgres(fault)) => Err(fault.into()),
        Err(NotYet::Redis(fault)) => Err(fault.into()),
        Err(NotYet::NotOpen) => Err(Blind::NotOpen),
        Err(reason) => {
            tracing::warn!(%reason, "a template could not be brought to Redis");
            Ok(false)
        }
    }
}
