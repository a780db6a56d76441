// What the chart page holds while one scrolls, and how live bars join it.
// node --test api/tests/console/

import assert from 'node:assert/strict';
import { beforeEach, mock, test } from 'node:test';

import { Datafeed, EVER } from '../../console/chart/datafeed.js';
import { Held } from '../../console/chart/held.js';
import { Live } from '../../console/chart/live.js';

const bar = (time, fields = {}) => ({ time, open: 1, high: 1, low: 1, close: 1, volume: 1, ...fields });
const bars = (from, to) => Array.from({ length: to - from }, (_, at) => bar(from + at));
const times = (held) => held.bars.map(({ time }) => time);
const range = (from, to) => Array.from({ length: to - from }, (_, at) => from + at);

/** Stored bars, read as the feed does: the last of those before an end, or all of a range. */
const stored = bars(0, 1000);
const before = (to, count) => stored.filter(({ time }) => time < to).slice(-count);
const between = ([from, to]) => stored.filter(({ time }) => time >= from && time < to);

test('all of history passes through a bounded window, back and forth, without a hole', () => {
  const held = new Held(40, 4);
  held.begin(before(EVER, 10));
  const seen = new Set(times(held));
  const look = () => {
    assert.ok(held.bars.length <= 40);
    assert.deepEqual(times(held), range(held.bars[0].time, held.bars.at(-1).time + 1), 'no hole');
    times(held).forEach((time) => seen.add(time));
  };
  while (held.olderEnd > 0) {
    assert.equal(held.older(before(held.olderEnd, 10)), 10);
    look();
  }
  assert.deepEqual([seen.size, held.isNewest, held.edges], [1000, false, 97]);
  seen.clear();
  look();
  while (!held.isNewest) {
    const [from, to] = held.newerRange;
    assert.equal(held.newer(between([from, to])), 10);
    look();
  }
  assert.deepEqual(times(held), range(960, 1000));
  assert.equal(seen.size, 1000);
});

test('what came meanwhile is read on the way back to the present', () => {
  const held = new Held(10, 4);
  held.begin(bars(90, 100));
  held.older(bars(85, 90));
  assert.deepEqual(held.newerRange, [95, EVER]);
  held.newer(bars(95, 103));
  assert.deepEqual([held.isNewest, times(held)], [true, range(93, 103)]);
});

test('a closed bar is never undone by a value that it had while it formed', () => {
  const held = new Held(10, 4);
  held.begin([bar(1), bar(2, { forming: true })]);
  assert.equal(held.take(bar(2, { forming: true, close: 7 })), 'last');
  assert.equal(held.take(bar(2, { close: 8 })), 'last');
  assert.equal(held.take(bar(2, { forming: true, close: 7 })), 'ignored');
  assert.equal(held.take(bar(3, { forming: true })), 'last');
  assert.equal(held.take(bar(2, { close: 9 })), 'changed', 'a correction');
  assert.equal(held.bars[1].close, 9);
  assert.deepEqual(times(held), [1, 2, 3]);
});

test('late bars find their place, if it is held', () => {
  const held = new Held(10, 4);
  assert.equal(held.take(bar(5)), 'last', 'the first one there is');
  held.begin([bar(10), bar(20), bar(30)]);
  assert.equal(held.take(bar(25)), 'between');
  assert.equal(held.take(bar(5)), 'ignored', 'it is read when one scrolls there');
  assert.equal(held.take(bar(15, { forming: true })), 'ignored');
  assert.deepEqual(times(held), [10, 20, 25, 30]);
});

test('live bars make the oldest leave, a few at a time', () => {
  const held = new Held(10, 4);
  held.begin(bars(0, 10));
  const dropped = [];
  for (let time = 10; time < 30; time += 1) {
    held.take(bar(time));
    dropped.push(held.trim());
  }
  assert.deepEqual(dropped.filter((count) => count > 0), [5, 5, 5, 5]);
  assert.deepEqual(times(held), range(20, 30));
});

let asked;

function answers(...bodies) {
  asked = [];
  globalThis.fetch = async (path) => {
    asked.push(path);
    const [body, status = 200] = bodies.shift();
    return { ok: status < 400, status, json: async () => body };
  };
}

const columns = (t) => ({ s: 'ok', t, o: t, h: t, l: t, c: t, v: t });

test('history is asked for as the protocol has it, and checked', async () => {
  const feed = new Datafeed();
  answers([{ ...columns([7, 8]), forming: true, pos: { T: { e: '5-0', c: '9.00000000' } } }], [{ s: 'no_data', nextTime: 5 }]);
  const page = await feed.before('x:A', '1S', 10, 2);
  assert.deepEqual(page.bars.map(({ time, forming }) => [time, forming]), [[7, undefined], [8, true]]);
  assert.equal(page.pos.T.c, '9.00000000');
  assert.equal(asked[0], 'udf/history?symbol=x%3AA&resolution=1S&from=-9223372036&to=10&countback=2');
  assert.deepEqual(await feed.between('x:A', '1S', 6, 7), { bars: [], live: undefined, pos: undefined, nextTime: 5 });
  assert.equal(asked[1], 'udf/history?symbol=x%3AA&resolution=1S&from=6&to=7');
});

test('a page that breaks its promise is refused', async () => {
  const feed = new Datafeed();
  for (const times of [[10], [8, 8], [9, 8]]) {
    answers([columns(times)]);
    await assert.rejects(feed.before('x:A', '1S', 10, 2), /out of its range or order/);
  }
  answers([columns([4])]);
  await assert.rejects(feed.between('x:A', '1S', 5, 9), /out of its range/);
  answers([{ s: 'error', errmsg: 'unknown symbol: "x:A"' }]);
  await assert.rejects(feed.resolve('x:A'), /unknown symbol/);
  answers([{ detail: 'try later' }, 503]);
  await assert.rejects(feed.config(), /try later/);
});

/** As much of the socket's client as live bars use. */
class Stream extends EventTarget {
  log = [];

  subscribe(topics, options, from) {
    this.log.push(['subscribe', topics, from]);
  }

  unsubscribe(topics) {
    if (topics.length > 0) this.log.push(['unsubscribe', topics]);
  }

  says(topic, k, fields) {
    const tick = { k, t0: '60000000000', o: '1', h: '3', l: '0.5', c: '2', vo: '10', ...fields };
    this.dispatchEvent(Object.assign(new Event('tick'), { detail: { topic, tick } }));
  }
}

const position = { T: { e: '5-0', c: '9.00000000' } };
let got;
let pulses;

function live() {
  const stream = new Stream();
  [got, pulses] = [[], 0];
  return { stream, live: new Live(stream, (one) => got.push(one), () => { pulses += 1; }) };
}

beforeEach(() => mock.timers.reset());

test('live bars begin where the page ends, and those of another chart are none of this one', () => {
  const { stream, live: joined } = live();
  joined.join({ exchange: 'x', name: 'B.C' }, '5m', position);
  joined.join({ exchange: 'x', name: 'A' }, '1m', position);
  assert.deepEqual(stream.log, [
    ['subscribe', ['bar.x.B%2EC.5m', 'form.x.B%2EC.5m'], position],
    ['unsubscribe', ['bar.x.B%2EC.5m', 'form.x.B%2EC.5m']],
    ['subscribe', ['bar.x.A.1m', 'form.x.A.1m'], position],
  ]);
  stream.says('bar.x.B%2EC.5m', 'bar');
  stream.says('bar.x.A.1m', 'bar');
  stream.says('form.x.A.1m', 'form', { t0: '120000000000' });
  const plain = { open: 1, high: 3, low: 0.5, close: 2, volume: 10 };
  assert.deepEqual(got, [{ time: 60, ...plain }, { time: 120, ...plain, forming: true }]);
  joined.leave();
  stream.says('bar.x.A.1m', 'bar');
  assert.equal(got.length, 2);
});

test('bars that are not published are read again, once for many ticks', () => {
  mock.timers.enable({ apis: ['setTimeout'] });
  const { stream, live: joined } = live();
  joined.join({ exchange: 'x', name: 'A' }, undefined, position);
  for (let tick = 0; tick < 5; tick += 1) stream.says('form.x.A.1m', 'form');
  mock.timers.tick(1000);
  assert.deepEqual([pulses, got.length], [1, 0]);
  stream.says('form.x.A.1m', 'form');
  joined.leave();
  mock.timers.tick(5000);
  assert.equal(pulses, 1, 'nobody looks any more');
});
