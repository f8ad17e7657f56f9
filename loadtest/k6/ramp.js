// The same sale with a rate that rises, falls and rises again: what a push message does.
// Holds when exactly STOCK claims were granted and everybody else was told that it is sold out.

import http from 'k6/http';
import { claim, count, fresh, onSale, ramping, settings, summaryTrendStats, thresholds } from './lib/floodgate.js';

settings.stock = settings.stock || Math.max(1, Math.floor((settings.rate * settings.seconds) / 4));

export const options = {
  scenarios: { ramp: ramping() },
  thresholds: thresholds({ granted: `count==${settings.stock}`, sold_out: 'count>0' }),
  summaryTrendStats,
};

export function setup() {
  return onSale();
}

export default function ({ templates }) {
  count(http.request(...claim(templates[0], fresh())), ['granted', 'sold_out']);
}
