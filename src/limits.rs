//! Every bound that is not a setting: its name, its unit and the arithmetic behind it.

/// Claims in one batch: the script passes 2 arguments a claim to one call, and Lua's `unpack`
/// takes 7,999.
pub const BATCH_CLAIMS_MAX: usize = 1_000;

/// Claims in one call of the batch endpoint.
pub const BATCH_ENDPOINT_CLAIMS_MAX: usize = 1_000;

/// Rows in one transaction of the flusher: about 100 bytes a row, 10 MB of COPY.
pub const FLUSH_ROWS_MAX: usize = 100_000;

/// Entries that one call of the read script returns: bounded by rows too, but an entry may hold one.
pub const FLUSH_ENTRIES_MAX: usize = 2_000;

/// Templates whose validity the flusher remembers: about 100 bytes each.
pub const TERMS_TEMPLATES_MAX: usize = 10_000;

/// On a stop, the flusher goes on for at most this long to store what is still on the queue.
pub const FLUSH_STOP_MS: u64 = 10_000;

/// Time between two attempts to become the flusher of a cell.
pub const FLUSHER_LOCK_PAUSE_MS: u64 = 500;

/// A flusher that cannot go on for this long lets another process try: the fault may be its own
/// network's.
pub const FLUSHER_YIELD_MS: u64 = 5_000;
const _: () = assert!(2 * FLUSHER_LOCK_PAUSE_MS < FLUSHER_YIELD_MS);

/// The longest pause between two attempts to open a cell that failed after its epoch was raised:
/// 65,535 epochs last 45 days at that pace.
pub const OPEN_PAUSE_MAX_MS: u64 = 60_000;
const _: () = assert!(OPEN_PAUSE_MS < OPEN_PAUSE_MAX_MS);

/// How long a refusal waits for the coupons that it shows, at the levels `replica` and `postgres`.
pub const SHOWN_WAIT_MS: u64 = 1_000;

/// Claims of ack level `postgres` that wait for their row in one process: about 100 bytes each.
pub const ACK_WAITERS_MAX: usize = 65_536;

/// Time between two looks at the watermark while somebody waits for it.
pub const ACK_POLL_MS: u64 = 3;

/// Replicas that a claim may have to wait for.
pub const REPLICAS_MAX: u32 = 16;

/// Claims of ack level `replica` that wait for replicas in one process: about 50 bytes each.
pub const CONFIRM_WAITERS_MAX: usize = 65_536;

/// Pause after replicas were asked for in vain, while those who wait ask again.
pub const CONFIRM_PAUSE_MS: u64 = 20;

/// Acknowledged grants that a process remembers until they are rows: about 100 bytes each, 25 MB; and the time
/// between two looks whether they are, or are lost.
pub const RING_GRANTS_MAX: usize = 262_144;
pub const RING_LOOK_MS: u64 = 200;

/// Lost claims that one statement writes down.
pub const LOST_ROWS_MAX: usize = 1_000;

/// Rows or receipts that one step of a comparison of Redis with PostgreSQL reads, ranges of serials without rows
/// that it keeps of a template, and grants that one call gives back.
pub const RECONCILE_PAGE_ROWS: usize = 2_000;
pub const RECONCILE_GAPS_MAX: usize = 1_000;
pub const MEND_ROWS_MAX: usize = 500;
const _: () = assert!(RECONCILE_PAGE_ROWS < 7_999 && 5 * MEND_ROWS_MAX < 7_999);

/// Marks of templates that one call of the trim script may clear: Lua's `unpack` takes 7,999.
pub const TRIM_MARKS_MAX: usize = 4_000;

/// Rows that are given back in one transaction of Redis: 0.5 MB of arguments, for which it takes some 5 ms.
pub const REAPPLY_ROWS_MAX: usize = 8_000;

/// Serials whose rows are read at once, while those of two reads before wait and are given back: 3 MB each.
pub const REAPPLY_READ_SERIALS: u64 = 3 * REAPPLY_ROWS_MAX as u64;

/// Users of one template that a recovery remembers to have given something back: 16 bytes each. Of more it asks Redis.
pub const REAPPLY_USERS_MAX: usize = 1 << 23;

/// Grants that a quota can count: each costs 4 bytes in the key's field.
pub const QUOTA_LIMIT_MAX: u32 = 1_000;

/// The longest quota window: a stamp within a window's period has 32 bits of milliseconds.
pub const QUOTA_WINDOW_S_MAX: u32 = 7 * 86_400;

/// Keys in one throttle table: 16 bytes each, 1 GiB.
pub const THROTTLE_KEYS_MAX: usize = 1 << 26;

/// Bytes of a claim's body. It is empty or `{}`.
pub const CLAIM_BODY_BYTES_MAX: usize = 4 * 1024;

/// Bytes of an administrative request's body.
pub const ADMIN_BODY_BYTES_MAX: usize = 256 * 1024;

/// Bytes of the batch endpoint's body: 1,000 claims with facts of about 1 KiB each.
pub const BATCH_BODY_BYTES_MAX: usize = 1024 * 1024 + 64 * 1024;

/// Nesting of JSON in any body.
pub const JSON_DEPTH_MAX: usize = 32;

/// Bytes of a request's head.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Characters of an `Idempotency-Key`.
pub const CLAIM_KEY_MAX: usize = 64;

/// Characters of an `X-Device-Id`.
pub const DEVICE_ID_MAX: usize = 128;

/// Characters of an `X-Channel`.
pub const CHANNEL_MAX: usize = 32;

/// Tags that a user's facts may hold, and characters of a level or tag.
pub const FACT_TAGS_MAX: usize = 50;
pub const FACT_WORD_MAX: usize = 64;

/// Claims whose outcome is unknown and whose deadline has not passed: remembered by key.
pub const IN_DOUBT_MAX: usize = 65_536;

/// Requests of one listener that are carried out at once, claims aside; one more is answered 503. More
/// would only wait for a connection of the pools.
pub const BACKGROUND_REQUESTS_MAX: usize = 256;

/// Lanes of the batch endpoint: while Redis decides and syncs the batch of one, the answers of the other are written.
pub const BACKGROUND_LANES: usize = 2;

/// Items on one page of any list.
pub const PAGE_MAX: usize = 100;
pub const PAGE_DEFAULT: usize = 20;

/// Templates whose receipts one wallet or claim center read looks at.
pub const HOLDINGS_TEMPLATES_MAX: usize = 500;

/// Coupons of one user that one read of a wallet or a quote looks at, newest first: each may lie on a page
/// of its own, 16 MB of PostgreSQL's buffers and 5 ms where they are in memory.
pub const WALLET_LOOK_MAX: usize = 2_000;
const _: () = assert!(WALLET_LOOK_MAX > PAGE_MAX && WALLET_LOOK_MAX > QUOTE_COUPONS_MAX);

/// Time between two looks at a replica, and positions of the primary that its lag is told by: ten minutes
/// of them, after which a replica that stands still is as late as it ever needs to be.
pub const REPLICA_LOOK_MS: u64 = 500;
pub const REPLICA_POSITIONS_MAX: usize = 1_200;

/// The longest that a read waits for a connection to a replica, while it could ask the primary.
pub const REPLICA_CONNECT_MS: u64 = 1_000;

/// Sentinels that are asked for the master, all at once for every new connection.
pub const SENTINELS_MAX: usize = 16;

/// Time between two looks at who the master is, and how long the slower Sentinels are waited for once one has
/// answered.
pub const SENTINEL_LOOK_MS: u64 = 500;
pub const SENTINEL_GRACE_MS: u64 = 100;

/// Time between two attempts to open a cell.
pub const OPEN_PAUSE_MS: u64 = 1_000;

/// A sold-out latch is believed this long after Redis said so, and probed more often.
pub const LATCH_TRUST_MS: u64 = 200;
pub const LATCH_PROBE_MS: u64 = 60;
const _: () = assert!(2 * LATCH_PROBE_MS < LATCH_TRUST_MS);

/// How far the gateway's clock may be off before it refuses by a window's edge on its own.
pub const CLOCK_CARE_MS: i64 = 100;

/// Hours for which a write's answer is kept under its `Idempotency-Key`.
pub const IDEMPOTENCY_HOURS: i32 = 24;

/// Usage rules of a template, and bytes of them in all: they travel with every snapshot.
pub const USAGE_RULES_MAX: usize = 50;
pub const USAGE_RULES_BYTES_MAX: usize = 64 * 1024;

/// Levels, tags or channels that an audience may list.
pub const AUDIENCE_WORDS_MAX: usize = 100;

/// Characters of an issuer's id, a gift's id or name, a key's name.
pub const ID_MAX: usize = 64;
pub const ITEM_NAME_MAX: usize = 200;
pub const KEY_NAME_MAX: usize = 100;

/// Characters of a reason that an operator gives.
pub const REASON_MAX: usize = 500;

/// Blacklist entries in force at once: at about 150 bytes each, 30 MB in every gateway.
pub const BLACKLIST_MAX: i64 = 200_000;

/// API keys that a process remembers, known or not.
pub const API_KEYS_CACHE_MAX: usize = 4_096;

/// Templates that one round of a catalog worker brings to Redis, marks or frees.
pub const SYNC_TEMPLATES_MAX: i64 = 200;

/// Rows that one step of a clean-up deletes.
pub const SWEEP_ROWS_MAX: i64 = 1_000;

/// Coupons that one transaction of an upkeep worker looks at: it holds their locks for tens of
/// milliseconds.
pub const UPKEEP_ROWS_MAX: usize = 1_000;

/// Time between two such transactions, which leaves room for those who serve shoppers.
pub const UPKEEP_PAUSE_MS: u64 = 10;

/// A template is swept again at the earliest after this time, so that few coupons that expire one after the
/// other make one transaction; where nothing is behind its cursor, after the second.
pub const SWEEP_GATHER_S: i32 = 5;
pub const SWEEP_LOOK_S: i32 = 600;
const _: () = assert!(SWEEP_GATHER_S < SWEEP_LOOK_S);

/// The longest that one comparison of one template by the ledger's watch may take.
pub const LEDGER_LOOK_MAX_MS: u64 = 60_000;

/// Revocations that are not carried out yet: one more is refused.
pub const REVOCATIONS_OPEN_MAX: i64 = 1_000;

/// Lines of an order: a search keeps a bit for each. Their categories, and pieces of one line.
pub const ORDER_LINES_MAX: usize = 200;
pub const LINE_CATEGORIES_MAX: usize = 20;
pub const LINE_QUANTITY_MAX: u32 = 99_999;

/// Coupons that one order may be priced with.
pub const QUOTE_COUPONS_MAX: usize = 500;

/// Hints that a quote gives.
pub const QUOTE_HINTS_MAX: usize = 10;

/// Templates that one quote tries without a coupon of them.
pub const QUOTE_TRIALS_MAX: usize = 20;
const _: () = assert!(QUOTE_TRIALS_MAX < QUOTE_COUPONS_MAX);

/// Bytes of a coupon's code as a quote takes it: what is longer is none.
pub const QUOTE_CODE_MAX: usize = 64;

/// Coupons that one order may lock: each is a row that changes in the same transaction.
pub const LOCK_COUPONS_MAX: usize = 50;
const _: () = assert!(LOCK_COUPONS_MAX <= QUOTE_COUPONS_MAX);

/// The longest time that a lock may be given: a week.
pub const LOCK_SECONDS_MAX: u32 = 7 * 86_400;

/// The longest window in which a user's checkouts are counted: a day.
pub const CHECKOUTS_WINDOW_S_MAX: u32 = 86_400;

/// Characters of an order's, refund's or checkout's id.
pub const ORDER_ID_MAX: usize = ID_MAX;

/// Attempts of a lock or refund that meets another call of the same id, or coupons that are not stored yet.
pub const ORDER_ATTEMPTS_MAX: usize = 3;

/// Locks whose time is over, released in one transaction.
pub const TIME_OUT_ORDERS_MAX: i64 = 50;

/// Coupons up to which a quote is computed where it was read: well below a millisecond, with no more
/// lines, and ids in the coupons' rules, than these.
pub const QUOTE_INLINE_COUPONS_MAX: usize = 4;
pub const QUOTE_INLINE_LINES_MAX: usize = 50;
pub const QUOTE_INLINE_IDS_MAX: usize = 200;

/// Quotes that wait for a processor or have one; one more is refused with 503.
pub const QUOTE_WAITERS_MAX: usize = 256;

/// How far an order's `placed_at` may be from the server's clock and still be believed.
pub const PLACED_AT_TRUST_MS: u64 = 5 * 60_000;

/// Ids that one list of a usage rule may hold.
pub const ITEM_SET_MAX: usize = 1_000;

/// Hours that a coupon may be offered before it returns to its giver.
pub const GIFT_OFFER_HOURS_MAX: u32 = 168;

/// Times that a coupon may be given away: its code has 8 bits for that.
pub const GIFT_HOPS_MAX: u8 = 255;

/// Offers of one coupon in all, accepted or not: each is a row of about 150 bytes.
pub const GIFT_OFFERS_MAX: i64 = 100;

/// Offers that one step of the worker returns to their givers.
pub const GIFT_RETURNS_MAX: i64 = 200;

/// Records that one transaction of the sealer binds into the audit chain, of late ones as many again: about a
/// kilobyte each, 4 milliseconds in all.
pub const AUDIT_SEAL_RECORDS_MAX: i64 = 500;

/// Unsealed records that the gauge counts up to.
pub const AUDIT_UNSEALED_COUNTED_MAX: i64 = 100_000;

/// Records that a verification of the audit log has in memory (a template's record may have 100 KiB), ids of records,
/// and findings that it tells one by one.
pub const AUDIT_VERIFY_ROWS_MAX: i64 = 200;
pub const AUDIT_VERIFY_IDS_MAX: i64 = 5_000;
pub const AUDIT_FINDINGS_MAX: usize = 1_000;

/// Records that one page of the audit log looks at, and characters of a filter.
pub const AUDIT_LOOKED_AT_MAX: i64 = 5_000;
pub const AUDIT_WORD_MAX: usize = 200;

/// Approval requests that one round sends, at once.
pub const APPROVALS_AT_ONCE_MAX: i64 = 10;
