// Candles and volumes on the screen. Knows bars and pixels, not where bars come from.

import { CandlestickSeries, HistogramSeries, createChart } from '../vendor/lightweight-charts-5.2.1.mjs';

const UP = '#36c5a0';
const DOWN = '#f0616d';
/** Bars that are seen at first. */
const SEEN = 120;
/** Free space behind the newest bar, in bars. */
const FREE = 4;

const volume = (bar) => ({ time: bar.time, value: bar.volume, color: `${bar.close < bar.open ? DOWN : UP}55` });

export class Candles {
  #candles;
  #chart;
  #volumes;

  /** `onMove({from, to})` is called with the places of the bars that are seen whenever they change. */
  constructor(container, onMove, create = createChart) {
    this.#chart = create(container, {
      autoSize: true,
      layout: { background: { color: '#10161d' }, textColor: '#8494a5', attributionLogo: true },
      grid: { vertLines: { color: '#18212b' }, horzLines: { color: '#18212b' } },
      rightPriceScale: { borderColor: '#1e2833' },
      timeScale: { borderColor: '#1e2833', timeVisible: true, secondsVisible: true, rightOffset: FREE },
      crosshair: { mode: 0 },
    });
    this.#candles = this.#chart.addSeries(CandlestickSeries, { upColor: UP, downColor: DOWN, wickUpColor: UP, wickDownColor: DOWN, borderVisible: false });
    this.#volumes = this.#chart.addSeries(HistogramSeries, { priceScaleId: 'volume', priceFormat: { type: 'volume' }, lastValueVisible: false, priceLineVisible: false });
    this.#chart.priceScale('volume').applyOptions({ scaleMargins: { top: 0.82, bottom: 0 } });
    this.#chart.timeScale().subscribeVisibleLogicalRangeChange((range) => range && onMove(range));
  }

  /** Prepares for another instrument or resolution. */
  dress({ minmov, pricescale }, resolution) {
    this.#candles.applyOptions({ priceFormat: { type: 'price', precision: Math.round(Math.log10(pricescale)), minMove: minmov / pricescale } });
    const within = /^\d+S?$/.test(resolution);
    this.#chart.timeScale().applyOptions({ timeVisible: within, secondsVisible: resolution.endsWith('S') });
  }

  /** Draws these bars; what was seen before is seen `shift` places further on. */
  draw(bars, shift = 0) {
    const seen = this.seen();
    this.#candles.setData(bars);
    this.#volumes.setData(bars.map(volume));
    if (seen && shift !== 0) this.see({ from: seen.from + shift, to: seen.to + shift });
  }

  /** Draws one bar: the last one, or one before it. */
  update(bar, historical) {
    this.#candles.update(bar, historical);
    this.#volumes.update(volume(bar), historical);
  }

  /** Shows the newest of `count` bars. */
  present(count) {
    this.see({ from: count - SEEN, to: count + FREE - 1 });
  }

  /** The places that are seen: of bars where they are within the drawn ones. */
  seen() {
    return this.#chart.timeScale().getVisibleLogicalRange();
  }

  see(range) {
    this.#chart.timeScale().setVisibleLogicalRange(range);
  }
}
