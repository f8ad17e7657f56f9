//! `/v1/admin/audit`: who changed what. It shows every owner's changes, so only platform keys reach it.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use hyper::Method;

use super::page;
use crate::app::App;
use crate::audit::list::{self, Place, Question};
use crate::catalog::store::Scope;
use crate::handler;
use crate::http::problem::{FieldError, Problem};
use crate::http::route::{Access, Door, Reply, Request, Role, Route};
use crate::limits::AUDIT_WORD_MAX;

const QUERY: &[(&str, &str)] = &[
    ("subject", r#"{"type":"string","maxLength":200,"description":"As template:7, redemption:o-1."}"#),
    ("actor", r#"{"type":"string","maxLength":200,"description":"As key:7, user:u-1, worker:life, cli, settings."}"#),
    ("action", r#"{"type":"string","maxLength":200,"description":"As template.publish."}"#),
    ("from", r#"{"type":"string","format":"date-time"}"#),
    ("until", r#"{"type":"string","format":"date-time","description":"Exclusive."}"#),
    ("cursor", r#"{"type":"string"}"#),
    ("limit", r#"{"type":"integer","minimum":1,"maximum":100,"default":20}"#),
];

pub fn routes() -> Vec<Route> {
    let access = Access::Roles(&[Role::Auditor]);
    let says = "Who changed what, newest first; a page may be short and yet have a next one";
    let list = Route::new(Method::GET, Door::Internal, "/v1/admin/audit", access, handler!(list), says);
    vec![list.asks(QUERY).gives("AuditList")]
}

async fn list(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    Scope::of(request.caller()).demand_platform()?;
    let (limit, cursor) = request.page()?;
    let no_cursor = || Problem::new("invalid_request", "the cursor is none that a list gave");
    let actor = word(&request, "actor")?;
    let question = Question {
        subject: word(&request, "subject")?,
        actor: match &actor {
            Some(actor) => Some(list::stored_actor(&app.users, actor).ok_or_else(|| wrong("actor", "names no user"))?),
            None => None,
        },
        action: word(&request, "action")?,
        from: time(&request, "from")?,
        until: time(&request, "until")?,
        after: cursor.map(|text| Place::parse(text).ok_or_else(no_cursor)).transpose()?,
    };
    let client = app.pg.get().await?;
    let (items, next) = list::list(&client, &app.users, &question, limit).await?;
    Ok(Reply::Ok(page(items, next)))
}

fn word(request: &Request, name: &str) -> Result<Option<String>, Problem> {
    match request.query_value(name) {
        Some(text) if text.len() > AUDIT_WORD_MAX || text.chars().any(char::is_control) => {
            Err(wrong(name, &format!("must have at most {AUDIT_WORD_MAX} characters")))
        }
        found => Ok(found.map(str::to_owned)),
    }
}

fn time(request: &Request, name: &str) -> Result<Option<DateTime<Utc>>, Problem> {
    // An empty one is none, and no time either.
    let parse = |(_, text): &(String, String)| DateTime::parse_from_rfc3339(text).map(|at| at.to_utc());
    let found = request.query.iter().find(|(key, _)| key == name).map(parse).transpose();
    found.map_err(|_| wrong(name, "must be a time with its offset, as 2026-11-11T00:00:00+08:00"))
}

fn wrong(field: &str, detail: &str) -> Problem {
    Problem::invalid(vec![FieldError { field: field.to_owned(), code: "invalid", detail: detail.to_owned() }])
}
