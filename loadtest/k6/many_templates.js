// Many templates in one sale: each user claims one of COUNT of them, several users at each.
// Holds when exactly STOCK claims of every template were granted.

import http from 'k6/http';
import { claim, constant, count, fresh, onSale, settings, summaryTrendStats, thresholds, watch } from './lib/floodgate.js';

const COUNT = __ENV.TEMPLATES ? __ENV.TEMPLATES.split(',').length : Number(__ENV.COUNT || 10);
settings.stock = settings.stock || Math.max(1, Math.floor((settings.rate * settings.seconds) / COUNT / 2));

const all = thresholds({ granted: `count==${settings.stock * COUNT}`, sold_out: 'count>0' });
for (let number = 0; number < COUNT; number++) {
  watch(all, { code: 'granted', number: `${number}` }, `count==${settings.stock}`);
}

export const options = { scenarios: { many_templates: constant() }, thresholds: all, summaryTrendStats };

export function setup() {
  return onSale(COUNT);
}

export default function ({ templates }) {
  const user = fresh();
  const number = user % COUNT;
  count(http.request(...claim(templates[number], user)), ['granted', 'sold_out'], { number: `${number}` });
}
