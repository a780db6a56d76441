// A client of the WebSocket protocol that resumes by itself and can prove that it missed nothing.

import { Continuity } from './continuity.js';

const FIRST_PAUSE = 250;
const LONGEST_PAUSE = 10_000;
/** Without any message for so long the connection is taken for dead: heartbeats come more often. */
const SILENCE = 25_000;

export class Stream extends EventTarget {
  #backoff = FIRST_PAUSE;
  #continuity = new Continuity();
  #dropped;
  #id = 0;
  #socket;
  /** The socket that the server has welcomed: nothing is said on any other. */
  #welcomed;
  #url;
  /** By topic or pattern: `options`, and until the ack of request `id` the position `from`; then it is `held`. */
  #wanted = new Map();
  #watchdog;

  /** Connects to `url`; events: `tick` {topic, tick, seq, snapshot}, `state`, `feeds`, `gap` {topic}, `void`. */
  constructor(url) {
    super();
    this.#url = url;
    this.#connect();
  }

  /** What is known about delivery, for people. */
  proof() {
    return { ...this.#continuity.counts(), good: this.#continuity.isGood(), topics: this.#wanted.size };
  }

  /** Subscribes, from a position (`{stream: {e, c}}`) if one is given. */
  subscribe(topics, options = {}, from = undefined) {
    for (const topic of topics) this.#wanted.set(topic, { options, from, held: false });
    this.#ask('subscribe', topics, options, from);
  }

  unsubscribe(topics) {
    const held = topics.filter((topic) => this.#wanted.delete(topic));
    if (held.length > 0) this.#ask('unsubscribe', held);
  }

  /** Cuts the connection, as a network would. */
  cut() {
    this.#socket?.close();
  }

  #connect() {
    this.#state(this.#dropped === undefined ? 'connecting' : 'resuming');
    const socket = new WebSocket(this.#url, 'tickwire.v1.json');
    this.#socket = socket;
    socket.onmessage = (event) => {
      this.#watch();
      for (const message of JSON.parse(event.data)) this.#take(message);
    };
    socket.onclose = () => this.#lost(socket);
    this.#watch();
  }

  #watch() {
    clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(() => this.#lost(this.#socket), SILENCE);
  }

  #lost(socket) {
    if (socket !== this.#socket) return;
    this.#socket = undefined;
    this.#welcomed = undefined;
    socket.onmessage = null;
    socket.close();
    clearTimeout(this.#watchdog);
    this.#dropped ??= performance.now();
    this.#state('lost');
    const pause = Math.random() * this.#backoff;
    this.#backoff = Math.min(this.#backoff * 2, LONGEST_PAUSE);
    setTimeout(() => this.#connect(), pause);
  }

  #take(message) {
    const verdict = this.#continuity.take(message);
    switch (message.t) {
      case 'welcome':
        this.#welcomed = this.#socket;
        this.#resume();
        break;
      case 'ack':
        this.#acknowledged(message);
        break;
      case 'd':
      case 'snap':
        if (verdict === 'deliver') {
          const detail = { topic: message.c, tick: message.d, seq: message.s, snapshot: message.t === 'snap' };
          this.dispatchEvent(new CustomEvent('tick', { detail }));
        } else if (verdict === 'hole') {
          this.#repair(message.c);
        }
        break;
      case 'hb':
        this.dispatchEvent(new CustomEvent('feeds', { detail: message.feeds }));
        break;
      case 'gap':
        this.dispatchEvent(new CustomEvent('gap', { detail: { topic: message.c } }));
        break;
      case 'reset':
        this.dispatchEvent(new CustomEvent('void'));
        break;
      case 'err':
        console.warn('the server refused a request:', message.code, message.message);
        break;
      default:
        break;
    }
  }

  /** From now on the continuity machine knows where these stand. */
  #acknowledged({ id, ok }) {
    for (const { c } of ok) {
      const want = this.#wanted.get(c);
      if (want?.id === id) [want.held, want.from] = [true, undefined];
    }
  }

  /** Subscribes to everything again: what was held from where it was left, the rest from where it was to begin. */
  #resume() {
    const held = [...this.#wanted.keys()].filter((topic) => this.#wanted.get(topic).held);
    this.#continuity.reconnecting(held);
    const resumption = this.#continuity.resume();
    const groups = new Map();
    for (const [topic, want] of this.#wanted) {
      const key = JSON.stringify([want.options, want.held, want.from]);
      if (!groups.has(key)) groups.set(key, { ...want, topics: [] });
      groups.get(key).topics.push(topic);
    }
    for (const { topics, options, held: before, from } of groups.values()) {
      this.#ask('subscribe', topics, options, before ? resumption : from);
    }
    const pause = this.#dropped === undefined ? undefined : performance.now() - this.#dropped;
    this.#dropped = undefined;
    this.#backoff = FIRST_PAUSE;
    this.#state('live', pause);
  }

  #repair(topic) {
    const options = this.#wanted.get(topic) ?? {};
    this.#ask('subscribe', [topic], options, this.#continuity.resume([topic]));
  }

  #ask(op, topics, options = {}, from = undefined) {
    // What is asked for without a connection is asked for when there is one.
    if (this.#welcomed?.readyState !== WebSocket.OPEN || topics.length === 0) return;
    const id = ++this.#id;
    if (op === 'subscribe') {
      this.#continuity.subscribing(id, from ?? {});
      for (const topic of topics) if (this.#wanted.has(topic)) this.#wanted.get(topic).id = id;
    } else this.#continuity.unsubscribing(id);
    this.#socket.send(JSON.stringify([{ op, id, topics, ...options, ...(from && { from }) }]));
  }

  #state(state, pause = undefined) {
    this.dispatchEvent(new CustomEvent('state', { detail: { state, pause } }));
  }
}
