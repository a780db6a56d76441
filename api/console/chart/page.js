// Puts the chart page together: an instrument's history by pages from /udf, live bars behind it from
// the WebSocket, and what has been proved of both.

import { Candles } from './candles.js';
import { Datafeed, EVER, MOST } from './datafeed.js';
import { Held } from './held.js';
import { Live } from './live.js';
import { Search } from './search.js';
import { Stream } from '../stream.js';

/** Bars of a page, bars that are held at most, and how many more live ones may make them. */
const PAGE = 5000;
const HELD = 20_000;
const SPARE = 500;
/** So many bars before an edge of what is held comes into view, the next page is asked for. */
const NEAR = 400;
const PAUSE_MS = 2000;
/** The resolution that is shown first, where the server has it. */
const FIRST = '1';

const element = (id) => document.getElementById(id);
const count = (number) => number.toLocaleString('en');
const pause = () => new Promise((resolve) => { setTimeout(resolve, PAUSE_MS); });
const when = (seconds) => new Date(seconds * 1000).toISOString().replace('T', ' ').slice(0, 19);

/** How people call a resolution. */
function spoken(resolution) {
  const [, number, unit] = /^(\d+)([SDWM]?)$/.exec(resolution);
  if (unit !== '') return number + { S: 's', D: 'd', W: 'w', M: 'M' }[unit];
  return number % 60 === 0 ? `${number / 60}h` : `${number}m`;
}

class ChartPage {
  #begins = false;
  #busy = false;
  #candles;
  #feed = new Datafeed();
  #held = new Held(HELD, SPARE);
  #info;
  #joining;
  #live;
  #opening = 0;
  #proof = { pages: 0, bars: 0, live: 0, joined: undefined };
  #resolution;
  #stale = false;
  #stream;
  #view = 0;

  constructor(settings, config) {
    const asked = new URLSearchParams(location.search);
    this.#candles = new Candles(element('candles'), (range) => this.#moved(range));
    this.#stream = new Stream(`${settings.ws}/v1/stream`);
    this.#live = new Live(this.#stream, (bar) => this.#take(bar), () => this.#pulse());
    this.#stream.addEventListener('state', ({ detail }) => this.#link(detail));
    this.#stream.addEventListener('void', () => this.#rejoin());
    this.#stream.addEventListener('gap', ({ detail }) => this.#live.topics.includes(detail.topic) && this.#rejoin());
    const all = config.supported_resolutions;
    this.#resolution = all.find((name) => name === asked.get('resolution')) ?? all.find((name) => name === FIRST) ?? all[0];
    this.#resolutions(all);
    element('present').addEventListener('click', () => this.#show());
    new Search(this.#feed, element('search'), element('found'), (ticker) => this.open(ticker));
    setInterval(() => this.#prove(), 500);
    this.open(asked.get('symbol') ?? '');
  }

  /** The bars that are held, oldest first: `[{time, open, high, low, close, volume, forming?}, …]`. */
  bars() { return this.#held.bars; }

  /** What is known: figures for people, and for tests. */
  proof() {
    return { ...this.#proof, ...this.#stream.proof(), held: this.#held.bars.length, edges: this.#held.edges, newest: this.#held.isNewest, begins: this.#begins, busy: this.#busy };
  }

  get stream() { return this.#stream; }

  /** Moves what is seen by so many bars; negative is back in time. */
  scroll(bars) {
    const seen = this.#candles.seen();
    if (seen) this.#candles.see({ from: seen.from + bars, to: seen.to + bars });
  }

  /** Shows an instrument, the first one there is if none is named; not if another one is chosen meanwhile. */
  async open(ticker) {
    const opening = ++this.#opening;
    let info;
    while (info === undefined) {
      try {
        info = await this.#find(ticker);
      } catch (problem) {
        if (opening !== this.#opening) return;
        this.#say(problem.message);
        await pause();
      }
      if (opening !== this.#opening) return;
    }
    this.#info = info;
    element('chart-name').textContent = `${this.#info.name} · ${this.#info.exchange}`;
    element('chart-name').title = this.#info.description;
    this.#show();
  }

  async #find(ticker) {
    if (ticker !== '') return this.#feed.resolve(ticker);
    const [first] = await this.#feed.search('', 1);
    if (first === undefined) throw new Error('Waiting for the first instruments…');
    return this.#feed.resolve(first.ticker);
  }

  #resolutions(all) {
    for (const resolution of all) {
      const button = document.createElement('button');
      button.textContent = spoken(resolution);
      button.dataset.resolution = resolution;
      button.setAttribute('aria-pressed', String(resolution === this.#resolution));
      button.addEventListener('click', () => {
        this.#resolution = resolution;
        for (const other of element('intervals').children) other.setAttribute('aria-pressed', String(other === button));
        this.#show();
      });
      element('intervals').append(button);
    }
  }

  /** Shows the newest page, and joins live bars to it. */
  async #show() {
    if (this.#info === undefined) return;
    const [view, symbol, resolution] = [++this.#view, this.#info.ticker, this.#resolution];
    history.replaceState(null, '', `?${new URLSearchParams({ symbol, resolution })}`);
    this.#live.leave();
    this.#busy = true;
    this.#proof = { pages: 0, bars: 0, live: 0, joined: undefined };
    const page = await this.#read(view, () => this.#feed.before(symbol, resolution, EVER, PAGE));
    if (page === undefined) return;
    this.#candles.dress(this.#info, resolution);
    this.#begins = page.bars.length === 0;
    this.#held.begin(page.bars);
    this.#draw();
    this.#candles.present(page.bars.length);
    this.#join(page);
    this.#busy = false;
  }

  /** After a gap or in another history: the newest page anew, a little later, and live bars from there. */
  #rejoin() {
    if (!this.#held.isNewest) return;
    this.#live.leave();
    clearTimeout(this.#joining);
    const view = this.#view;
    this.#joining = setTimeout(() => view === this.#view && this.#held.isNewest && this.#show(), PAUSE_MS);
  }

  /** Joins live bars to the newest page, if it says where; nothing is recorded yet if it does not. */
  #join({ live, pos }) {
    if (pos === undefined) {
      this.#rejoin();
      return;
    }
    this.#proof.joined = Object.values(pos)[0].c;
    this.#live.join(this.#info, live, pos);
  }

  /** Reads a page; tries again while it cannot be read, and gives up if another view came up. */
  async #read(view, ask) {
    for (;;) {
      try {
        const page = await ask();
        if (view !== this.#view) return undefined;
        this.#proof.pages += 1;
        this.#proof.bars += page.bars.length;
        return page;
      } catch (problem) {
        if (view !== this.#view) return undefined;
        this.#say(`History cannot be read: ${problem.message}`);
        await pause();
        if (view !== this.#view) return undefined;
      }
    }
  }

  #moved({ from, to }) {
    element('present').hidden = this.#held.isNewest && to > this.#held.bars.length - NEAR;
    if (this.#busy || this.#held.bars.length === 0) return;
    if (from < NEAR && !this.#begins) this.#older();
    else if (to > this.#held.bars.length - NEAR && !this.#held.isNewest) this.#newer();
  }

  async #older() {
    this.#busy = true;
    const [view, symbol, end] = [this.#view, this.#info.ticker, this.#held.olderEnd];
    const page = await this.#read(view, () => this.#feed.before(symbol, this.#resolution, end, PAGE));
    if (page === undefined) return;
    // A page may be short though more lies before it: only an empty one is the beginning.
    this.#begins = page.bars.length === 0;
    const shift = this.#held.older(page.bars);
    // Whoever looks at the past needs no live bars; they are joined again on the way back.
    if (!this.#held.isNewest) this.#live.leave();
    this.#draw(shift);
    this.#busy = false;
    this.#look();
  }

  async #newer() {
    this.#busy = true;
    const [view, symbol, [from, to]] = [this.#view, this.#info.ticker, this.#held.newerRange];
    const page = await this.#read(view, () => this.#feed.between(symbol, this.#resolution, from, to));
    if (page === undefined) return;
    if (page.bars.length >= MOST) {
      // So much came meanwhile that it may not be all: the newest page is.
      this.#show();
      return;
    }
    const dropped = this.#held.newer(page.bars);
    if (dropped > 0) this.#begins = false;
    this.#draw(-dropped);
    if (this.#held.isNewest) this.#join(page);
    this.#busy = false;
    this.#look();
  }

  /** Looks whether what is seen is near an edge still. */
  #look() {
    const seen = this.#candles.seen();
    if (seen) this.#moved(seen);
  }

  /** Takes a live bar. */
  #take(bar) {
    if (!this.#held.isNewest) return;
    this.#proof.live += 1;
    const place = this.#held.take(bar);
    if (place === 'between') this.#redraw();
    else if (place !== 'ignored' && !this.#stale) this.#candles.update(bar, place === 'changed');
    const dropped = this.#held.trim();
    if (dropped > 0) {
      this.#begins = false;
      this.#draw(-dropped);
    }
    this.#describe();
  }

  /** Reads the last two bars again, of a resolution that is not published as such. */
  async #pulse() {
    const [view, symbol] = [this.#view, this.#info.ticker];
    const page = await this.#read(view, () => this.#feed.before(symbol, this.#resolution, EVER, 2));
    for (const bar of page?.bars ?? []) this.#take(bar);
  }

  /** Draws everything, once for all that comes until the next frame. */
  #redraw() {
    if (this.#stale) return;
    this.#stale = true;
    requestAnimationFrame(() => this.#stale && this.#draw());
  }

  #draw(shift = 0) {
    this.#stale = false;
    this.#candles.draw(this.#held.bars, shift);
    this.#describe();
  }

  #describe() {
    const bar = this.#held.bars.at(-1);
    if (bar === undefined) {
      this.#say('no bars yet');
      return;
    }
    element('ohlc').dataset.sign = bar.close < bar.open ? 'down' : 'up';
    const parts = [['O', bar.open], ['H', bar.high], ['L', bar.low], ['C', bar.close], ['V', bar.volume]].flatMap(([name, value]) => {
      const digits = document.createElement('b');
      digits.textContent = value.toLocaleString('en', { maximumFractionDigits: 10 });
      return [`${name} `, digits, '  '];
    });
    element('ohlc').replaceChildren(...parts, bar.forming ? 'forming' : '');
  }

  #say(sentence) {
    delete element('ohlc').dataset.sign;
    element('ohlc').textContent = sentence;
  }

  #link({ state }) {
    element('link').dataset.state = state;
    element('link').lastElementChild.textContent = state === 'lost' ? 'connection lost, trying again' : state;
  }

  #prove() {
    const proof = this.proof();
    const [first, last] = [this.#held.bars[0], this.#held.bars.at(-1)];
    const history = first === undefined ? 'no bars' : `${count(proof.bars)} bars read in ${count(proof.pages)} ${proof.pages === 1 ? 'page' : 'pages'} without a hole, ${count(proof.held)} of them held: ${when(first.time)} to ${when(last.time)} UTC`;
    element('proof-history').textContent = proof.begins ? `${history}, the beginning included` : history;
    const joined = proof.joined === undefined ? 'live bars join the newest page' : `joined live at ${proof.joined.split('.')[0]}, ${count(proof.live)} updates since`;
    element('proof-live').textContent = proof.newest ? joined : 'looking at the past: live bars join on the way back';
    element('proof-verdict').dataset.good = String(proof.good);
    element('proof-verdict').textContent = proof.good ? 'nothing missed' : 'repairing';
  }
}

async function json(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path} answered ${response.status}`);
  return response.json();
}

try {
  const [settings, config] = await Promise.all([json('console.json'), json('udf/config')]);
  window.tickwire = new ChartPage(settings, config);
} catch (problem) {
  element('link').dataset.state = 'lost';
  element('link').lastElementChild.textContent = problem.message;
}
