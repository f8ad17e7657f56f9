//! Every read statement of wallet, history and support, explained on the data as they are.
//!
//! A statement fails that scans a big table, or touches more buffers than its bound. Each runs under
//! a generic and a custom plan: PostgreSQL chooses between them by itself, so both must hold.

use std::fmt::{self, Write as _};

use serde_json::Value;

use super::{Scale, WHALE, statement, statements, told};

/// One statement with parameters.
struct Case {
    /// Below `src/sql`.
    file: &'static str,
    what: &'static str,
    /// As SQL writes them; `now` and `long_ago` are times in ms.
    params: String,
    /// Buffers that it may touch, in memory or not.
    buffers_max: i64,
}

/// What one case came to.
#[derive(Debug)]
pub struct Found {
    pub file: &'static str,
    pub what: &'static str,
    pub generic: bool,
    /// How tables are reached, in order.
    pub scans: Vec<String>,
    pub rows: i64,
    pub buffers: i64,
    pub buffers_max: i64,
    pub ms: f64,
    /// As PostgreSQL prints it.
    pub plan: String,
    /// What is wrong with it.
    pub wrong: Option<String>,
}

/// Tables that grow with sales: none of them is ever scanned.
const BIG: [&str; 4] = ["user_coupons", "coupon_operations", "redemptions", "redemption_coupons"];
/// Folders whose every statement must be a case.
const WHOLE: [&str; 2] = ["wallet", "history"];

const NOW: &str = "(extract(epoch FROM now()) * 1000)::int8";

/// Explains every case, under both plans. The error: a case cannot be run, or a statement has none.
pub async fn explain(scale: &Scale) -> Result<Vec<Found>, String> {
    let client = scale.connect().await?;
    let cases = cases(scale);
    for folder in WHOLE {
        for file in std::fs::read_dir(statements().join(folder)).map_err(|error| error.to_string())? {
            let name = format!("{folder}/{}", file.map_err(|error| error.to_string())?.file_name().display());
            if !cases.iter().any(|case| case.file == name) {
                return Err(format!("src/sql/{name} is explained nowhere: give it a case in scale/plans.rs"));
            }
        }
    }
    let mut found = Vec::new();
    for case in &cases {
        for generic in [true, false] {
            let mode = if generic { "force_generic_plan" } else { "force_custom_plan" };
            let sql = statement(case.file)?;
            let prepare = format!("SET plan_cache_mode = {mode}; DEALLOCATE ALL; PREPARE s AS {sql}");
            client.batch_execute(&prepare).await.map_err(|error| format!("{}: {}", case.file, told(error)))?;
            // Once for nothing, so that what is measured has its pages in memory where they fit.
            let explain = |options: &str| format!("EXPLAIN (ANALYZE, BUFFERS{options}) EXECUTE s({})", case.params);
            let failed = |error| format!("{} {}: {}", case.file, case.what, told(error));
            // A statement that changes something changes nothing here.
            client.batch_execute("BEGIN").await.map_err(told)?;
            client.query(&explain(""), &[]).await.map_err(failed)?;
            let row = client.query_one(&explain(", FORMAT JSON"), &[]).await.map_err(failed)?;
            let json: Value = row.get(0);
            let lines = client.query(&explain(", COSTS OFF"), &[]).await.map_err(failed)?;
            client.batch_execute("ROLLBACK").await.map_err(told)?;
            let plan = lines.iter().map(|line| line.get::<_, String>(0)).collect::<Vec<_>>().join("\n");
            found.push(case.judge(&json[0], generic, plan));
        }
    }
    Ok(found)
}

/// Those that are wrong, a sentence each.
pub fn wrongs(found: &[Found]) -> Vec<String> {
    let wrong =
        |one: &Found| one.wrong.as_ref().map(|wrong| format!("{} ({}): {wrong}\n{}", one.file, one.what, one.plan));
    found.iter().filter_map(wrong).collect()
}

/// All plans, to be kept.
pub fn text(scale: &Scale, found: &[Found]) -> String {
    let mut text = format!("Plans of the read statements on {} coupons. Made by `make explain`.\n", scale.rows);
    for one in found {
        let mode = if one.generic { "generic" } else { "custom" };
        let _ = write!(text, "\n== src/sql/{}: {} ({mode} plan)\n{}\n", one.file, one.what, one.plan);
    }
    text
}

fn cases(scale: &Scale) -> Vec<Case> {
    let often = (0..600).map(|n| format!("'o-often-{n}'")).take(20).collect::<Vec<_>>().join(",");
    // Coupons that are there, in as many templates as can be.
    let list = |count: i64| {
        let of = |number: &dyn Fn(i64) -> i64| (0..count).map(|n| number(n).to_string()).collect::<Vec<_>>().join(",");
        let templates = of(&|n| n % scale.templates() + 1);
        let serials = of(&|n| n * 7 % (scale.coupons_a_template() / 2) + 1);
        (
            format!("'{{{templates}}}'"),
            format!("'{{{serials}}}'"),
            format!("'{{{}}}'", of(&|_| 1)),
            format!("'{{{}}}'", of(&|_| 0)),
        )
    };
    let (templates, serials, ones, zeros) = list(500);
    let few = list(10);
    let page = |user: &str, place: &str, status: &str, templates: &str| {
        format!("'{user}', {place}, 21, {status}, {templates}, 2000")
    };
    let start = "NULL, NULL, NULL";
    let deep = format!("{NOW} - 150 * 86400000::int8, 5, 5");
    let some = |user: i64| format!("u-{user}");
    let middle = some(scale.users() / 2);
    let mut cases = Vec::new();
    let mut add = |file, what, params: String, buffers_max| cases.push(Case { file, what, params, buffers_max });
    // A look of 2,000 touches as many pages of the table, and the index's.
    add("wallet/page.sql", "any user, first page", page(&middle, start, "NULL", "NULL"), 100);
    add("wallet/page.sql", "any user, unused", page(&middle, start, "'unused'", "NULL"), 100);
    add("wallet/page.sql", "100,000 coupons, first page", page(WHALE, start, "NULL", "NULL"), 100);
    add("wallet/page.sql", "100,000 coupons, from the middle", page(WHALE, &deep, "NULL", "NULL"), 100);
    for (what, status) in [
        ("100,000 coupons, unused", "'unused'"),
        ("100,000 coupons, locked", "'locked'"),
        ("100,000 coupons, offered", "'offered'"),
        ("100,000 coupons, used", "'used'"),
        ("100,000 coupons, expired", "'expired'"),
        ("100,000 coupons, revoked", "'revoked'"),
    ] {
        add("wallet/page.sql", what, page(WHALE, start, status, "NULL"), 2_200);
    }
    add("wallet/page.sql", "100,000 coupons, locked, from the middle", page(WHALE, &deep, "'locked'", "NULL"), 2_200);
    add("wallet/page.sql", "100,000 coupons, of another's templates", page(WHALE, start, "NULL", "'{2000000}'"), 2_200);
    add("wallet/at_hand.sql", "any user", format!("'{middle}', {NOW}, 501, 2000"), 100);
    add("wallet/at_hand.sql", "100,000 coupons", format!("'{WHALE}', {NOW}, 501, 2000"), 2_200);
    add("wallet/named.sql", "500 names", format!("'{middle}', {templates}, {serials}, {ones}, {zeros}"), 2_500);
    let named = format!("'{WHALE}', {}, {}, {}, {}", few.0, few.1, few.2, few.3);
    add("wallet/named.sql", "100,000 coupons, 10 names", named, 80);
    add("wallet/stored.sql", "10 grants", format!("{}, {}, {}", few.0, few.1, few.2), 80);
    add("wallet/stored.sql", "500 grants", format!("{templates}, {serials}, {ones}"), 3_500);
    add("grant/fate.sql", "one code", "0, 1, 77, 1".into(), 20);
    add("grant/fate.sql", "one code of no row", "0, 1, 900000, 1".into(), 20);
    add("grant/watermark.sql", "one cell", "0".into(), 5);
    add("history/operations.sql", "a coupon of 1,200 operations", "1, 1, 0, 101".into(), 120);
    add("history/operations.sql", "its last page", "1, 1, 9000000000000, 101".into(), 20);
    add("history/redemptions.sql", "20 orders", format!("ARRAY[{often}], 1, 1"), 300);
    add("redemption/find.sql", "one order", "'o-often-1'".into(), 10);
    add("redemption/find.sql", "no such order", "'o-none'".into(), 10);
    add("redemption/coupons.sql", "20 orders", format!("ARRAY[{often}]"), 400);
    add("redemption/uses.sql", "a user's uses of two templates", format!("'{WHALE}', '{{1,2}}'"), 1_000);
    add("redemption/checkouts.sql", "a user's last minute", "'u-often', 'c-1', 60".into(), 50);
    add("redemption/overdue.sql", "what is over", "1000".into(), 50);
    add("redemption/candidates.sql", "10 coupons to lock", format!("{}, {}", few.0, few.1), 120);
    add("redemption/take.sql", "100,000 coupons, 10 to lock", format!("{}, {}, '{WHALE}'", few.0, few.1), 200);
    cases
}

// === impl Case ===

impl Case {
    fn judge(&self, json: &Value, generic: bool, plan: String) -> Found {
        let root = &json["Plan"];
        let mut scans = Vec::new();
        let mut wrong = None;
        walk(root, &mut |node| {
            let kind = node["Node Type"].as_str().unwrap_or_default();
            let table = node["Relation Name"].as_str();
            if kind == "Seq Scan" && table.is_some_and(|table| BIG.contains(&table)) {
                wrong = Some(format!("it scans {}", table.unwrap_or_default()));
            }
            if let Some(name) = node["Index Name"].as_str().or(table).filter(|_| kind.contains("Scan")) {
                scans.push(format!("{} {name}", kind.to_lowercase()));
            }
        });
        scans.dedup();
        let buffers =
            ["Shared Hit Blocks", "Shared Read Blocks"].map(|name| root[name].as_i64().unwrap_or(0)).iter().sum();
        if wrong.is_none() && buffers > self.buffers_max {
            wrong = Some(format!("it touches {buffers} buffers, and may touch {}", self.buffers_max));
        }
        Found {
            file: self.file,
            what: self.what,
            generic,
            scans,
            rows: root["Actual Rows"].as_i64().unwrap_or(0),
            buffers,
            buffers_max: self.buffers_max,
            ms: json["Execution Time"].to_string().parse().unwrap_or(0.0),
            plan,
            wrong,
        }
    }
}

fn walk(node: &Value, see: &mut impl FnMut(&Value)) {
    see(node);
    for child in node["Plans"].as_array().into_iter().flatten() {
        walk(child, see);
    }
}

// === impl Found ===

/// One line of a table.
impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = if self.generic { "generic" } else { "custom" };
        write!(
            f,
            "| {} | {} | {mode} | {} | {} | {} of {} | {:.2} |{}",
            self.file,
            self.what,
            self.scans.join(", "),
            self.rows,
            self.buffers,
            self.buffers_max,
            self.ms,
            if self.wrong.is_some() { " WRONG" } else { "" }
        )
    }
}
