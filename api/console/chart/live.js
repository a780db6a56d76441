// Live bars behind a page of history: from exactly the position that the page covers, no bar twice and
// none missing.

/** What moves bars that are not published as such: they are read again when it does, at most so often. */
const PULSE = '1m';
const PULSE_MS = 1000;

/** Seconds since 1970 from a string of nanoseconds, without rounding through a float. */
const seconds = (nanos) => Number(nanos.slice(0, -9)) || 0;

/** A symbol as one token of a topic. */
const escape = (symbol) => symbol.replace(/[.%*> ]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`);

/** A tick as a bar of the chart. */
const barOf = (tick) => ({
  time: seconds(tick.t0), open: Number(tick.o), high: Number(tick.h), low: Number(tick.l), close: Number(tick.c), volume: Number(tick.vo),
  ...(tick.k === 'form' && { forming: true }),
});

export class Live {
  #onBar;
  #onPulse;
  #published = false;
  #stream;
  #topics = [];
  #waiting;

  /** `onBar(bar)` is called with each bar, `onPulse()` where bars must be read again instead. */
  constructor(stream, onBar, onPulse) {
    [this.#stream, this.#onBar, this.#onPulse] = [stream, onBar, onPulse];
    stream.addEventListener('tick', ({ detail }) => this.#tick(detail));
  }

  /** The topics that are followed. */
  get topics() {
    return this.#topics;
  }

  /** Follows the bars of an instrument from where a page of history ended; `published` is their interval. */
  join({ exchange, name }, published, position) {
    this.leave();
    this.#published = published !== undefined;
    const interval = published ?? PULSE;
    // One second is over before anybody could watch it form.
    const kinds = interval === '1s' ? ['bar'] : ['bar', 'form'];
    this.#topics = kinds.map((kind) => `${kind}.${exchange}.${escape(name)}.${interval}`);
    this.#stream.subscribe(this.#topics, {}, position);
  }

  leave() {
    this.#stream.unsubscribe(this.#topics);
    this.#topics = [];
    clearTimeout(this.#waiting);
    this.#waiting = undefined;
  }

  #tick({ topic, tick }) {
    if (!this.#topics.includes(topic)) return;
    if (this.#published) this.#onBar(barOf(tick));
    else this.#waiting ??= setTimeout(() => { this.#waiting = undefined; this.#onPulse(); }, PULSE_MS);
  }
}
