// Everybody clicks twice: two requests with the same claim key at the same moment, on two connections.
// Holds when exactly STOCK claims were granted and each pair got one coupon, or none.

import http from 'k6/http';
import { claim, constant, count, fresh, onSale, settings, summaryTrendStats, thresholds, unexpected } from './lib/floodgate.js';

settings.stock = settings.stock || Math.max(1, Math.floor((settings.rate * settings.seconds) / 2));

export const options = {
  scenarios: { double_click: constant() },
  thresholds: thresholds({
    granted: `count==${settings.stock}`,
    replayed: `count==${settings.stock}`,
    sold_out: 'count>0',
  }),
  summaryTrendStats,
};

export function setup() {
  return onSale();
}

export default function ({ templates }) {
  const user = fresh();
  const click = claim(templates[0], user, `key-${user}`);
  const pair = http.batch([click, click]).map((answer) => count(answer, ['granted', 'replayed', 'sold_out']));
  const codes = pair.map(({ coupon }) => coupon && coupon.code);
  const granted = pair.filter(({ code }) => code === 'granted').length;
  if (codes[0] !== codes[1] || granted > 1) {
    unexpected.add(1);
    console.error(`user ${user} clicked twice and got ${pair.map(({ code }) => code)} with codes ${codes}`);
  }
}
