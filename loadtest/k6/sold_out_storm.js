// The storm after the sale: all but the first few come too late, half of them with a claim key, which
// is looked up before it is refused. Holds when exactly STOCK claims were granted.

import http from 'k6/http';
import { claim, constant, count, fresh, onSale, settings, summaryTrendStats, thresholds } from './lib/floodgate.js';

settings.stock = settings.stock || 10;

export const options = {
  scenarios: { sold_out_storm: constant() },
  thresholds: thresholds({ granted: `count==${settings.stock}`, sold_out: 'count>0' }),
  summaryTrendStats,
};

export function setup() {
  return onSale();
}

export default function ({ templates }) {
  const user = fresh();
  const key = user % 2 === 0 ? `key-${user}` : undefined;
  count(http.request(...claim(templates[0], user, key)), ['granted', 'sold_out']);
}
