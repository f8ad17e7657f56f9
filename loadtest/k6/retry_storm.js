// Clients that ask again and again with the same claim key, as after a time-out, until well after the
// stock is gone. Holds when exactly STOCK claims were granted and every further answer to a key
// says the same as its first.

import http from 'k6/http';
import { claim, constant, count, fresh, onSale, settings, summaryTrendStats, thresholds, unexpected } from './lib/floodgate.js';

const RETRIES = Number(__ENV.RETRIES || 3);
settings.stock = settings.stock || Math.max(1, Math.floor((settings.rate * settings.seconds) / 2));

export const options = {
  scenarios: { retry_storm: constant() },
  thresholds: thresholds({
    granted: `count==${settings.stock}`,
    replayed: `count==${settings.stock * RETRIES}`,
    sold_out: 'count>0',
  }),
  summaryTrendStats,
};

export function setup() {
  return onSale();
}

export default function ({ templates }) {
  const user = fresh();
  const ask = claim(templates[0], user, `key-${user}`);
  const first = count(http.request(...ask), ['granted', 'sold_out']);
  for (let retry = 0; retry < RETRIES; retry++) {
    const again = count(http.request(...ask), first.coupon ? ['replayed'] : ['sold_out']);
    if (first.coupon && (!again.coupon || again.coupon.code !== first.coupon.code)) {
      unexpected.add(1);
      console.error(`user ${user} was given ${first.coupon.code} first, and then another answer`);
    }
  }
}
