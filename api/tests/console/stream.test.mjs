// How the console's client speaks over connections that come late, break and come back.
// node --test api/tests/console/

import assert from 'node:assert/strict';
import { afterEach, beforeEach, mock, test } from 'node:test';

import { Stream } from '../../console/stream.js';

/** The server's side of each connection, in the order in which they were opened. */
let sockets;

class Socket {
  static OPEN = 1;
  readyState = 0;
  sent = [];

  constructor() {
    sockets.push(this);
  }

  send(text) {
    assert.equal(this.readyState, Socket.OPEN, 'sent before the socket was open');
    this.sent.push(...JSON.parse(text));
  }

  close() {
    this.readyState = 3;
    this.onclose?.();
  }

  open() {
    this.readyState = Socket.OPEN;
    this.onopen?.();
  }

  says(...messages) {
    this.onmessage({ data: JSON.stringify(messages) });
  }

  welcomes() {
    this.says({ t: 'welcome', conn: '1', node: 'n', streams: [{ name: 'T', e: '5-0' }], limits: {}, hb: 15 });
  }

  /** Acknowledges everything asked so far, with this head. */
  acks(head) {
    for (const { id, topics } of this.sent.splice(0)) this.says({ t: 'ack', id, ok: topics.map((c) => ({ c, pos: { T: head } })) });
  }
}

const position = (seq) => ({ T: { e: '5-0', c: `${seq}.00000000` } });

/** Loses the newest connection, and opens the next. */
function reconnect() {
  sockets.at(-1).close();
  mock.timers.tick(20_000);
  sockets.at(-1).open();
  return sockets.at(-1);
}

beforeEach(() => {
  sockets = [];
  globalThis.WebSocket = Socket;
  mock.timers.enable({ apis: ['setTimeout'] });
});

afterEach(() => mock.timers.reset());

test('a position given before the socket is open is asked from, once', () => {
  const stream = new Stream('ws://x');
  stream.subscribe(['bar.x.A.1s'], { snapshot: true }, position(70));
  sockets[0].open();
  stream.subscribe(['trade.x.A'], {}, position(80));
  assert.deepEqual(sockets[0].sent, [], 'nothing is said before the server has said welcome');
  sockets[0].welcomes();
  const asked = sockets[0].sent.map(({ op, topics, from }) => [op, topics, from]);
  assert.deepEqual(asked, [['subscribe', ['bar.x.A.1s'], position(70)], ['subscribe', ['trade.x.A'], position(80)]]);
});

test('a position is asked from again until it was acknowledged, then the own one', () => {
  const stream = new Stream('ws://x');
  sockets[0].open();
  sockets[0].welcomes();
  stream.subscribe(['bar.x.A.1s'], {}, position(70));
  const second = reconnect();
  second.welcomes();
  assert.deepEqual(second.sent.map(({ from }) => from), [position(70)]);
  second.acks(90);
  second.says({ t: 'd', c: 'bar.x.A.1s', s: 75, p: 60, d: {} });
  const third = reconnect();
  third.welcomes();
  assert.deepEqual(third.sent.map(({ from }) => from), [{ T: { e: '5-0', s: { 'bar.x.A.1s': 75 } } }]);
});

test('what is chosen without a connection is all that the next one is asked for', () => {
  const stream = new Stream('ws://x');
  sockets[0].open();
  sockets[0].welcomes();
  stream.subscribe(['bar.x.A.1s', 'quote.x.A']);
  sockets[0].acks(50);
  sockets[0].says({ t: 'hb', cur: { T: '60.00000000' }, feeds: {} });
  sockets[0].close();
  stream.unsubscribe(['bar.x.A.1s']);
  stream.subscribe(['bar.x.B.1s'], {}, position(40));
  const second = reconnect();
  second.welcomes();
  const asked = Object.fromEntries(second.sent.map(({ topics, from }) => [topics, from]));
  assert.deepEqual(asked, { 'quote.x.A': { T: { e: '5-0', c: '60.00000000', s: { 'quote.x.A': 60 } } }, 'bar.x.B.1s': position(40) });
  second.acks(90);
  assert.equal(stream.proof().good, true, 'nothing is repaired that nobody wants');
  const ticks = [];
  stream.addEventListener('tick', ({ detail }) => ticks.push(detail.seq));
  second.says({ t: 'd', c: 'bar.x.B.1s', s: 45, p: 30, d: {} });
  assert.deepEqual(ticks, [45]);
});

test('what is left and chosen again begins at the new position, whether or not the server heard of it', () => {
  const stream = new Stream('ws://x');
  sockets[0].open();
  sockets[0].welcomes();
  stream.subscribe(['bar.x.A.1s']);
  sockets[0].acks(100);
  // Read from the database, which is behind what was delivered.
  stream.unsubscribe(['bar.x.A.1s']);
  stream.subscribe(['bar.x.A.1s'], {}, position(50));
  const second = reconnect();
  second.welcomes();
  assert.deepEqual(second.sent.map(({ from }) => from), [position(50)]);
  second.acks(100);
  const ticks = [];
  stream.addEventListener('tick', ({ detail }) => ticks.push(detail.seq));
  second.says({ t: 'd', c: 'bar.x.A.1s', s: 55, p: 50, d: {} });
  assert.deepEqual(ticks, [55]);
});
