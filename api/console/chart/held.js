// The bars that a chart holds: an unbroken part of history, bounded, which moves as one scrolls. What
// leaves it at one end comes back by the same edges, so no bar is lost between two pages.

import { EVER } from './datafeed.js';

export class Held {
  #bars = [];
  /** Edges of what was left out at the newer end, the nearest last: it lies in [last, one before it). */
  #ahead = [EVER];
  #most;
  #spare;

  /** Holds up to `most` bars, of which `spare` may go at once when live ones come. */
  constructor(most, spare) {
    this.#most = most;
    this.#spare = spare;
  }

  /** The bars, oldest first. */
  get bars() {
    return this.#bars;
  }

  /** Whether the newest bar is held, so that live ones may follow. */
  get isNewest() {
    return this.#ahead.length === 1;
  }

  /** How many numbers are kept of what is not held. */
  get edges() {
    return this.#ahead.length;
  }

  /** Begins with the newest page. */
  begin(bars) {
    this.#bars = bars;
    this.#ahead = [EVER];
  }

  /** Where the page ends that comes before all that is held. */
  get olderEnd() {
    return this.#bars[0]?.time;
  }

  /** Takes the page before; says how many bars were put in front. */
  older(bars) {
    this.#bars = [...bars, ...this.#bars];
    const surplus = this.#bars.length - this.#most;
    if (surplus > 0) {
      this.#ahead.push(this.#bars[this.#most].time);
      this.#bars.length = this.#most;
    }
    return bars.length;
  }

  /** The range of the page behind all that is held: `[from, to)`. */
  get newerRange() {
    return this.#ahead.slice(-2).reverse();
  }

  /** Takes the page behind; says how many bars went in front. */
  newer(bars) {
    this.#ahead.pop();
    this.#bars = [...this.#bars, ...bars];
    return this.#drop(Math.max(0, this.#bars.length - this.#most));
  }

  /**
   * Takes a live bar: 'last' if it is the last one now, 'changed' if it took the place of one that is
   * held, 'between' if it lies between two, 'ignored' if it is none of those held or not news.
   * A closed bar is never undone by a value of it that formed before.
   */
  take(bar) {
    const at = this.#place(bar.time);
    const held = this.#bars[at]?.time === bar.time ? this.#bars[at] : undefined;
    if (held !== undefined) {
      if (bar.forming && !held.forming) return 'ignored';
      this.#bars[at] = bar;
      return at === this.#bars.length - 1 ? 'last' : 'changed';
    }
    if (at === this.#bars.length) {
      // A bar forms behind everything that has closed, or it has closed itself since.
      this.#bars.push(bar);
      return 'last';
    }
    if (at === 0 || bar.forming) return 'ignored';
    this.#bars.splice(at, 0, bar);
    return 'between';
  }

  /** Forgets the oldest bars once live ones have become too many; says how many went. */
  trim() {
    const surplus = this.#bars.length - this.#most;
    return surplus > this.#spare ? this.#drop(surplus) : 0;
  }

  #drop(count) {
    this.#bars.splice(0, count);
    return count;
  }

  /** Where a bar of this time is or would be. */
  #place(time) {
    let [low, high] = [0, this.#bars.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#bars[middle].time < time) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
