//! The product's statements of a lock and a confirm as a script for pgbench.
//!
//! The texts are the product's own files; only their parameters are written here. What the product really
//! sends is asked of pg_stat_statements, and a script that has another statement, or one less, is
//! refused. The constants are read from an order that the product itself locked and confirmed, so both
//! sides write the same rows.

use std::collections::{BTreeMap, HashMap};

use tokio_postgres::Row;

use super::sides::OrderService;
use super::stage::{Stage, told};

/// What pgbench is given.
#[derive(Debug)]
pub struct Script {
    pub text: String,
    /// Variables with values of their own, for `-D`.
    pub constants: Vec<(String, String)>,
    /// Statements of a lock and a confirm, what begins and commits them too.
    pub statements: usize,
}

/// Orders that the product is asked for to learn what it sends; also the last serial of them.
pub const PROBES: u64 = 40;

/// One statement with what stands for its parameters.
struct Step {
    sql: &'static str,
    /// What the product appends.
    more: &'static str,
    params: Vec<String>,
}

/// An order of the product as texts, by name. `None`: null.
struct Constants(BTreeMap<String, Option<String>>);

macro_rules! product {
    ($file:literal) => {
        include_str!(concat!("../../../src/sql/", $file))
    };
}

/// As the product's client library says it.
const BEGIN: &str = "START TRANSACTION";
const COMMIT: &str = "COMMIT";
/// Who is who in the script: the order, its checkout and its user are all named by the serial's number, as in
/// what [`OrderService`] asks.
const HEAD: &str = "\\set turn :turn + 1\n\\set serial :base + :client_id * :share + :turn\n";

// === impl Script ===

impl Script {
    /// Has the product lock and confirm some orders, and writes down what it did.
    pub async fn derive(stage: &Stage) -> Result<Script, String> {
        let superuser = stage.superuser().await?;
        let make = "CREATE EXTENSION IF NOT EXISTS pg_stat_statements; SELECT pg_stat_statements_reset()";
        superuser.batch_execute(make).await.map_err(told)?;
        let mut service = OrderService::open(stage).await?;
        for serial in 1..=PROBES {
            service.pair(serial).await?;
        }
        let calls = superuser.query(include_str!("../sql/redemptions/calls.sql"), &[]).await.map_err(told)?;
        // Counting costs, if little: off for both sides.
        let off = ["ALTER SYSTEM SET pg_stat_statements.track = 'none'", "SELECT pg_reload_conf()"];
        for statement in off {
            superuser.batch_execute(statement).await.map_err(told)?;
        }
        let rows = stage.connect().await?.query(include_str!("../sql/redemptions/order.sql"), &[&"1"]).await;
        let rows = rows.map_err(told)?;
        let [row] = &rows[..] else { return Err("an order was not written as the bench reads it".into()) };
        let constants = Constants::read(row, stage)?;
        let (lock, confirm) = (lock(&constants), confirm(&constants));
        same_statements(lock.iter().chain(&confirm), &calls)?;
        let statements = lock.len() + confirm.len() + 4;
        let mut text = HEAD.to_owned();
        for transaction in [lock, confirm] {
            text.push_str(&format!("{BEGIN};\n"));
            for step in transaction {
                text.push_str(&step.filled()?);
                text.push_str(";\n");
            }
            text.push_str(&format!("{COMMIT};\n"));
        }
        Ok(Script { text, constants: constants.variables(), statements })
    }
}

/// In the order in which the product sends them.
fn lock(of: &Constants) -> Vec<Step> {
    let (order, user) = (":serial", ":serial");
    let (template, serial) = ("ARRAY[:template]", "ARRAY[:serial]");
    vec![
        Step::new(product!("redemption/user_lock.sql"), [user]),
        Step::new(product!("redemption/find.sql"), [order]),
        Step::new(product!("redemption/checkouts.sql"), [user, order, ":window"]),
        Step::new(product!("redemption/candidates.sql"), [template, serial]),
        Step::new(
            product!("redemption/insert.sql"),
            [
                order,
                order,
                user,
                "decode(:sha256, 'hex')",
                ":currency",
                ":placed_order",
                ":goods_total",
                ":shipping_total",
                ":discount_total",
                ":payable",
                ":lock_seconds",
            ],
        ),
        Step::new(product!("redemption/take.sql"), [template, serial, user]),
        Step::new(product!("redemption/insert_coupons.sql"), {
            let lists = ["epoch", "gift", "kind", "issuer", "issuer_id", "discount", "gift_value", "shares"];
            let lists = lists.into_iter().chain(["valid_from", "expires"]).map(|name| list(&[&of.name(name)]));
            [order, user, template, serial].map(str::to_owned).into_iter().chain(lists)
        }),
        operation(of, "lock", "free", "locked"),
        counters(&[("locked", "1")]),
        record(of, "lock_action", "NULL", "lock_after"),
    ]
}

fn confirm(of: &Constants) -> Vec<Step> {
    let order = ":serial";
    let (template, serial) = ("ARRAY[:template]", "ARRAY[:serial]");
    let entries = of.entries();
    let each = |name: &str| list(&(1..=entries).map(|at| of.name(&format!("{name}_{at}"))).collect::<Vec<_>>());
    let all = |name: &str| list(&vec![of.name(name); entries]);
    vec![
        Step::new(product!("redemption/find.sql"), [order]).and(" FOR UPDATE"),
        Step::new(product!("redemption/coupons_lock.sql"), ["ARRAY[:serial]::text[]"]),
        Step::new(product!("redemption/confirm.sql"), [order]),
        Step::new(
            product!("redemption/move_coupons.sql"),
            [template, serial, &list(&[":locked"]), &list(&[":used"]), &list(&["NULL"])],
        ),
        Step::new(product!("redemption/move_held.sql"), [order, "ARRAY['locked', 'released']", "'used'"]),
        operation(of, "confirm", "locked", "used"),
        Step::new(
            product!("ledger/settle.sql"),
            [
                order,
                "NULL",
                ":currency",
                &all("template"),
                &list(&vec![":serial"; entries]),
                &all("issuer"),
                &all("issuer_id"),
                &each("beneficiary"),
                &each("beneficiary_id"),
                &each("subject"),
                &each("subject_id"),
                &each("amount"),
            ],
        ),
        Step::new(product!("ledger/events.sql"), ["ARRAY[:event]", template, serial, serial, "ARRAY[:event_data]"]),
        counters(&[
            ("locked", "-1"),
            ("used", "1"),
            ("orders", "1"),
            ("discount_total", ":discount"),
            ("revenue", ":payable"),
        ]),
        record(of, "confirm_action", ":confirm_before", "confirm_after"),
    ]
}

fn operation(of: &Constants, operation: &str, from: &str, to: &str) -> Step {
    let one = |name: &str| list(&[of.name(name)]);
    Step::new(
        product!("ledger/operations.sql"),
        [
            list(&[":template"]),
            list(&[":serial"]),
            one(operation),
            one(from),
            one(to),
            list(&[":serial"]),
            one("gift"),
            of.name("cause"),
            ":serial".to_owned(),
            of.name("actor"),
        ],
    )
}

/// The columns' names in the order of the statement's parameters; those that nothing is added to get zero.
fn counters(deltas: &[(&str, &str)]) -> Step {
    let columns = [
        "locked",
        "used",
        "restored",
        "expired",
        "revoked",
        "gifted",
        "orders",
        "discount_total",
        "discount_reversed",
        "gift_total",
        "gift_reversed",
        "revenue",
        "revenue_refunded",
    ];
    let delta = |column: &&str| deltas.iter().find(|(name, _)| name == column).map_or("0", |(_, delta)| *delta);
    let added = columns.iter().map(|column| list(&[delta(column)]));
    Step::new(product!("ledger/counters.sql"), [list(&[":template"]), list(&["NULL"])].into_iter().chain(added))
}

fn record(of: &Constants, action: &str, before: &str, after: &str) -> Step {
    let subject = "('redemption:' || :serial)";
    let (actor, ip, request, action, after) =
        (of.name("actor"), of.name("ip"), of.name("request_id"), of.name(action), of.name(after));
    Step::new(product!("audit/record.sql"), [actor.as_str(), &ip, &request, &action, subject, before, &after])
}

/// An array; its type is in the statement.
fn list<S: AsRef<str>>(elements: &[S]) -> String {
    format!("ARRAY[{}]", elements.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", "))
}

/// Demands that the product called what the script has, as often, and nothing else.
fn same_statements<'a>(steps: impl Iterator<Item = &'a Step>, calls: &[Row]) -> Result<(), String> {
    let mut expected: HashMap<&str, i64> = [(BEGIN, 2), (COMMIT, 2)].into();
    for step in steps {
        *expected.entry(step.first_line()).or_default() += 1;
    }
    let called: HashMap<&str, i64> = calls.iter().map(|row| (row.get(0), row.get(1))).collect();
    let probes = PROBES as i64;
    for (line, times) in &expected {
        let often = called.get(line).copied().unwrap_or(0);
        // Others commit, too.
        if often < times * probes || (often > times * probes && ![BEGIN, COMMIT].contains(line)) {
            let detail = "bring script.rs into step with the product";
            return Err(format!("the script has {times} of \"{line}\", and {probes} orders sent {often}: {detail}"));
        }
    }
    // Workers look at theirs now and then, and not so many times an order.
    let of_orders = |often: i64| often > 0 && often % probes == 0;
    let more = called.iter().find(|(line, often)| of_orders(**often) && !expected.contains_key(*line));
    match more {
        Some((line, _)) => Err(format!("the product sends \"{line}\", which the script does not have")),
        None => Ok(()),
    }
}

// === impl Step ===

impl Step {
    fn new(sql: &'static str, params: impl IntoIterator<Item = impl AsRef<str>>) -> Step {
        Step { sql, more: "", params: params.into_iter().map(|param| param.as_ref().to_owned()).collect() }
    }

    fn and(mut self, more: &'static str) -> Step {
        self.more = more;
        self
    }

    /// What names the statement to its reader.
    fn first_line(&self) -> &'static str {
        self.sql.lines().next().unwrap_or_default()
    }

    /// The text with everything in its place, on one line.
    fn filled(&self) -> Result<String, String> {
        let lines = self.sql.lines().map(str::trim).filter(|line| !line.starts_with("--"));
        let text = lines.collect::<Vec<_>>().join(" ") + self.more;
        let mut used = vec![false; self.params.len()];
        let mut pieces = text.split('$');
        let mut filled = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let digits = piece.len() - piece.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let number: usize = piece[..digits].parse().map_err(|_| format!("no parameter in: {piece}"))?;
            let wrong = || format!("{} parameters do not fit: {}", self.params.len(), self.first_line());
            filled.push_str(self.params.get(number.wrapping_sub(1)).ok_or_else(wrong)?);
            filled.push_str(&piece[digits..]);
            used[number - 1] = true;
        }
        match used.iter().all(|used| *used) {
            true => Ok(filled),
            false => Err(format!("{} parameters are too many: {}", self.params.len(), self.first_line())),
        }
    }
}

// === impl Constants ===

impl Constants {
    fn read(row: &Row, stage: &Stage) -> Result<Constants, String> {
        let mut all = BTreeMap::new();
        for (at, column) in row.columns().iter().enumerate() {
            let name = column.name();
            match name {
                "beneficiaries" | "beneficiary_ids" | "subjects" | "subject_ids" | "amounts" => {
                    let one = match name {
                        "beneficiaries" => "beneficiary",
                        _ => &name[..name.len() - 1],
                    };
                    let values: Vec<String> = row.try_get(at).map_err(told)?;
                    for (number, value) in values.into_iter().enumerate() {
                        all.insert(format!("{one}_{}", number + 1), Some(value));
                    }
                }
                _ => {
                    all.insert(name.to_owned(), row.try_get(at).map_err(told)?);
                }
            }
        }
        all.insert("template".into(), Some(stage.template.to_string()));
        all.insert("window".into(), Some(stage.checkouts_window_s.to_string()));
        Ok(Constants(all))
    }

    /// As the script says it. pgbench has no empty variables.
    fn name(&self, name: &str) -> String {
        match self.0.get(name) {
            Some(Some(value)) if value.is_empty() => "''".to_owned(),
            Some(Some(_)) => format!(":{name}"),
            _ => "NULL".to_owned(),
        }
    }

    fn variables(&self) -> Vec<(String, String)> {
        let full = self.0.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
        full.filter(|(_, value)| !value.is_empty()).collect()
    }

    fn entries(&self) -> usize {
        (1..).take_while(|at| self.0.contains_key(&format!("amount_{at}"))).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_stand_where_their_numbers_stood() {
        let step = |params: &[&str]| Step::new("-- $9 is no parameter\nA $1::int4[],\n    $2 $1", params);
        assert_eq!(step(&["ARRAY[:a]", ":b"]).and(" C").filled().unwrap(), "A ARRAY[:a]::int4[], :b ARRAY[:a] C");
        assert!(step(&[":a"]).filled().is_err());
        assert!(step(&[":a", ":b", ":c"]).filled().is_err());
        let twelve: Vec<String> = (1..=12).map(|number| format!(":p{number}")).collect();
        let many = Step::new("$1 $2 $3 $4 $5 $6 $7 $8 $9 $10 $11 $12", twelve);
        assert_eq!(many.filled().unwrap(), ":p1 :p2 :p3 :p4 :p5 :p6 :p7 :p8 :p9 :p10 :p11 :p12");
    }
}
