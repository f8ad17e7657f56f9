//! Coupons taken back by an operator: one, a user's, an issuance's, or a template's.
//!
//! What is unused or offered becomes `revoked`; what is locked, used or over is left, and counted. One coupon
//! is revoked within the request. The other scopes are a row, which [`revoker`](super::revoker) carries out:
//! they cover what was granted up to the request, as Redis' clock has it, still queued or not. A template
//! must be stopped before, so that nothing is granted behind the revocation's back.
//!
//! Claims are decided in Redis, which keeps its receipts: a revoked coupon counts for its user's limits, and
//! its serial is not given out again.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_postgres::Row;

use super::ending::{self, End};
use crate::app::App;
use crate::audit::{Action, Change, Subject};
use crate::catalog::store::{self, Scope};
use crate::config::ms;
use crate::domain::code::CouponName;
use crate::domain::coupon::CouponStatus;
use crate::domain::fields::{Complaints, Object, is_plain};
use crate::domain::ids::{EntryId, Epoch, Serial, TemplateId};
use crate::domain::outcome::ClaimOutcome;
use crate::domain::template::Status;
use crate::domain::user::{UserId, UserRef};
use crate::domain::window::{Millis, rfc3339};
use crate::grant::fate::{Fate, fate};
use crate::grant::watermark::Awaited;
use crate::http::problem::Problem;
use crate::http::route::Caller;
use crate::limits::{REASON_MAX, REVOCATIONS_OPEN_MAX};
use crate::pg::{Connection, PgFault, Tx};
use crate::redis::cell::{CellMeta, Identity, read_meta_pooled};
use crate::wallet::cell_closed;

const INSERT: &str = include_str!("../sql/upkeep/revocation_insert.sql");
const OPEN: &str = include_str!("../sql/upkeep/revocation_open.sql");
const READ: &str = include_str!("../sql/upkeep/revocation_read.sql");
const LIST: &str = include_str!("../sql/upkeep/revocation_list.sql");

/// What is asked for.
#[derive(Debug)]
pub struct Ask {
    target: Target,
    reason: String,
}

#[derive(Debug)]
enum Target {
    Coupon(CouponName),
    User {
        user: UserRef,
        template: Option<TemplateId>,
    },
    /// What one bulk distribution gave out, by its number.
    Issuance(i64),
    Template(TemplateId),
}

/// How far a revocation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Pending,
    Running,
    Done,
}

/// Where Redis stood when a revocation was asked for.
struct Moment {
    now: Millis,
    last: EntryId,
}

/// Reads a request's body. A code that is none names a coupon that is not there.
pub fn parse(app: &App, body: &Value) -> Result<Ask, Problem> {
    let wrong = &mut Complaints::default();
    let mut object = Object::body(body, wrong);
    let code = object.text("coupon", wrong);
    let user = object.text("user_id", wrong).map(|text| {
        let user = UserId::parse(text);
        if user.is_none() {
            wrong.add("user_id", "user_id", "must be 1 to 64 characters of printable ASCII without spaces");
        }
        user
    });
    let template = object.whole("template_id", 1, i32::MAX.into(), wrong).map(|id| TemplateId(id as u32));
    let issuance = object.whole("issuance_id", 1, i64::MAX, wrong);
    let reason = object.need_text("reason", wrong).unwrap_or_default().trim().to_owned();
    if object.has("reason") && (!(1..=REASON_MAX).contains(&reason.chars().count()) || !is_plain(&reason)) {
        wrong.add("reason", "length", format!("must have 1 to {REASON_MAX} characters"));
    }
    let names = ["coupon", "user_id", "issuance_id", "template_id"].map(|name| object.has(name));
    object.finish(wrong);
    let is_one = matches!(
        names,
        [true, false, false, false]
            | [false, true, false, _]
            | [false, false, true, false]
            | [false, false, false, true]
    );
    if !is_one {
        let detail =
            "name one scope: a coupon's code, a user_id (perhaps with a template_id), an issuance_id, or a template_id";
        wrong.add("coupon", "scope", detail);
    }
    std::mem::take(wrong).or(Some(())).map_err(Problem::invalid)?;
    let target = match (code, user.flatten(), issuance, template) {
        (Some(code), ..) => Target::Coupon(app.code_key.decode(code).ok_or_else(no_coupon)?),
        (None, Some(user), _, template) => Target::User { user: app.users.seal(&user), template },
        (None, None, Some(issuance), _) => Target::Issuance(issuance),
        (None, None, None, Some(template)) => Target::Template(template),
        (None, None, None, None) => return Err(Problem::new("invalid_request", "name a scope")),
    };
    Ok(Ask { target, reason })
}

/// Waits until the coupon that is named is a row, for as long as a claim would: it may have been granted a
/// moment ago. To be called before a connection is taken for the write.
pub async fn await_row(app: &App, ask: &Ask) -> Result<(), Problem> {
    let Target::Coupon(name) = &ask.target else { return Ok(()) };
    let found = async || fate(&*app.pg.get().await?, app.cell, *name).await;
    let mut known = found().await?;
    if known == Fate::Pending {
        let entry = read_meta_pooled(&app.redis, &app.keys).await?.last;
        let awaited = Awaited { entry, template: name.template, serial: name.serial, epoch: name.epoch };
        app.acks.wait(awaited, Instant::now() + ms(app.config.claim.postgres_wait_ms)).await;
        known = found().await?;
    }
    match known {
        Fate::Stored(row) if row.gift_generation == i16::from(name.gift) => Ok(()),
        Fate::Stored(_) => Err(no_coupon()),
        Fate::Pending => {
            let detail = "the coupon may still be on the grant queue; ask again";
            Err(Problem::of(ClaimOutcome::Unavailable, detail).retry_after_ms(1000))
        }
        Fate::Lost => Err(Problem::of(ClaimOutcome::ClaimLost, "a failover lost this coupon before it was stored")),
        Fate::SetAside => Err(Problem::of(ClaimOutcome::SetAside, "the coupon's row was refused and is set aside")),
    }
}

/// Revokes one coupon, or makes the revocation that workers carry out. The answer is as it is stored: see
/// [`show`].
pub async fn create(app: &App, tx: &Tx<'_>, caller: &Caller, ask: &Ask) -> Result<(Value, Change), Problem> {
    let made = begin(app, tx, caller, ask).await?;
    let subject = Subject::Revocation(made["id"].to_string());
    let change = Change::new(Action::CouponRevoke, subject, Value::Null, made.clone());
    Ok((made, change))
}

async fn begin(app: &App, tx: &Tx<'_>, caller: &Caller, ask: &Ask) -> Result<Value, Problem> {
    let scope = Scope::of(caller);
    match &ask.target {
        Target::Coupon(name) => revoke_one(tx, app, caller, ask, *name).await,
        Target::User { template, .. } => {
            if let Some(template) = template {
                store::read(&**tx, scope, *template).await?;
            }
            insert(tx, app, caller, ask, Some(moment(app).await?)).await
        }
        Target::Issuance(_) => insert(tx, app, caller, ask, Some(moment(app).await?)).await,
        Target::Template(template) => {
            let record = store::lock(&**tx, scope, *template).await?;
            if record.status != Status::Stopped && record.freed_at.is_none() {
                let detail = format!(
                    "the template is {}: stop it first, so that nothing is granted while its coupons are revoked",
                    record.status.word()
                );
                return Err(Problem::new("conflict", detail).with("template_status", record.status.word()));
            }
            if record.redis_revision < record.revision {
                let detail = "Redis does not have the template's last change yet; ask again";
                return Err(Problem::new("unavailable", detail).retry_after_ms(1000));
            }
            // Read behind the stop: no grant of the template comes after it.
            insert(tx, app, caller, ask, Some(moment(app).await?)).await
        }
    }
}

/// One revocation that the caller may see.
pub async fn read(client: &Connection, caller: &Caller, id: i64) -> Result<Value, Problem> {
    let (issuer, issuer_id) = Scope::of(caller).params();
    match client.row(READ, &[&id, &issuer, &issuer_id]).await? {
        Some(row) => Ok(write_row(&row)),
        None => Err(Problem::new("not_found", "there is no such revocation")),
    }
}

/// One page, newest first, and the cursor of the next.
pub async fn list(
    client: &Connection,
    caller: &Caller,
    progress: Option<Progress>,
    before: i64,
    limit: usize,
) -> Result<(Vec<Value>, Option<i64>), Problem> {
    let (issuer, issuer_id) = Scope::of(caller).params();
    let status = progress.map(Progress::word);
    let rows = client.rows(LIST, &[&before, &(limit as i64 + 1), &issuer, &issuer_id, &status]).await?;
    let next = (rows.len() > limit).then(|| rows[limit - 1].get("id"));
    Ok((rows.iter().take(limit).map(write_row).collect(), next))
}

/// Shows a user's id in the place of its reference, and a coupon's code in that of its name: neither is
/// stored, with answers either.
pub fn show(app: &App, revocation: &mut Value) {
    let scope = &mut revocation["scope"];
    if let Some(user) = scope["user_id"].as_str().and_then(UserRef::from_store)
        && let Some(id) = app.users.open(&user)
    {
        scope["user_id"] = id.as_str().into();
    }
    let number = |name: &str| scope["coupon"][name].as_u64();
    if let (Some(template), Some(serial), Some(epoch), Some(gift)) =
        (number("template_id"), number("serial"), number("epoch"), number("gift_generation"))
    {
        let name = CouponName {
            template: TemplateId(template as u32),
            serial: serial as Serial,
            epoch: epoch as Epoch,
            gift: gift as u8,
        };
        scope["coupon"] = app.code_key.encode(name).into();
    }
}

async fn revoke_one(tx: &Tx<'_>, app: &App, caller: &Caller, ask: &Ask, name: CouponName) -> Result<Value, Problem> {
    store::read(&**tx, Scope::of(caller), name.template).await.map_err(|problem| match problem.code {
        "template_not_found" => no_coupon(),
        _ => problem,
    })?;
    let held = ending::hold(tx, &[(name.template, name.serial)]).await?;
    let coupon = held.first().filter(|coupon| coupon.gift == name.gift).ok_or_else(no_coupon)?;
    let status = coupon.stands();
    if !ending::is_open(status) {
        let detail = match status {
            CouponStatus::Locked => "the coupon is locked for an order: cancel the order first".to_owned(),
            _ => format!("the coupon is {}: only what is unused or offered can be revoked", status.word()),
        };
        return Err(Problem::new("conflict", detail).with("coupon_status", status.word()));
    }
    let made = insert(tx, app, caller, ask, None).await?;
    let id = made["id"].to_string();
    ending::end(tx, &held, End::Revoked(&id), &format!("key:{}", caller.key_id)).await?;
    ending::count(&held, End::Revoked(&id));
    Ok(made)
}

/// `moment`: none for what is done already.
async fn insert(tx: &Tx<'_>, app: &App, caller: &Caller, ask: &Ask, moment: Option<Moment>) -> Result<Value, Problem> {
    let done = moment.is_none();
    if !done && tx.row(OPEN, &[]).await?.map_or(0, |row| row.get::<_, i64>(0)) >= REVOCATIONS_OPEN_MAX {
        let detail = format!("{REVOCATIONS_OPEN_MAX} revocations are not carried out yet: wait for them");
        return Err(Problem::new("conflict", detail));
    }
    let Moment { now, last } = moment.unwrap_or(Moment { now: crate::clock::now_ms(), last: EntryId::ZERO });
    let (issuer, issuer_id) = Scope::of(caller).params();
    let name = match &ask.target {
        Target::Coupon(name) => Some(name),
        Target::User { .. } | Target::Issuance(_) | Target::Template(_) => None,
    };
    let issuance = match &ask.target {
        Target::Issuance(issuance) => Some(*issuance),
        Target::Coupon(_) | Target::User { .. } | Target::Template(_) => None,
    };
    let template = match &ask.target {
        Target::Coupon(name) => Some(name.template),
        Target::User { template, .. } => *template,
        Target::Issuance(_) => None,
        Target::Template(template) => Some(*template),
    };
    let user = match &ask.target {
        Target::User { user, .. } => Some(user.as_str()),
        Target::Coupon(_) | Target::Issuance(_) | Target::Template(_) => None,
    };
    let row = tx
        .row(
            INSERT,
            &[
                &ask.target.word(),
                &template.map(TemplateId::as_i32),
                &name.map(|name| name.serial as i64),
                &name.map(|name| i32::from(name.epoch)),
                &name.map(|name| i16::from(name.gift)),
                &user,
                &issuer,
                &issuer_id,
                &ask.reason,
                &caller.key_id,
                &(now as f64),
                &(app.cell.0 as i16),
                &i32::from(last.epoch),
                &(last.seq as i64),
                &done,
                &issuance,
            ],
        )
        .await?
        .ok_or_else(|| PgFault::fault("an insert gave no row"))?;
    Ok(write_row(&row))
}

/// Redis' clock and last entry, while it is the one that grants.
async fn moment(app: &App) -> Result<Moment, Problem> {
    let meta: CellMeta = read_meta_pooled(&app.redis, &app.keys).await?;
    Identity::of(&meta).ok_or_else(cell_closed)?;
    Ok(Moment { now: meta.now, last: meta.last })
}

fn no_coupon() -> Problem {
    Problem::new("coupon_not_found", "there is no coupon of this code")
}

pub(super) fn write_row(row: &Row) -> Value {
    let time = |at: DateTime<Utc>| rfc3339(Tz::UTC, at.timestamp_millis());
    let template: Option<i32> = row.get("template_id");
    let scope = match row.get("scope") {
        "coupon" => json!({"coupon": {
            "template_id": template,
            "serial": row.get::<_, i64>("serial"),
            "epoch": row.get::<_, i32>("epoch"),
            "gift_generation": row.get::<_, i16>("gift_generation"),
        }}),
        "user" => match template {
            Some(template) => json!({"user_id": row.get::<_, &str>("user_ref"), "template_id": template}),
            None => json!({"user_id": row.get::<_, &str>("user_ref")}),
        },
        "issuance" => json!({"issuance_id": row.get::<_, Option<i64>>("issuance_id")}),
        _ => json!({"template_id": template}),
    };
    json!({
        "id": row.get::<_, i64>("id"),
        "scope": scope,
        "reason": row.get::<_, &str>("reason"),
        "status": row.get::<_, &str>("status"),
        "revoked": row.get::<_, i64>("revoked"),
        "left": {
            "locked": row.get::<_, i64>("left_locked"),
            "used": row.get::<_, i64>("left_used"),
            "expired": row.get::<_, i64>("left_expired"),
            "revoked": row.get::<_, i64>("left_revoked"),
        },
        "author_key_id": row.get::<_, i32>("author_key_id"),
        "created_at": time(row.get("created_at")),
        "started_at": row.get::<_, Option<DateTime<Utc>>>("started_at").map(time),
        "finished_at": row.get::<_, Option<DateTime<Utc>>>("finished_at").map(time),
    })
}

// === impl Target ===

impl Target {
    fn word(&self) -> &'static str {
        match self {
            Target::Coupon(_) => "coupon",
            Target::User { .. } => "user",
            Target::Issuance(_) => "issuance",
            Target::Template(_) => "template",
        }
    }
}

// === impl Progress ===

impl Progress {
    pub fn word(self) -> &'static str {
        match self {
            Progress::Pending => "pending",
            Progress::Running => "running",
            Progress::Done => "done",
        }
    }

    pub fn parse(text: &str) -> Option<Progress> {
        [Progress::Pending, Progress::Running, Progress::Done]
            .into_iter()
            .find(|progress| progress.word().eq_ignore_ascii_case(text))
    }
}
