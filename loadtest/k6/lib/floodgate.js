// What every k6 script of Floodgate stands on: who claims, what is on sale, and how answers are counted.
//
// Settings come from -e NAME=value; README.md beside this folder lists them. A script decides nothing
// by time: its thresholds are counts, unless LATENCY is set, which is for machines of one's own.

import http from 'k6/http';
import crypto from 'k6/crypto';
import encoding from 'k6/encoding';
import exec from 'k6/execution';
import { SharedArray } from 'k6/data';
import { Counter } from 'k6/metrics';
import { fail, sleep } from 'k6';

export const settings = {
  url: __ENV.URL || 'http://127.0.0.1:8080',
  internal: __ENV.INTERNAL_URL || 'http://127.0.0.1:8081',
  rate: number('RATE', 500),
  seconds: number('SECONDS', 10),
  vus: number('VUS', 100),
  stock: number('STOCK', 0),
  latency: !!__ENV.LATENCY,
  // Requests that nobody waits for in the browser: the longest that p99 may be, in milliseconds.
  p99: number('P99_MS', 50),
};

// Secrets of a `floodgate demo`, so that nobody has to copy tokens.
const demo = __ENV.DATA ? { secret: read('jwt.secret'), admin: read('admin.key') } : {};
const secret = __ENV.JWT_SECRET || demo.secret;
const admin = __ENV.ADMIN_KEY || demo.admin;
const trusted = !!__ENV.TRUSTED_HEADER;
const tokens = __ENV.TOKENS ? new SharedArray('tokens', () => open(path(__ENV.TOKENS)).trim().split('\n')) : null;
// A run's users are new ones, so that it can be repeated on the same template.
const prefix = __ENV.PREFIX || 'u-';

// Claims by what became of them (tag `code`), and answers that a scenario does not allow.
export const claims = new Counter('claims');
export const unexpected = new Counter('unexpected');

function number(name, otherwise) {
  const value = __ENV[name] === undefined ? otherwise : Number(__ENV[name]);
  if (!(value >= 0)) throw new Error(`${name}=${__ENV[name]} is no number`);
  return value;
}

function read(name) {
  return open(path(`${__ENV.DATA}/${name}`)).trim();
}

/// k6 takes relative paths from the file that opens them; people mean the folder they are in.
function path(given) {
  return given.startsWith('/') ? given : `${__ENV.PWD}/${given}`;
}

// --- Who claims ---

/// A number that no other iteration of the scenario has, from 1 on.
export function fresh() {
  return exec.scenario.iterationInTest + 1;
}

/// The headers that say who the user of that number is, without a step before the run.
export function identity(number) {
  if (tokens) {
    if (number > tokens.length) fail(`TOKENS has ${tokens.length} lines: make more, or run shorter`);
    return { Authorization: `Bearer ${tokens[number - 1]}` };
  }
  if (trusted) return { 'X-User-Id': `${prefix}${number}` };
  if (!secret) fail('say who claims: DATA=<folder of a demo>, JWT_SECRET=, TOKENS=<file> or TRUSTED_HEADER=1');
  return { Authorization: `Bearer ${sign(`${prefix}${number}`)}` };
}

const header = encoding.b64encode(JSON.stringify({ alg: 'HS256', typ: 'JWT' }), 'rawurl');

function sign(user) {
  const claims = {
    sub: user,
    iss: __ENV.JWT_ISSUER || 'floodgate',
    aud: __ENV.JWT_AUDIENCE || 'floodgate',
    exp: Math.floor(Date.now() / 1000) + 3600,
  };
  const signed = `${header}.${encoding.b64encode(JSON.stringify(claims), 'rawurl')}`;
  return `${signed}.${crypto.hmac('sha256', secret, signed, 'base64rawurl')}`;
}

// --- What is on sale ---

/// The templates to claim: TEMPLATES=1,2, or new ones of STOCK coupons each, made with the admin key.
/// Call it in setup(); what it returns is what the iterations get.
export function onSale(count = 1, limits = { per_user: 1 }) {
  for (const tags of watched) {
    // A threshold on a series without a sample is passed over: each has one from the start.
    claims.add(0, tags);
  }
  unexpected.add(0);
  if (__ENV.TEMPLATES) return { templates: __ENV.TEMPLATES.split(',').map(Number) };
  if (!admin) fail('say what is claimed: TEMPLATES=<ids>, or DATA= or ADMIN_KEY= to have a template made');
  const author = office('POST', '/api-keys', { name: 'k6', role: 'operator' }, admin).key;
  const templates = [];
  for (let n = 0; n < count; n++) {
    const id = office('POST', '/templates', definition(limits), author).id;
    office('POST', `/templates/${id}/submit`, null, author);
    office('POST', `/templates/${id}/approve`, null, admin);
    office('POST', `/templates/${id}/publish`, null, author);
    templates.push(id);
  }
  templates.forEach(waitUntilClaimable);
  return { templates };
}

function definition(limits) {
  const time = (ms) => new Date(Date.now() + ms).toISOString();
  return {
    name: `k6 ${Date.now()}`,
    kind: 'cash_voucher',
    value: { amount: '5.00' },
    stock: { total: settings.stock },
    limits,
    claim_window: { starts_at: time(-60000), ends_at: time(86400000) },
    validity: { type: 'relative', days: 7 },
    quotas: false,
  };
}

function office(method, path, body, key) {
  const headers = {
    Authorization: `Bearer ${key}`,
    'Content-Type': 'application/json',
    'Idempotency-Key': `k6-${Date.now()}-${Math.random()}`,
  };
  const answer = http.request(method, `${settings.internal}/v1/admin${path}`, body && JSON.stringify(body), { headers });
  if (answer.status >= 300) fail(`${method} ${path}: ${answer.status} ${answer.body}`);
  return answer.json();
}

/// A gateway knows a new template within a snapshot's period.
function waitUntilClaimable(id) {
  const params = { headers: identity(1), responseCallback: http.expectedStatuses(200, 404) };
  for (let tries = 0; tries < 200; tries++) {
    if (http.get(`${settings.url}/v1/templates/${id}`, params).json('claimable')) return;
    sleep(0.05);
  }
  fail(`template ${id} cannot be claimed 10 seconds after it was published`);
}

// --- Claims ---

/// One claim as k6 sends it: for http.request, and for http.batch as [method, url, body, params].
export function claim(template, user, key) {
  const headers = identity(user);
  if (key) headers['Idempotency-Key'] = key;
  const params = { headers, responseCallback: answered, tags: { name: 'claim' } };
  return ['POST', `${settings.url}/v1/templates/${template}/claims`, null, params];
}

// Refusals are answers, not failures.
const answered = http.expectedStatuses({ min: 200, max: 499 });

/// The word of an answer, counted; it must be one of `allowed`.
export function count(answer, allowed, tags = {}) {
  const body = answer.status > 0 ? parse(answer) : {};
  const code = body.outcome || body.code || 'no_answer';
  claims.add(1, Object.assign({ code }, tags));
  if (!allowed.includes(code)) {
    unexpected.add(1);
    console.error(`unexpected: ${answer.status} ${code} ${answer.error || ''}`);
  }
  return { code, coupon: body.coupon };
}

function parse(answer) {
  try {
    return answer.json();
  } catch (_) {
    return {};
  }
}

// --- Thresholds ---

const watched = [];

/// Claims counted under these tags must be as said, as in watch(all, { code: 'granted' }, 'count==1000').
export function watch(all, tags, expression) {
  watched.push(tags);
  const series = Object.entries(tags).map(([name, value]) => `${name}:${value}`);
  all[`claims{${series.join(',')}}`] = [expression];
}

/// As in { granted: 'count==1000' }; and nothing unexpected may come.
export function thresholds(byCode) {
  const all = { unexpected: ['count==0'] };
  for (const [code, expression] of Object.entries(byCode)) watch(all, { code }, expression);
  if (settings.latency) {
    all['http_req_duration{name:claim}'] = [`p(99)<${settings.p99}`];
    all.dropped_iterations = ['count==0'];
  }
  return all;
}

/// An open model: so many iterations a second, whether answers come or not.
export function constant() {
  return {
    executor: 'constant-arrival-rate',
    rate: settings.rate,
    timeUnit: '1s',
    duration: `${settings.seconds}s`,
    preAllocatedVUs: settings.vus,
    maxVUs: settings.vus * 4,
  };
}

/// From nothing to RATE over a fifth of the time, RATE, ten times calmer, and RATE once more.
export function ramping() {
  const part = (share) => `${Math.max(1, Math.round(settings.seconds * share))}s`;
  return {
    executor: 'ramping-arrival-rate',
    startRate: 0,
    timeUnit: '1s',
    preAllocatedVUs: settings.vus,
    maxVUs: settings.vus * 4,
    stages: [
      { target: settings.rate, duration: part(0.2) },
      { target: settings.rate, duration: part(0.3) },
      { target: Math.ceil(settings.rate / 10), duration: part(0.2) },
      { target: settings.rate, duration: part(0.1) },
      { target: settings.rate, duration: part(0.2) },
    ],
  };
}

export const summaryTrendStats = ['avg', 'med', 'p(99)', 'p(99.9)', 'max'];
