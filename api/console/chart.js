// The candle chart: history pages over HTTP, then live bars from the position where history ends.

import { CandlestickSeries, HistogramSeries, createChart } from './vendor/lightweight-charts-5.2.1.mjs';
import { readable } from './board.js';

const PAGE = 1000;
/** Bars that are kept at least once there are so many, and how many more before the oldest go. */
const KEPT = 5000;
const SPARE = 500;
const UP = '#36c5a0';
const DOWN = '#f0616d';

/** Seconds since 1970 from a string of nanoseconds, without rounding through a float. */
const seconds = (nanos) => Number(nanos.slice(0, -9));

const candle = (bar) => ({
  time: seconds(bar.t0), open: Number(bar.o), high: Number(bar.h), low: Number(bar.l), close: Number(bar.c),
});

const volume = (bar) => ({
  time: seconds(bar.t0), value: Number(bar.vo), color: Number(bar.c) < Number(bar.o) ? `${DOWN}55` : `${UP}55`,
});

const decimals = (bar) => Math.max(...[bar.o, bar.h, bar.l, bar.c].map((digits) => (digits.split('.')[1] ?? '').length));

export class Chart {
  #bars = new Map();
  #candles;
  #chart;
  #last;
  #legend;
  #loading = false;
  /** Once bars were forgotten: the start of the oldest that was not. */
  #oldest;
  #next;
  #query;
  #stale = false;
  #view = 0;
  #volumes;

  constructor(container, legend, create = createChart) {
    this.#legend = legend;
    this.#chart = create(container, {
      autoSize: true,
      layout: { background: { color: '#10161d' }, textColor: '#8494a5', attributionLogo: true },
      grid: { vertLines: { color: '#18212b' }, horzLines: { color: '#18212b' } },
      rightPriceScale: { borderColor: '#1e2833' },
      timeScale: { borderColor: '#1e2833', timeVisible: true, secondsVisible: true, rightOffset: 4 },
      crosshair: { mode: 0 },
    });
    this.#candles = this.#chart.addSeries(CandlestickSeries, {
      upColor: UP, downColor: DOWN, wickUpColor: UP, wickDownColor: DOWN, borderVisible: false,
    });
    this.#volumes = this.#chart.addSeries(HistogramSeries, { priceScaleId: 'volume', priceFormat: { type: 'volume' }, lastValueVisible: false, priceLineVisible: false });
    this.#chart.priceScale('volume').applyOptions({ scaleMargins: { top: 0.82, bottom: 0 } });
    this.#chart.timeScale().subscribeVisibleLogicalRangeChange((range) => {
      if (range && range.from < 20) this.#older();
    });
  }

  /**
   * Shows an instrument at an interval. Resolves to the position where history ends, for the live
   * subscription to begin at; to `undefined` when another `show` came in between.
   */
  async show({ venue, symbol }, interval) {
    const view = ++this.#view;
    this.#query = new URLSearchParams({ venue, symbol, interval, order: 'desc', limit: PAGE });
    this.#bars = new Map();
    this.#last = undefined;
    this.#next = undefined;
    this.#oldest = undefined;
    this.#draw();
    const page = await this.#page(this.#query);
    if (view !== this.#view) return undefined;
    this.#keep(page);
    this.#draw();
    this.#chart.timeScale().applyOptions({ secondsVisible: interval === '1s' });
    this.#chart.timeScale().setVisibleLogicalRange({ from: this.#bars.size - 120, to: this.#bars.size + 3 });
    return page.pos ?? {};
  }

  /** Takes a closed or forming bar of the instrument and interval that are shown. */
  tick(bar) {
    const time = seconds(bar.t0);
    const held = this.#bars.get(time);
    if (held?.k === 'bar' && bar.k === 'form') return;
    if (this.#oldest !== undefined && time < this.#oldest) return;
    this.#bars.set(time, bar);
    if (this.#last === undefined || time >= this.#last) {
      this.#last = time;
      this.#update(bar);
      this.#describe(bar);
      this.#trim();
    } else if (held === undefined) {
      this.#redraw();
    } else if (!this.#stale) {
      this.#update(bar, true);
    }
  }

  /** The bars on the chart, oldest first: `[{t0, k, o, h, l, c, vo, n}, …]`. */
  bars() {
    return [...this.#bars.values()].sort((a, b) => seconds(a.t0) - seconds(b.t0));
  }

  #update(bar, historical = false) {
    this.#candles.update(candle(bar), historical);
    this.#volumes.update(volume(bar), historical);
  }

  /** Draws everything, once for all that comes until the next frame. */
  #redraw() {
    if (this.#stale) return;
    this.#stale = true;
    requestAnimationFrame(() => this.#draw());
  }

  /** Forgets the oldest bars; what lies before them is not loaded again. */
  #trim() {
    if (this.#bars.size <= KEPT + SPARE) return;
    this.#bars = new Map(this.bars().slice(-KEPT).map((bar) => [seconds(bar.t0), bar]));
    this.#oldest = this.#bars.keys().next().value;
    this.#next = undefined;
    this.#draw();
  }

  async #older() {
    if (this.#loading || !this.#next || this.#bars.size >= KEPT) return;
    this.#loading = true;
    const view = this.#view;
    try {
      const page = await this.#page(new URLSearchParams([...this.#query, ['cursor', this.#next]]));
      if (view !== this.#view) return;
      this.#keep(page);
      this.#draw();
    } finally {
      this.#loading = false;
    }
  }

  async #page(query) {
    const response = await fetch(`v1/bars?${query}`);
    if (!response.ok) throw new Error(`history answered ${response.status}`);
    return response.json();
  }

  #keep(page) {
    for (const bar of page.items) {
      const time = seconds(bar.t0);
      if (!this.#bars.has(time)) this.#bars.set(time, bar);
    }
    this.#next = page.next;
  }

  #draw() {
    this.#stale = false;
    const bars = this.bars();
    const last = bars.at(-1);
    if (last) {
      const digits = decimals(last);
      this.#candles.applyOptions({ priceFormat: { type: 'price', precision: digits, minMove: 10 ** -digits } });
      this.#last = seconds(last.t0);
    }
    this.#candles.setData(bars.map(candle));
    this.#volumes.setData(bars.map(volume));
    this.#describe(last);
  }

  #describe(bar) {
    if (!bar) {
      this.#legend.textContent = 'no bars yet';
      return;
    }
    this.#legend.dataset.sign = Number(bar.c) < Number(bar.o) ? 'down' : 'up';
    const parts = [['O', bar.o], ['H', bar.h], ['L', bar.l], ['C', bar.c], ['V', bar.vo]].flatMap(([name, digits]) => {
      const value = document.createElement('b');
      value.textContent = readable(digits);
      return [`${name} `, value, '  '];
    });
    this.#legend.replaceChildren(...parts);
  }
}
