// A client of /udf, TradingView's Universal Data Feed: symbols, search, and history by pages. What a
// page promises is checked here, so that whoever draws it need not wonder.

/** The end of time as the feed counts it, in seconds: no bar lies behind. */
export const EVER = 9_223_372_036;
/** The most bars of one answer: of more, the latest come. */
export const MOST = 10_000;

export class Datafeed {
  #base;

  constructor(base = 'udf') {
    this.#base = base;
  }

  /** What the server offers. */
  config() {
    return this.#ask('config');
  }

  /** Instruments whose names match, best first: `[{ticker, symbol, exchange, description, type}, …]`. */
  search(query, limit = 30) {
    return this.#ask('search', { query, type: '', exchange: '', limit });
  }

  /** What must be known of an instrument to draw it. */
  resolve(symbol) {
    return this.#ask('symbols', { symbol });
  }

  /** The last `count` bars that start before `to`. */
  before(symbol, resolution, to, count) {
    return this.#history({ symbol, resolution, from: -EVER, to, countback: count }, -EVER, to);
  }

  /** Every bar that starts in [from, to), of more than `MOST` the latest. */
  between(symbol, resolution, from, to) {
    return this.#history({ symbol, resolution, from, to }, from, to);
  }

  async #history(query, from, to) {
    const answer = await this.#ask('history', query);
    const { t = [], forming = false, live, pos, nextTime } = answer;
    const bars = t.map((time, at) => ({ time, open: answer.o[at], high: answer.h[at], low: answer.l[at], close: answer.c[at], volume: answer.v[at] }));
    const wrong = bars.find(({ time }, at) => time < from || time >= to || (at > 0 && time <= bars[at - 1].time));
    if (wrong) throw new Error(`history holds a bar at ${wrong.time} that is out of its range or order`);
    if (forming) bars.at(-1).forming = true;
    return { bars, live, pos, nextTime };
  }

  async #ask(path, query = {}) {
    const response = await fetch(`${this.#base}/${path}?${new URLSearchParams(query)}`);
    const answer = await response.json();
    if (answer.s === 'error') throw new Error(answer.errmsg);
    if (!response.ok) throw new Error(answer.detail ?? `${path} answered ${response.status}`);
    return answer;
  }
}
