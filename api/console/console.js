// Puts the page together: settings, board, chart, tape, delivery proof.

import { Board, readable } from './board.js';
import { Chart } from './chart.js';
import { Stream } from './stream.js';

/** Instruments on the board; more are found by the filter. */
const ROWS = 60;
const PRINTS = 40;
const INTERVALS = ['1s', '1m', '5m', '15m', '1h', '1d'];
/** State values arrive at most so often: nobody reads faster. */
const CONFLATE = 100;

const element = (id) => document.getElementById(id);
const topic = (kind, { venue, symbol }, ...rest) => [kind, venue, escape(symbol), ...rest].join('.');

/** A symbol as one token of a topic. */
function escape(symbol) {
  return symbol.replace(/[.%*> ]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`);
}

async function json(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path} answered ${response.status}`);
  return response.json();
}

class Console {
  #board;
  #boardTopics = [];
  #chart;
  #chartTopics = [];
  #interval = '1s';
  #latencies = [];
  #seen = 0;
  #selected;
  #stream;

  constructor(settings) {
    this.#board = new Board(element('rows'), (instrument) => this.#select(instrument));
    this.#chart = new Chart(element('candles'), element('ohlc'));
    this.#stream = new Stream(`${settings.ws}/v1/stream`);
    this.#stream.addEventListener('tick', ({ detail }) => this.#tick(detail));
    this.#stream.addEventListener('state', ({ detail }) => this.#link(detail));
    this.#stream.addEventListener('feeds', ({ detail }) => this.#feeds(detail));
    this.#stream.addEventListener('void', () => this.#select(this.#selected));
    this.#intervals();
    let typing;
    element('filter').addEventListener('input', () => {
      clearTimeout(typing);
      typing = setTimeout(() => this.#list(), 150);
    });
    setInterval(() => this.#figures(), 1000);
    this.#list();
  }

  /** For tests and the curious: what the chart holds, the proof, and a way to cut the connection. */
  get chart() { return this.#chart; }
  get stream() { return this.#stream; }

  async #list() {
    const query = new URLSearchParams({ limit: ROWS, q: element('filter').value.trim() });
    let page;
    try {
      page = await json(`v1/instruments?${query}`);
    } catch (error) {
      element('board-note').textContent = `Instruments cannot be read: ${error.message}`;
      page = { items: [] };
    }
    const instruments = page.items.map((inst) => ({ venue: inst.v, symbol: inst.y }));
    if (instruments.length === 0 && !element('filter').value) {
      element('board-note').textContent = 'Waiting for the first instruments…';
      setTimeout(() => this.#list(), 1000);
      return;
    }
    element('board-note').textContent = page.next ? `The first ${ROWS}: filter to find others` : `${instruments.length} instruments`;
    this.#board.show(instruments);
    const topics = instruments.flatMap((instrument) => [topic('quote', instrument), topic('stat', instrument)]);
    this.#stream.unsubscribe(this.#boardTopics.filter((held) => !topics.includes(held)));
    this.#stream.subscribe(topics.filter((wanted) => !this.#boardTopics.includes(wanted)), { conflate: CONFLATE });
    this.#boardTopics = topics;
    if (this.#selected) this.#board.select(this.#selected);
    else if (instruments[0]) this.#select(instruments[0]);
  }

  #intervals() {
    for (const interval of INTERVALS) {
      const button = document.createElement('button');
      button.textContent = interval;
      button.setAttribute('aria-pressed', String(interval === this.#interval));
      button.addEventListener('click', () => {
        this.#interval = interval;
        for (const other of element('intervals').children) other.setAttribute('aria-pressed', String(other === button));
        this.#select(this.#selected);
      });
      element('intervals').append(button);
    }
  }

  /** Shows an instrument: history first, then live bars from exactly there. */
  async #select(instrument) {
    if (!instrument) return;
    this.#selected = instrument;
    this.#board.select(instrument);
    element('chart-name').textContent = `${instrument.symbol} · ${instrument.venue}`;
    element('prints').replaceChildren();
    this.#stream.unsubscribe(this.#chartTopics);
    this.#chartTopics = [];
    let position;
    try {
      position = await this.#chart.show(instrument, this.#interval);
    } catch (error) {
      element('ohlc').textContent = `History cannot be read: ${error.message}`;
      setTimeout(() => this.#selected === instrument && this.#select(instrument), 2000);
      return;
    }
    if (position === undefined) return;
    const live = ['bar', ...(this.#interval === '1s' ? [] : ['form'])].map((kind) => topic(kind, instrument, this.#interval));
    this.#chartTopics = [...live, topic('trade', instrument)];
    this.#stream.subscribe(live, { snapshot: true }, Object.keys(position).length > 0 ? position : undefined);
    this.#stream.subscribe([topic('trade', instrument)]);
  }

  #tick({ tick, snapshot }) {
    this.#seen += 1;
    // Quotes are conflated at this page's own wish: trades alone tell how fast delivery is. A page
    // that nobody sees gets its messages late, and its timers later.
    if (!document.hidden && !snapshot && tick.k === 'trade') this.#latencies.push({ at: performance.now(), ms: performance.timeOrigin + performance.now() - Number(tick.tr.slice(0, -3)) / 1000 });
    if (tick.k === 'bar' || tick.k === 'form') {
      const shown = this.#selected && tick.v === this.#selected.venue && tick.y === this.#selected.symbol && tick.iv === this.#interval;
      if (shown) this.#chart.tick(tick);
      return;
    }
    this.#board.tick(tick);
    if (tick.k === 'trade') this.#print(tick);
  }

  #print(trade) {
    if (trade.v !== this.#selected?.venue || trade.y !== this.#selected?.symbol) return;
    const row = document.createElement('li');
    row.dataset.side = trade.sd;
    const time = new Date(Number((trade.te ?? trade.tr).slice(0, -6)));
    for (const [name, text] of [['b', readable(trade.p)], ['span', readable(trade.z)], ['span', time.toTimeString().slice(0, 8)]]) {
      const cell = document.createElement(name);
      cell.textContent = text;
      row.append(cell);
    }
    const prints = element('prints');
    prints.prepend(row);
    while (prints.childElementCount > PRINTS) prints.lastElementChild.remove();
  }

  #link({ state, pause }) {
    element('link').dataset.state = state;
    element('link').lastElementChild.textContent = state === 'lost' ? 'connection lost, trying again' : state;
    if (pause !== undefined) {
      element('proof-resume').textContent = `resumed after ${(pause / 1000).toFixed(1)} s at ${new Date().toTimeString().slice(0, 8)}`;
      element('proof-resume').dataset.resumed = 'true';
    }
  }

  #feeds(feeds) {
    const items = Object.entries(feeds).map(([venue, { state }]) => {
      const item = document.createElement('li');
      item.dataset.state = state;
      item.textContent = `${venue} ${state}`;
      return item;
    });
    element('feeds').replaceChildren(...items);
  }

  #figures() {
    const now = performance.now();
    this.#latencies = this.#latencies.filter(({ at }) => now - at < 5000);
    const sorted = this.#latencies.map(({ ms }) => ms).sort((a, b) => a - b);
    const at = (share) => (sorted.length ? Math.max(0, sorted[Math.floor((sorted.length - 1) * share)]).toFixed(1) : '–');
    element('latency').textContent = at(0.5);
    element('latency-high').textContent = at(0.99);
    const proof = this.#stream.proof();
    element('proof-messages').textContent = proof.delivered.toLocaleString('en');
    element('proof-rate').textContent = this.#seen.toLocaleString('en');
    this.#seen = 0;
    element('proof-topics').textContent = proof.topics.toLocaleString('en');
    element('proof-gaps').textContent = proof.gaps;
    element('proof-holes').textContent = proof.holes;
    element('proof-skips').textContent = proof.skips.toLocaleString('en');
    const good = proof.good && proof.gaps === 0;
    element('proof-verdict').dataset.good = String(good);
    element('proof-verdict').textContent = good ? 'nothing missed' : proof.good ? 'gaps declared' : 'repairing';
  }
}

try {
  window.tickwire = new Console(await json('console.json'));
} catch (error) {
  element('link').dataset.state = 'lost';
  element('link').lastElementChild.textContent = error.message;
}
