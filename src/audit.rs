//! Who changed what, when, from where, before and after.
//!
//! A record is inserted by the transaction that makes the change: there is no moment at which one
//! exists without the other. It waits for nobody. The chain that shows tampering is built behind it.
//!
//! # Layout
//! - this file: what a record says, and [`record`]
//! - [`seal`]: how a record is bound to all before it
//! - [`sealer`], [`anchor`]: the chain, and where it ended, kept outside of the database
//! - [`keeper`]: the loop that does both
//! - [`verify`]: whether anything was touched since
//! - [`list`](mod@list): records for auditors

pub mod anchor;
pub mod keeper;
pub mod list;
pub mod seal;
pub mod sealer;
pub mod verify;

use std::fmt;
use std::net::IpAddr;

use serde_json::Value;

use crate::domain::ids::{CellId, Serial, TemplateId};
use crate::domain::user::UserRef;
use crate::pg::{Pg, PgFault, Tx};

const RECORD: &str = include_str!("sql/audit/record.sql");

/// Who changes something, and from where.
#[derive(Clone, Debug)]
pub struct Origin {
    pub actor: Actor,
    /// The client's address, behind trusted proxies.
    pub ip: Option<IpAddr>,
    pub request_id: Option<String>,
}

/// Who does it. The forms of `Display` are stored: never change one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// An API key, by id.
    Key(i32),
    /// A shopper.
    User(UserRef),
    /// A loop of this program, as `expiry`.
    Worker(&'static str),
    /// A person at the command line.
    Cli,
    /// The settings of a process that starts.
    Settings,
    /// The approval flow of another system.
    Approval,
}

/// One change of one thing.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub action: Action,
    pub subject: Subject,
    /// `Null`: it did not exist. Users are references; codes, tokens and keys are never in it.
    pub before: Value,
    /// `Null`: it does not exist any more.
    pub after: Value,
}

/// A kind of change. Words are stored: never rename one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    TemplateCreate,
    TemplatePatch,
    TemplateDelete,
    TemplateSubmit,
    TemplateApprove,
    TemplateReject,
    TemplatePublish,
    TemplatePause,
    TemplateResume,
    TemplateStop,
    TemplateAddStock,
    /// Sold out, or over.
    TemplateFinish,
    /// It has stock again, or time.
    TemplateReopen,
    /// What Redis holds of it is let go.
    TemplateFree,
    ApiKeyCreate,
    ApiKeyRevoke,
    /// A key of the settings holds again.
    ApiKeyRestore,
    BlacklistPut,
    BlacklistDelete,
    RuleSetCreate,
    RuleSetPatch,
    RuleSetDelete,
    CellRecover,
    SchemaMigrate,
    RedemptionLock,
    RedemptionConfirm,
    /// Confirmed after its coupons had gone elsewhere.
    RedemptionConflict,
    RedemptionCancel,
    RedemptionTimeOut,
    RedemptionRefund,
    CouponExpire,
    CouponRevoke,
    GiftOffer,
    GiftAccept,
    GiftDecline,
    GiftWithdraw,
    GiftReturn,
}

/// What was changed. The forms of `Display` are stored, and asked for: never change one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    Template(TemplateId),
    ApiKey(i32),
    BlacklistEntry(i64),
    RuleSet(i32),
    Cell(CellId),
    Schema,
    /// An order's use of its coupons, by order id.
    Redemption(String),
    Coupon(TemplateId, Serial),
    Gift(String),
    Revocation(String),
}

/// Writes the change into `tx`. What changed nothing leaves no record.
pub async fn record(tx: &Tx<'_>, origin: &Origin, change: &Change) -> Result<(), PgFault> {
    if change.before == change.after {
        return Ok(());
    }
    let actor = origin.actor.to_string();
    let ip = origin.ip.map(|ip| ip.to_string());
    let (action, subject) = (change.action.word(), change.subject.to_string());
    let (before, after) = (stored(&change.before), stored(&change.after));
    tx.change(RECORD, &[&actor, &ip, &origin.request_id, &action, &subject, &before, &after]).await?;
    Ok(())
}

/// Writes a change whose work is no single transaction of PostgreSQL.
pub async fn record_alone(pg: &Pg, actor: Actor, change: &Change) -> Result<(), PgFault> {
    let mut connection = pg.get().await?;
    let tx = connection.begin().await?;
    record(&tx, &Origin::inner(actor), change).await?;
    tx.commit().await
}

fn stored(value: &Value) -> Option<&Value> {
    (!value.is_null()).then_some(value)
}

// === impl Origin ===

impl Origin {
    /// A change that no request asked for.
    pub fn inner(actor: Actor) -> Origin {
        Origin { actor, ip: None, request_id: None }
    }
}

// === impl Change ===

impl Change {
    pub fn new(action: Action, subject: Subject, before: Value, after: Value) -> Change {
        Change { action, subject, before, after }
    }
}

// === impl Actor ===

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Actor::Key(id) => write!(f, "key:{id}"),
            Actor::User(user) => write!(f, "user:{}", user.as_str()),
            Actor::Worker(name) => write!(f, "worker:{name}"),
            Actor::Cli => f.write_str("cli"),
            Actor::Settings => f.write_str("settings"),
            Actor::Approval => f.write_str("approval"),
        }
    }
}

// === impl Action ===

impl Action {
    pub fn word(self) -> &'static str {
        match self {
            Action::TemplateCreate => "template.create",
            Action::TemplatePatch => "template.patch",
            Action::TemplateDelete => "template.delete",
            Action::TemplateSubmit => "template.submit",
            Action::TemplateApprove => "template.approve",
            Action::TemplateReject => "template.reject",
            Action::TemplatePublish => "template.publish",
            Action::TemplatePause => "template.pause",
            Action::TemplateResume => "template.resume",
            Action::TemplateStop => "template.stop",
            Action::TemplateAddStock => "template.add_stock",
            Action::TemplateFinish => "template.finish",
            Action::TemplateReopen => "template.reopen",
            Action::TemplateFree => "template.free",
            Action::ApiKeyCreate => "api_key.create",
            Action::ApiKeyRevoke => "api_key.revoke",
            Action::ApiKeyRestore => "api_key.restore",
            Action::BlacklistPut => "blacklist.put",
            Action::BlacklistDelete => "blacklist.delete",
            Action::RuleSetCreate => "rule_set.create",
            Action::RuleSetPatch => "rule_set.patch",
            Action::RuleSetDelete => "rule_set.delete",
            Action::CellRecover => "cell.recover",
            Action::SchemaMigrate => "schema.migrate",
            Action::RedemptionLock => "redemption.lock",
            Action::RedemptionConfirm => "redemption.confirm",
            Action::RedemptionConflict => "redemption.conflict",
            Action::RedemptionCancel => "redemption.cancel",
            Action::RedemptionTimeOut => "redemption.time_out",
            Action::RedemptionRefund => "redemption.refund",
            Action::CouponExpire => "coupon.expire",
            Action::CouponRevoke => "coupon.revoke",
            Action::GiftOffer => "gift.offer",
            Action::GiftAccept => "gift.accept",
            Action::GiftDecline => "gift.decline",
            Action::GiftWithdraw => "gift.withdraw",
            Action::GiftReturn => "gift.return",
        }
    }
}

// === impl Subject ===

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Template(id) => write!(f, "template:{id}"),
            Subject::ApiKey(id) => write!(f, "api_key:{id}"),
            Subject::BlacklistEntry(id) => write!(f, "blacklist:{id}"),
            Subject::RuleSet(id) => write!(f, "rule_set:{id}"),
            Subject::Cell(id) => write!(f, "cell:{}", id.0),
            Subject::Schema => f.write_str("schema"),
            Subject::Redemption(order) => write!(f, "redemption:{order}"),
            Subject::Coupon(template, serial) => write!(f, "coupon:{template}/{serial}"),
            Subject::Gift(id) => write!(f, "gift:{id}"),
            Subject::Revocation(id) => write!(f, "revocation:{id}"),
        }
    }
}
