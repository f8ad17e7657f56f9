//! What a refund reverses, and which coupons it frees. Pure.
//!
//! Of what coupons took off a line, refunded units take back their part: after r of Q units, of `t` in all
//! `floor(t * r / Q)` is taken back, from each coupon by its share, largest remainder first. So parts add up
//! to the whole whatever their order, and no unit takes back more than it cost. A fee's share goes back with
//! the fee, a gift's value with the whole order. Where a coupon's conditions do not hold on the rest any more,
//! its template says whether the rest keeps its share (`proportional`) or loses it (`clawback`, `restore`);
//! what is taken back so never exceeds what the refund pays back.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rust_decimal::Decimal;

use super::request::RefundRequest;
use crate::domain::fields::FieldError;
use crate::domain::ids::TemplateId;
use crate::domain::template::Partial;
use crate::ledger::settlement::Subject;
use crate::pricing::money::Minor;
use crate::pricing::{self, Case, Coupon, Order, Settings, State, Terms, User};

/// What is known of the order before the refund.
pub struct Basis<'a> {
    /// As it was priced.
    pub order: &'a Order,
    pub user: &'a User,
    pub settings: &'a Settings,
    pub parts: Vec<Part>,
    /// Units of each line that earlier refunds took back.
    pub units_before: HashMap<String, u32>,
    pub fee_before: bool,
}

/// A coupon of the order: what it took off, and what of that is not reversed yet.
pub struct Part {
    /// `None`: its template's rules cannot be read. It then counts as holding on the rest.
    pub terms: Option<Arc<Terms>>,
    /// A red packet's share.
    pub amount: Option<Decimal>,
    pub policy: Partial,
    /// Not given back yet.
    pub is_used: bool,
    /// The share of each line at the lock.
    pub granted: HashMap<String, Minor>,
    /// What is left of the shares: by line, by merchant of a fee, by gift.
    pub lines: HashMap<String, Minor>,
    pub fees: HashMap<String, Minor>,
    pub gifts: HashMap<String, Minor>,
}

/// What the refund does.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub reversals: Vec<Reversal>,
    /// Lines that are refunded, and lines of which something is taken back, by line id.
    pub lines: Vec<LineOutcome>,
    /// All units of all lines are refunded now.
    pub is_whole: bool,
    /// The fees are paid back now.
    pub fee_now: bool,
    /// Of each coupon: nothing of its benefit is left, and it is to be given back.
    pub returns: Vec<bool>,
    /// What the refunded units and fees cost before discounts.
    gross: Minor,
}

/// Something that a bearer does not owe any more.
#[derive(Clone, Debug, PartialEq)]
pub struct Reversal {
    /// Index of the coupon.
    pub coupon: usize,
    pub subject: Subject,
    pub amount: Minor,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineOutcome {
    pub line_id: String,
    /// Units refunded now; 0: only the discount on the rest is taken back.
    pub quantity: u32,
    pub reversed: Minor,
}

/// Why there is nothing to do.
#[derive(Debug)]
pub enum Refused {
    Fields(Vec<FieldError>),
    /// All of it is refunded already.
    Nothing,
}

pub fn plan(basis: &Basis, request: &RefundRequest) -> Result<Plan, Refused> {
    let order = basis.order;
    let units = units(basis, request)?;
    let fee_now = request.shipping_refunded && !basis.fee_before && !order.shipping.is_empty();
    if units.is_empty() && !fee_now {
        return Err(Refused::Nothing);
    }
    let before = |line: &str| basis.units_before.get(line).copied().unwrap_or(0);
    let now = |line: &str| units.get(line).copied().unwrap_or(0);
    let is_whole = order.lines.iter().all(|line| before(&line.line_id) + now(&line.line_id) == line.quantity);

    let mut reversals: Vec<Reversal> = Vec::new();
    for line in order.lines.iter().filter(|line| now(&line.line_id) > 0) {
        let units = (before(&line.line_id), before(&line.line_id) + now(&line.line_id), line.quantity);
        for (coupon, amount) in of_units(basis, &line.line_id, units) {
            push(&mut reversals, coupon, Subject::Line(line.line_id.clone()), amount);
        }
    }
    for (coupon, part) in basis.parts.iter().enumerate() {
        if fee_now {
            for (merchant, left) in sorted(&part.fees) {
                push(&mut reversals, coupon, Subject::Shipping(merchant.clone()), left);
            }
        }
        if is_whole {
            for (item, left) in sorted(&part.gifts) {
                push(&mut reversals, coupon, Subject::Gift(item.clone()), left);
            }
        }
    }

    let goods: Minor = order.lines.iter().map(|line| line.unit_price * Minor::from(now(&line.line_id))).sum();
    let gross = goods + if fee_now { order.shipping_total() } else { 0 };
    let mut plan = Plan { reversals, lines: Vec::new(), is_whole, fee_now, returns: Vec::new(), gross };
    let lost: Vec<bool> = if is_whole { vec![false; basis.parts.len()] } else { lost_on_rest(basis, &units, fee_now) };
    take_back(basis, &mut plan, &lost);
    plan.returns = (0..basis.parts.len())
        .map(|at| {
            let part = &basis.parts[at];
            let is_freed = is_whole || (lost[at] && part.policy == Partial::Restore);
            part.is_used && is_freed && plan.reversed_of(at, true) == part.left()
        })
        .collect();
    plan.lines = outcomes(order, &units, &plan);
    Ok(plan)
}

/// Units to refund now, none of them refunded before.
fn units(basis: &Basis, request: &RefundRequest) -> Result<BTreeMap<String, u32>, Refused> {
    let left = |line: &pricing::order::Line| {
        line.quantity - basis.units_before.get(&line.line_id).copied().unwrap_or(0).min(line.quantity)
    };
    let Some(lines) = &request.lines else {
        let rest = basis.order.lines.iter().map(|line| (line.line_id.clone(), left(line)));
        return Ok(rest.filter(|(_, quantity)| *quantity > 0).collect());
    };
    let mut wrong = Vec::new();
    for (at, (id, quantity)) in lines.iter().enumerate() {
        let line = basis.order.lines.iter().find(|line| line.line_id == *id);
        let (field, code, detail) = match line {
            None => ("line_id", "unknown_value", "is no line of the order".to_owned()),
            Some(line) if *quantity > left(line) => {
                ("quantity", "out_of_range", format!("must be at most {}: more is not left of the line", left(line)))
            }
            Some(_) => continue,
        };
        wrong.push(FieldError { field: format!("lines[{at}].{field}"), code, detail });
    }
    if wrong.is_empty() { Ok(lines.iter().cloned().collect()) } else { Err(Refused::Fields(wrong)) }
}

/// What each coupon's share of a line loses when the units refunded go from the first to the second number,
/// of the third in all. A coupon of which more was taken back already, because it was lost, is left alone.
fn of_units(basis: &Basis, line: &str, (before, after, quantity): (u32, u32, u32)) -> Vec<(usize, Minor)> {
    struct Taken {
        coupon: usize,
        left: Minor,
        amount: Minor,
        remainder: i128,
    }
    let exact = |share: Minor, units: u32| i128::from(share) * i128::from(units);
    let floor = |share: Minor, units: u32| (exact(share, units) / i128::from(quantity)) as Minor;
    let (mut all, mut reversed) = (0, 0);
    let mut taken: Vec<Taken> = Vec::new();
    for (coupon, part) in basis.parts.iter().enumerate() {
        let (Some(&granted), Some(&left)) = (part.granted.get(line), part.lines.get(line)) else { continue };
        // Rounding may have taken a minor unit ahead, never more.
        if granted - left > floor(granted, before) + 1 {
            continue;
        }
        all += granted;
        reversed += granted - left;
        let amount = (floor(granted, after) - (granted - left)).max(0);
        taken.push(Taken { coupon, left, amount, remainder: exact(granted, after) % i128::from(quantity) });
    }
    let mut owed = (floor(all, after) - reversed).max(0) - taken.iter().map(|one| one.amount).sum::<Minor>();
    taken.sort_by_key(|one| (std::cmp::Reverse(one.remainder), one.coupon));
    while owed > 0 && taken.iter().any(|one| one.amount < one.left) {
        for one in taken.iter_mut().filter(|one| one.amount < one.left) {
            one.amount += owed.min(1);
            owed -= owed.min(1);
        }
    }
    for one in taken.iter_mut().rev() {
        let back = one.amount.min((-owed).max(0));
        one.amount -= back;
        owed += back;
    }
    taken.sort_by_key(|one| one.coupon);
    taken.into_iter().map(|one| (one.coupon, one.amount)).collect()
}

/// Of each coupon: whether its conditions fail on what is left of the order, where all that still hold are
/// used together as they were.
fn lost_on_rest(basis: &Basis, units: &BTreeMap<String, u32>, fee_now: bool) -> Vec<bool> {
    let mut rest = basis.order.clone();
    for line in &mut rest.lines {
        let gone = |taken: Option<&u32>| taken.copied().unwrap_or(0);
        line.quantity -= gone(units.get(&line.line_id)) + gone(basis.units_before.get(&line.line_id));
    }
    rest.lines.retain(|line| line.quantity > 0);
    if fee_now || basis.fee_before {
        rest.shipping.clear();
    }
    let case = Case { order: &rest, user: basis.user, now: rest.placed_at, settings: basis.settings };
    let coupon = |at: usize, terms: Arc<Terms>| Coupon {
        // Ties are decided by it, as they were; it is shown to nobody.
        code: at.to_string(),
        template_id: TemplateId(0),
        terms,
        state: State::Unused,
        // Its validity was judged at the lock.
        valid_from: rest.placed_at,
        expires: rest.placed_at + 1,
        amount: basis.parts[at].amount,
    };
    let mut holding: Vec<usize> =
        (0..basis.parts.len()).filter(|at| basis.parts[*at].is_used && basis.parts[*at].terms.is_some()).collect();
    let mut lost = vec![false; basis.parts.len()];
    loop {
        let coupons: Vec<Coupon> =
            holding.iter().filter_map(|at| Some(coupon(*at, basis.parts[*at].terms.clone()?))).collect();
        let Err(refused) = pricing::price(&case, &coupons) else { break };
        let failing: Vec<usize> = refused.0.iter().map(|unusable| holding[unusable.coupon]).collect();
        for at in &failing {
            lost[*at] = basis.parts[*at].policy != Partial::Proportional;
        }
        holding.retain(|at| !failing.contains(at));
    }
    lost
}

/// Takes back what coupons that are lost on the rest have left there, as far as the refund pays money back.
fn take_back(basis: &Basis, plan: &mut Plan, lost: &[bool]) {
    for (coupon, part) in basis.parts.iter().enumerate().filter(|(at, _)| lost[*at]) {
        let places = sorted(&part.lines).map(|(line, left)| (Subject::Line(line.clone()), left));
        let fees = sorted(&part.fees).map(|(merchant, left)| (Subject::Shipping(merchant.clone()), left));
        for (subject, left) in places.chain(fees) {
            let room = plan.gross - plan.reversed_total();
            let reversed = plan.reversed_at(coupon, &subject);
            add(&mut plan.reversals, coupon, subject, (left - reversed).min(room));
        }
        for (item, left) in sorted(&part.gifts) {
            push(&mut plan.reversals, coupon, Subject::Gift(item.clone()), left);
        }
    }
}

fn outcomes(order: &Order, units: &BTreeMap<String, u32>, plan: &Plan) -> Vec<LineOutcome> {
    let mut lines: Vec<LineOutcome> = order
        .lines
        .iter()
        .map(|line| LineOutcome {
            line_id: line.line_id.clone(),
            quantity: units.get(&line.line_id).copied().unwrap_or(0),
            reversed: plan
                .reversals
                .iter()
                .filter(|reversal| reversal.subject == Subject::Line(line.line_id.clone()))
                .map(|reversal| reversal.amount)
                .sum(),
        })
        .filter(|line| line.quantity > 0 || line.reversed > 0)
        .collect();
    lines.sort_by(|a, b| a.line_id.cmp(&b.line_id));
    lines
}

fn push(reversals: &mut Vec<Reversal>, coupon: usize, subject: Subject, amount: Minor) {
    if amount > 0 {
        reversals.push(Reversal { coupon, subject, amount });
    }
}

/// The same where something of the subject may be reversed already.
fn add(reversals: &mut Vec<Reversal>, coupon: usize, subject: Subject, amount: Minor) {
    match reversals.iter_mut().find(|reversal| reversal.coupon == coupon && reversal.subject == subject) {
        Some(reversal) if amount > 0 => reversal.amount += amount,
        Some(_) => {}
        None => push(reversals, coupon, subject, amount),
    }
}

fn sorted(left: &HashMap<String, Minor>) -> impl Iterator<Item = (&String, Minor)> {
    let by_id: BTreeMap<&String, Minor> = left.iter().map(|(id, amount)| (id, *amount)).collect();
    by_id.into_iter()
}

// === impl Part ===

impl Part {
    /// What of its whole benefit is not reversed yet.
    fn left(&self) -> Minor {
        [&self.lines, &self.fees, &self.gifts].into_iter().flat_map(HashMap::values).sum()
    }
}

// === impl Plan ===

impl Plan {
    /// What is taken back of discounts, on lines and fees.
    pub fn reversed_total(&self) -> Minor {
        self.sum(|reversal| !matches!(reversal.subject, Subject::Gift(_)))
    }

    pub fn fees_reversed(&self) -> Minor {
        self.sum(|reversal| matches!(reversal.subject, Subject::Shipping(_)))
    }

    pub fn gifts_reversed(&self) -> Minor {
        self.sum(|reversal| matches!(reversal.subject, Subject::Gift(_)))
    }

    /// Of one coupon, with or without its gifts.
    pub fn reversed_of(&self, coupon: usize, with_gifts: bool) -> Minor {
        self.sum(|reversal| reversal.coupon == coupon && (with_gifts || !matches!(reversal.subject, Subject::Gift(_))))
    }

    /// What the customer gets back: the price of what is refunded, less the discounts taken back.
    pub fn paid_back(&self) -> Minor {
        self.gross - self.reversed_total()
    }

    fn reversed_at(&self, coupon: usize, subject: &Subject) -> Minor {
        self.sum(|reversal| reversal.coupon == coupon && reversal.subject == *subject)
    }

    fn sum(&self, counts: impl Fn(&Reversal) -> bool) -> Minor {
        self.reversals.iter().filter(|reversal| counts(reversal)).map(|reversal| reversal.amount).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::domain::template::Definition;

    fn order(lines: &[(Minor, u32)]) -> Order {
        let line = |(at, (price, quantity)): (usize, &(Minor, u32))| {
            let price = Decimal::new(*price, 2).to_string();
            json!({"line_id": at.to_string(), "item_id": format!("i-{at}"), "merchant_id": "m",
                "unit_price": price, "quantity": quantity})
        };
        let lines: Vec<_> = lines.iter().enumerate().map(line).collect();
        let order = json!({"order_id": "o", "user_id": "u", "placed_at": "2026-06-18T12:00:00+08:00", "currency": "CNY",
            "shipping": [{"merchant_id": "m", "fee": "8.00"}], "lines": lines});
        Order::parse(&order, "").unwrap()
    }

    fn terms(kind: &str, value: serde_json::Value, threshold: &str) -> Arc<Terms> {
        let definition = json!({
            "name": "of a test", "kind": kind, "value": value, "stock": {"total": 1}, "max_discount_ratio": 1,
            "usage_rules": [{"rule_type": "MINIMUM_SPEND", "params": {"amount": threshold}}],
            "claim_window": {"starts_at": "2026-06-18T00:00:00Z", "ends_at": "2026-06-19T00:00:00Z"},
            "validity": {"type": "relative", "days": 7},
        });
        Arc::new(Terms::stored(&Definition::from_store(&definition).unwrap()).unwrap())
    }

    /// 20.00 off from a threshold, shared as pricing shares it.
    fn voucher(order: &Order, off: Minor, threshold: &str, policy: Partial) -> Part {
        let terms = terms("cash_voucher", json!({"amount": Decimal::new(off, 2).to_string()}), threshold);
        let coupon = Coupon {
            code: String::new(),
            template_id: TemplateId(1),
            terms: terms.clone(),
            state: State::Unused,
            valid_from: order.placed_at,
            expires: order.placed_at + 1,
            amount: None,
        };
        let (user, settings) = (User::default(), Settings::default());
        let case = Case { order, user: &user, now: order.placed_at, settings: &settings };
        let priced = pricing::price(&case, &[coupon]).unwrap();
        let minor = |amount| order.currency.minor(amount).unwrap();
        let lines: HashMap<String, Minor> =
            priced.coupons[0].lines.iter().map(|line| (line.line_id.clone(), minor(line.share))).collect();
        Part {
            terms: Some(terms),
            amount: None,
            policy,
            is_used: true,
            granted: lines.clone(),
            lines,
            fees: HashMap::new(),
            gifts: HashMap::new(),
        }
    }

    fn voucher_of_nothing() -> Part {
        Part {
            terms: None,
            amount: None,
            policy: Partial::Proportional,
            is_used: true,
            granted: HashMap::new(),
            lines: HashMap::new(),
            fees: HashMap::new(),
            gifts: HashMap::new(),
        }
    }

    fn request(lines: Option<&[(&str, u32)]>, shipping: bool) -> RefundRequest {
        RefundRequest {
            refund_id: "r".into(),
            order_id: "o".into(),
            reason: "of a test".into(),
            lines: lines.map(|lines| lines.iter().map(|(id, quantity)| ((*id).to_owned(), *quantity)).collect()),
            shipping_refunded: shipping,
            sha256: [0; 32],
        }
    }

    /// Plays refunds one after the other, as the ledger would.
    struct Shop<'a> {
        order: &'a Order,
        user: User,
        settings: Settings,
        parts: Vec<Part>,
        units: HashMap<String, u32>,
        fee: bool,
    }

    impl<'a> Shop<'a> {
        fn new(order: &'a Order, parts: Vec<Part>) -> Self {
            let (user, settings) = (User::default(), Settings::default());
            Shop { order, user, settings, parts, units: HashMap::new(), fee: false }
        }

        fn refund(&mut self, request: &RefundRequest) -> Result<Plan, Refused> {
            let basis = Basis {
                order: self.order,
                user: &self.user,
                settings: &self.settings,
                parts: std::mem::take(&mut self.parts),
                units_before: self.units.clone(),
                fee_before: self.fee,
            };
            let plan = plan(&basis, request);
            self.parts = basis.parts;
            let plan = plan?;
            for reversal in &plan.reversals {
                let part = &mut self.parts[reversal.coupon];
                let left = match &reversal.subject {
                    Subject::Line(id) => part.lines.get_mut(id),
                    Subject::Shipping(id) => part.fees.get_mut(id),
                    Subject::Gift(id) => part.gifts.get_mut(id),
                };
                let left = left.unwrap();
                *left -= reversal.amount;
                assert!(reversal.amount > 0 && *left >= 0, "{reversal:?}");
            }
            for line in &plan.lines {
                *self.units.entry(line.line_id.clone()).or_default() += line.quantity;
            }
            self.fee |= plan.fee_now;
            for (part, returns) in self.parts.iter_mut().zip(&plan.returns) {
                part.is_used &= !returns;
            }
            Ok(plan)
        }
    }

    fn outcome(line: &str, quantity: u32, reversed: Minor) -> LineOutcome {
        LineOutcome { line_id: line.into(), quantity, reversed }
    }

    #[test]
    fn the_rest_keeps_its_share_or_loses_it_as_the_template_says() {
        // 20 off 80 + 40: shares 13.33 and 6.67. The rest of 80 is below the threshold of 100.
        let order = order(&[(8_000, 1), (4_000, 1)]);
        let cases = [
            (Partial::Proportional, vec![outcome("1", 1, 667)], 3_333, false),
            (Partial::Clawback, vec![outcome("0", 0, 1_333), outcome("1", 1, 667)], 2_000, false),
            (Partial::Restore, vec![outcome("0", 0, 1_333), outcome("1", 1, 667)], 2_000, true),
        ];
        for (policy, lines, paid_back, returns) in cases {
            let mut shop = Shop::new(&order, vec![voucher(&order, 2_000, "100.00", policy)]);
            let plan = shop.refund(&request(Some(&[("1", 1)]), false)).unwrap();
            assert_eq!((plan.lines.clone(), plan.paid_back()), (lines, paid_back), "{policy:?}");
            assert_eq!((plan.is_whole, plan.returns), (false, vec![returns]), "{policy:?}");
        }
        // While the threshold holds, every policy leaves the rest alone.
        for policy in [Partial::Proportional, Partial::Clawback, Partial::Restore] {
            let mut shop = Shop::new(&order, vec![voucher(&order, 2_000, "70.00", policy)]);
            let plan = shop.refund(&request(Some(&[("1", 1)]), false)).unwrap();
            assert_eq!((plan.lines, plan.returns), (vec![outcome("1", 1, 667)], vec![false]), "{policy:?}");
        }
    }

    #[test]
    fn nothing_is_taken_back_that_the_refund_does_not_pay() {
        // One of ten pieces of 10.00 goes back, and 50 off 100 are lost: 10.00 is all there is to keep.
        let order = order(&[(1_000, 10)]);
        let mut shop = Shop::new(&order, vec![voucher(&order, 5_000, "100.00", Partial::Restore)]);
        let one = request(Some(&[("0", 1)]), false);
        let plan = shop.refund(&one).unwrap();
        assert_eq!((plan.reversed_total(), plan.paid_back(), plan.returns), (1_000, 0, vec![false]));
        // The next ones go on, until nothing is left; then the coupon returns.
        let totals: Vec<_> =
            (0..5).map(|_| shop.refund(&one).unwrap()).map(|plan| (plan.paid_back(), plan.returns[0])).collect();
        assert_eq!(totals, [(0, false), (0, false), (0, false), (0, true), (1_000, false)]);
    }

    #[test]
    fn fees_go_back_with_the_fee_and_gifts_with_the_whole_order() {
        let order = order(&[(5_000, 2)]);
        let mut part = voucher(&order, 1_000, "100.00", Partial::Proportional);
        part.fees.insert("m".into(), 800);
        part.gifts.insert("drink".into(), 300);
        let mut shop = Shop::new(&order, vec![part]);
        let plan = shop.refund(&request(Some(&[("0", 1)]), false)).unwrap();
        assert_eq!((plan.reversed_total(), plan.fees_reversed(), plan.gifts_reversed()), (500, 0, 0));
        let plan = shop.refund(&request(None, false)).unwrap();
        assert_eq!((plan.reversed_total(), plan.gifts_reversed(), plan.is_whole), (500, 300, true));
        assert_eq!(plan.returns, [false], "its fee share is not reversed");
        let plan = shop.refund(&request(Some(&[]), true)).unwrap();
        assert_eq!((plan.fees_reversed(), plan.paid_back(), plan.returns), (800, 0, vec![true]));
        assert!(matches!(shop.refund(&request(None, true)), Err(Refused::Nothing)));
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        let order = order(&[(5_000, 2)]);
        let mut shop = Shop::new(&order, Vec::new());
        shop.refund(&request(Some(&[("0", 1)]), false)).unwrap();
        let Err(Refused::Fields(errors)) = shop.refund(&request(Some(&[("0", 2), ("9", 1)]), false)) else { panic!() };
        let found: Vec<_> = errors.iter().map(|error| (error.field.as_str(), error.code)).collect();
        assert_eq!(found, [("lines[0].quantity", "out_of_range"), ("lines[1].line_id", "unknown_value")]);
    }

    proptest! {
        /// Whatever the parts and their order, they reverse what was granted, to the minor unit.
        #[test]
        fn parts_add_up_to_the_whole(
            lines in prop::collection::vec((1_000i64..90_000, 1u32..6), 1..5),
            off in 1i64..3_000,
            policy in prop::sample::select(vec![Partial::Proportional, Partial::Clawback, Partial::Restore]),
            threshold in 1i64..10,
            steps in prop::collection::vec((0usize..5, 1u32..4), 0..12),
        ) {
            let order = order(&lines);
            let off = off.min(order.goods_total() - 1);
            let part = voucher(&order, off, &Decimal::new(threshold, 0).to_string(), policy);
            let mut shop = Shop::new(&order, vec![part]);
            let (mut reversed, mut paid) = (0, 0);
            let mut count = |plan: &Plan| {
                assert!(plan.paid_back() >= 0);
                reversed += plan.reversed_total();
                paid += plan.paid_back();
            };
            for (line, units) in steps {
                let id = (line % lines.len()).to_string();
                if let Ok(plan) = shop.refund(&request(Some(&[(&id, units)]), false)) {
                    count(&plan);
                }
            }
            if let Ok(plan) = shop.refund(&request(None, true)) {
                count(&plan);
            }
            prop_assert_eq!(reversed, off);
            prop_assert_eq!(paid, order.goods_total() + order.shipping_total() - off);
            prop_assert!(shop.parts[0].left() == 0 && !shop.parts[0].is_used);
        }

        /// Several coupons on a line, down to nothing left to pay for it: no part pays back less than nothing.
        #[test]
        fn several_coupons_never_take_back_more_than_a_unit_cost(
            lines in prop::collection::vec((1i64..5_000, 1u32..9), 1..4),
            shares in prop::collection::vec(prop::collection::vec(0u32..=100, 4), 1..4),
            steps in prop::collection::vec((0usize..4, 1u32..4), 0..14),
        ) {
            let order = order(&lines);
            let mut left: Vec<Minor> = lines.iter().map(|(price, units)| price * Minor::from(*units)).collect();
            let part = |percents: &Vec<u32>| {
                let mut part = voucher_of_nothing();
                for (line, left) in left.iter_mut().enumerate() {
                    let share = *left * Minor::from(percents[line]) / 100;
                    *left -= share;
                    part.granted.insert(line.to_string(), share);
                    part.lines.insert(line.to_string(), share);
                }
                part
            };
            let parts: Vec<Part> = shares.iter().map(part).collect();
            let all: Minor = parts.iter().map(Part::left).sum();
            let mut shop = Shop::new(&order, parts);
            let mut reversed = 0;
            for (line, units) in steps {
                let id = (line % lines.len()).to_string();
                if let Ok(plan) = shop.refund(&request(Some(&[(&id, units)]), false)) {
                    prop_assert!(plan.paid_back() >= 0, "{:?}", plan);
                    reversed += plan.reversed_total();
                }
            }
            if let Ok(plan) = shop.refund(&request(None, true)) {
                prop_assert!(plan.paid_back() >= 0, "{:?}", plan);
                reversed += plan.reversed_total();
            }
            prop_assert_eq!(reversed, all);
            prop_assert!(shop.parts.iter().all(|part| part.left() == 0 && !part.is_used));
        }
    }
}
