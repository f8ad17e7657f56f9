//! What an order would cost with a user's coupons: the wallet on one side, pricing on the other.
//!
//! A quote promises nothing and changes nothing. It sees what the wallet sees: an acknowledged
//! claim can be quoted before it is a row. Searches that may take long run beside the threads that
//! serve requests, a few at a time, and those that wait are counted and bounded.
//!
//! # Layout
//! - [`request`]: what is asked, read whole
//! - this file: coupons gathered, priced and answered

pub mod request;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::app::App;
use crate::catalog::store::{self, Scope};
use crate::domain::code::CouponName;
use crate::domain::coupon::CouponStatus;
use crate::domain::outcome::ClaimOutcome;
use crate::domain::window::{Millis, Validity};
use crate::http::problem::{FieldError, Problem};
use crate::limits::{
    QUOTE_COUPONS_MAX, QUOTE_INLINE_COUPONS_MAX, QUOTE_INLINE_IDS_MAX, QUOTE_INLINE_LINES_MAX, QUOTE_WAITERS_MAX,
};
use crate::pricing::reason::Reason;
use crate::pricing::{self, Case, Coupon, Settings, State, Terms};
use crate::wallet;

use request::{Mode, QuoteRequest};

/// Where searches wait for a processor.
pub struct Desk {
    searching: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

/// An answer that is on its way through pricing: all that it needs, owned.
struct Task {
    request: QuoteRequest,
    coupons: Vec<Coupon>,
    /// Coupons of templates whose rules this build cannot read, as the answer lists them.
    unreadable: Vec<Value>,
    /// The user has more that hold than one order is priced with.
    is_cut: bool,
    settings: Settings,
}

/// Answers a request. `scope`: whose templates may be tried; `None`: nobody's.
pub async fn answer(app: &App, scope: Option<Scope<'_>>, request: QuoteRequest) -> Result<Value, Problem> {
    let user = app.users.seal(&request.order.user_id);
    let mut coupons = trials(app, scope, &request).await?;
    let most = QUOTE_COUPONS_MAX - coupons.len();
    let (held, is_cut) = match &request.codes {
        Some(codes) => (wallet::by_names(app, &user, &names(app, codes)?).await?, false),
        None => wallet::at_hand(app, &user, request.order.placed_at, most).await?,
    };
    let mut unreadable = Vec::new();
    for coupon in held {
        match priceable(app, &coupon, request.order.placed_at, request.clock)? {
            Some(priceable) => coupons.push(priceable),
            None => unreadable.push(json!({
                "code": app.code_key.encode(coupon.name()),
                "template_id": coupon.template.0,
                "reason": Reason::NoBenefit.word(),
                "detail": "the rules of its template cannot be read",
                "missing": {},
            })),
        }
    }
    if coupons.len() > QUOTE_COUPONS_MAX {
        let detail = format!("coupons and trial_templates must name at most {QUOTE_COUPONS_MAX} together");
        return Err(Problem::invalid(vec![FieldError { field: "coupons".into(), code: "too_many", detail }]));
    }
    let task = Task { request, coupons, unreadable, is_cut, settings: app.config.pricing.clone() };
    if task.is_small() {
        return Ok(task.run());
    }
    app.quotes.search(task).await
}

/// The codes opened. What is no code is nobody's.
fn names(app: &App, codes: &[String]) -> Result<Vec<CouponName>, Problem> {
    let mut seen = HashSet::new();
    let mut names = Vec::with_capacity(codes.len());
    for (at, code) in codes.iter().enumerate() {
        let name = app.code_key.decode(code).ok_or_else(|| wallet::not_yours(code))?;
        if !seen.insert(name) {
            let detail = "names a coupon that was named before".to_owned();
            return Err(Problem::invalid(vec![FieldError {
                field: format!("coupons[{at}]"),
                code: "repeated",
                detail,
            }]));
        }
        names.push(name);
    }
    Ok(names)
}

/// A coupon of the wallet as pricing sees it for an order placed at `at`; `None`: its template's rules
/// cannot be read. The template may be paused or stopped: the coupon was issued. `clock` is the moment
/// that counts as the server's.
pub fn priceable(app: &App, coupon: &wallet::Coupon, at: Millis, clock: Millis) -> Result<Option<Coupon>, Problem> {
    let snapshot = app.snapshot.load();
    let template = snapshot.templates.get(&coupon.template).ok_or_else(|| {
        let detail = format!("template {} is not known to this gateway yet; ask again", coupon.template);
        Problem::of(ClaimOutcome::Unavailable, detail).retry_after_ms(1000)
    })?;
    let Some(terms) = template.terms.clone() else { return Ok(None) };
    Ok(Some(Coupon {
        code: app.code_key.encode(coupon.name()),
        template_id: coupon.template,
        terms,
        state: match coupon.status {
            // By the server's clock, which a dry run does not go by.
            CouponStatus::Expired if at < coupon.expires => State::Unused,
            CouponStatus::Unused => State::Unused,
            CouponStatus::Locked => State::Locked,
            CouponStatus::Offered => State::Offered,
            CouponStatus::Used => State::Used,
            CouponStatus::Expired => State::Expired,
            CouponStatus::Revoked => State::Revoked,
        },
        // Granted before the request, but after the moment that a slow clock gave the order.
        valid_from: if coupon.valid_from <= clock { coupon.valid_from.min(at) } else { coupon.valid_from },
        expires: coupon.expires,
        amount: coupon.amount,
    }))
}

/// A coupon of each template that is tried, as if the user had it from now on.
async fn trials(app: &App, scope: Option<Scope<'_>>, request: &QuoteRequest) -> Result<Vec<Coupon>, Problem> {
    let Some(scope) = scope.filter(|_| !request.trials.is_empty()) else { return Ok(Vec::new()) };
    let mut coupons = Vec::with_capacity(request.trials.len());
    let mut wrong = Vec::new();
    let client = app.pg.get().await?;
    for (at, id) in request.trials.iter().enumerate() {
        let mut refuse = |code, detail: String| {
            wrong.push(FieldError { field: format!("trial_templates[{at}]"), code, detail });
        };
        let definition = match store::read(&**client, scope, *id).await {
            Ok(record) => record.definition,
            Err(problem) if problem.code == "template_not_found" => {
                refuse("unknown_value", "there is no such template".into());
                continue;
            }
            Err(problem) => return Err(problem),
        };
        let terms = match Terms::of(&definition, &app.config.pricing) {
            Ok((terms, _)) => terms,
            Err(errors) => {
                let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
                refuse("not_priceable", format!("the template must be corrected first: {}", fields.join(", ")));
                continue;
            }
        };
        let now = request.order.placed_at;
        let (valid_from, expires) = match definition.validity {
            Validity::Fixed { from, until } => (from, until),
            Validity::Relative { .. } => (now, definition.validity.span(definition.timezone, now).1),
        };
        coupons.push(Coupon {
            code: format!("trial-{id}"),
            template_id: *id,
            terms: Arc::new(terms),
            state: State::Unused,
            valid_from,
            expires,
            amount: None,
        });
    }
    if wrong.is_empty() { Ok(coupons) } else { Err(Problem::invalid(wrong)) }
}

// === impl Task ===

impl Task {
    /// Whether it is done sooner than handed over.
    fn is_small(&self) -> bool {
        let ids: usize = self.coupons.iter().map(|coupon| coupon.terms.ids()).sum();
        self.coupons.len() <= QUOTE_INLINE_COUPONS_MAX
            && self.request.order.lines.len() <= QUOTE_INLINE_LINES_MAX
            && ids <= QUOTE_INLINE_IDS_MAX
    }

    fn run(&self) -> Value {
        let case = Case {
            order: &self.request.order,
            user: &self.request.user,
            now: self.request.order.placed_at,
            settings: &self.settings,
        };
        let mut answer = match self.request.mode {
            Mode::Best => {
                let mut quote = pricing::best(&case, &self.coupons, self.settings.search_nodes_max);
                quote.optimal &= !self.is_cut && self.unreadable.is_empty();
                quote.to_json(&self.coupons)
            }
            Mode::Rank => {
                let mut answer = pricing::rank(&case, &self.coupons).to_json(&self.coupons);
                answer["complete"] = (!self.is_cut).into();
                answer
            }
            Mode::Given => self.given(&case),
        };
        if let Some(unusable) = answer["unusable"].as_array_mut() {
            unusable.extend(self.unreadable.iter().cloned());
        }
        answer
    }

    /// All chosen coupons together, as a lock would take them; or none of them, with the reasons of
    /// those that are in the way.
    fn given(&self, case: &Case<'_>) -> Value {
        let (together, unusable) = match pricing::price(case, &self.coupons) {
            Ok(priced) => (Some(priced).filter(|_| self.unreadable.is_empty()), Vec::new()),
            Err(refused) => (None, refused.0),
        };
        let priced = together.unwrap_or_else(|| pricing::price(case, &[]).expect("no coupon is in the way of none"));
        let mut answer = priced.to_json(&self.coupons);
        answer["unusable"] = unusable.iter().map(|one| one.to_json(&self.coupons)).collect();
        answer["hints"] = json!([]);
        answer
    }
}

// === impl Desk ===

impl Desk {
    /// A search for each processor but one, which is left to claims; one where there is but one.
    pub fn new() -> Desk {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Desk { searching: Arc::new(Semaphore::new((processors - 1).max(1))), waiting: Arc::default() }
    }

    /// Searches that wait or run.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    async fn search(&self, task: Task) -> Result<Value, Problem> {
        let waiter = Waiter::join(&self.waiting)?;
        let permit = self.searching.clone().acquire_owned().await.expect("the desk is never closed");
        // Both stay with the search: a caller who leaves does not end it.
        let search = move || {
            let _held = (permit, waiter);
            task.run()
        };
        tokio::task::spawn_blocking(search).await.map_err(|error| {
            tracing::error!(error = %error, "a quote panicked");
            Problem::new("internal", "the order could not be priced; the log says why")
        })
    }
}

impl Default for Desk {
    fn default() -> Self {
        Desk::new()
    }
}

/// One place in the line, given back when it is dropped.
struct Waiter(Arc<AtomicUsize>);

impl Waiter {
    fn join(waiting: &Arc<AtomicUsize>) -> Result<Self, Problem> {
        let waiter = Waiter(waiting.clone());
        if waiting.fetch_add(1, Ordering::Relaxed) >= QUOTE_WAITERS_MAX {
            return Err(Problem::of(ClaimOutcome::Overloaded, "too many quotes wait already").retry_after_ms(1000));
        }
        Ok(waiter)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
