// That a page left open for days holds and does no more than one just opened.
// node --test api/tests/console/

import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';

import { Board } from '../../console/board.js';
import { Chart } from '../../console/chart.js';

/** As much of an element as the board uses; animations end when a test says so. */
class Element {
  attributes = new Map();
  children = [];
  classes = new Set();
  dataset = {};
  listeners = [];
  classList = {
    add: (name) => this.classes.add(name),
    remove: (...names) => names.forEach((name) => this.classes.delete(name)),
    contains: (name) => this.classes.has(name),
  };

  addEventListener(name, call) {
    this.listeners.push({ name, call });
  }

  getAnimations() {
    return [];
  }

  insertCell() {
    this.children.push(new Element());
    return this.children.at(-1);
  }

  replaceChildren(...children) {
    this.children = children;
  }

  setAttribute(name, value) {
    this.attributes.set(name, value);
  }

  /** An event of this element, as far as it bubbles. */
  fires(name, ...ancestors) {
    for (const element of [this, ...ancestors]) {
      for (const listener of element.listeners) if (listener.name === name) listener.call({ target: this });
    }
  }
}

let calm;
let frames;

beforeEach(() => {
  calm = false;
  frames = [];
  globalThis.document = { hidden: false, createElement: () => new Element() };
  globalThis.matchMedia = () => ({ get matches() { return calm; } });
  globalThis.requestAnimationFrame = (call) => frames.push(call);
});

function board() {
  const body = new Element();
  const shown = new Board(body, () => {});
  shown.show([{ venue: 'x', symbol: 'A' }]);
  const bid = body.children[0].children[1];
  let price = 0;
  const quote = (step) => shown.tick({ k: 'quote', v: 'x', y: 'A', b: String((price += step)), a: '9' });
  quote(100);
  return { body, bid, quote };
}

test('a cell flashes, and no listener is added for it', () => {
  const { body, bid, quote } = board();
  for (const [step, name] of [[1, 'rise'], [-1, 'fall'], [-1, 'fall'], [1, 'rise']]) {
    quote(step);
    assert.deepEqual([...bid.classes], [name]);
  }
  assert.equal(bid.listeners.length, 0);
  bid.fires('animationend', body);
  assert.equal(bid.classes.size, 0);
});

test('nothing flashes where nobody sees it or wants it', () => {
  const { bid, quote } = board();
  calm = true;
  quote(1);
  assert.equal(bid.classes.size, 0);
  calm = false;
  globalThis.document.hidden = true;
  quote(1);
  assert.equal(bid.classes.size, 0);
  assert.equal(bid.textContent, '102', 'the value is there all the same');
});

/** A series that refuses what the real one refuses, and counts what it is asked for. */
class Series {
  whole = 0;
  times = new Set();
  applyOptions() {}

  setData(points) {
    this.whole += 1;
    this.times = new Set(points.map(({ time }) => time));
  }

  update({ time }, historical = false) {
    const last = Math.max(...[...this.times].slice(-1));
    assert.ok(historical ? this.times.has(time) : time >= last, `${time} cannot be updated`);
    this.times.add(time);
  }
}

function chart() {
  const series = [];
  const scale = { applyOptions() {}, setVisibleLogicalRange() {}, subscribeVisibleLogicalRangeChange(call) { scale.moved = call; } };
  const create = () => ({
    addSeries: () => series[series.push(new Series()) - 1],
    priceScale: () => scale,
    timeScale: () => scale,
  });
  return { shown: new Chart(new Element(), new Element(), create), series, scale };
}

const bar = (time, k = 'bar') => ({ k, v: 'x', y: 'A', iv: '1s', t0: `${time}000000000`, o: '1', h: '1', l: '1', c: '1', vo: '1' });

test('the chart keeps the newest bars', () => {
  const { shown, series: [candles] } = chart();
  for (let time = 1; time <= 20_000; time += 1) shown.tick(bar(time));
  const held = shown.bars();
  assert.ok(held.length >= 5_000 && held.length <= 5_500, `${held.length} bars are held`);
  assert.equal(held.at(-1).t0, '20000000000000');
  assert.ok(candles.whole < 100, `${candles.whole} times everything was drawn`);
  assert.equal(candles.times.size, held.length);
  shown.tick(bar(1));
  assert.equal(shown.bars().length, held.length, 'what is older than everything kept is not kept');
});

test('late bars are drawn one by one, or all at once', () => {
  const { shown, series: [candles, volumes] } = chart();
  for (let time = 1; time <= 100; time += 2) shown.tick(bar(time));
  const before = candles.whole;
  for (const time of [51, 53, 51]) shown.tick(bar(time));
  assert.equal(candles.whole, before, 'a correction redraws its bar');
  for (const time of [50, 52, 50]) shown.tick(bar(time));
  shown.tick(bar(101));
  assert.equal(frames.length, 1, 'bars in between wait for the next frame');
  frames.pop()();
  assert.deepEqual([candles.whole, volumes.whole], [before + 1, before + 1]);
  assert.ok([50, 52, 101].every((time) => candles.times.has(time) && volumes.times.has(time)));
  shown.tick(bar(54));
  assert.equal(frames.length, 1, 'and so do later ones');
});

test('history is loaded backwards until the chart is full', async () => {
  const asked = [];
  globalThis.fetch = async (path) => {
    const first = 100_000 - asked.push(path) * 1_000;
    const items = Array.from({ length: 1_000 }, (_, at) => bar(first + 999 - at));
    return { ok: true, json: async () => ({ items, next: 'more', pos: {} }) };
  };
  const { shown, scale } = chart();
  await shown.show({ venue: 'x', symbol: 'A' }, '1s');
  for (let move = 0; move < 20; move += 1) {
    scale.moved({ from: 0 });
    await new Promise(setImmediate);
  }
  assert.deepEqual([asked.length, shown.bars().length], [5, 5_000]);
});
