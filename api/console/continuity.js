// The client's rule: what to take, what to drop, and how to prove that nothing was missed. A port of
// `schemas::continuity`, which explains it.

/** Whether a pattern covers a topic: `*` is one token, a last `>` one or more. */
export function covers(pattern, topic) {
  const wanted = pattern.split('.');
  const tokens = topic.split('.');
  for (let at = 0; at < wanted.length; at += 1) {
    if (at >= tokens.length) return false;
    if (wanted[at] === '>') return true;
    if (wanted[at] !== '*' && wanted[at] !== tokens[at]) return false;
  }
  return wanted.length === tokens.length;
}

// The most topics of patterns whose own positions are sent with a resumption: a message to a server
// is bounded, and without them the same comes once more and is dropped.
const MAX_POSITIONS = 1000;

const isPattern = (text) => text.includes('*') || text.includes('>');

/** The sequence of a cursor, `seq.tag`. */
const seqOf = (cursor) => Number(cursor.split('.')[0]);

export class Continuity {
  #asked = new Map();
  #leaving = new Set();
  #offered = [];
  #counts = { delivered: 0, duplicates: 0, holes: 0, gaps: 0, skips: 0, resets: 0 };
  #patterns = [];
  #streams = [];
  #topics = new Map();

  counts() {
    return { ...this.#counts };
  }

  /** Whether nothing is missing at the moment. */
  isGood() {
    return [...this.#topics.values()].every((topic) => !topic.repairing);
  }

  /** Where a topic stands. */
  position(topic) {
    return this.#topics.get(topic)?.pos;
  }

  /** Says that a subscription is sent under this id, going on at these positions. */
  subscribing(id, from) {
    this.#asked.set(id, from);
  }

  /** Says that topics and patterns are unsubscribed under this id. */
  unsubscribing(id) {
    this.#leaving.add(id);
  }

  /** Says that these topics, or all, are subscribed again from `resume()`. */
  resubscribed(topics = undefined) {
    for (const [text, topic] of this.#topics) {
      if (topics === undefined || topics.includes(text)) topic.repairing = true;
    }
  }

  /** Says that the connection is gone, and that these topics and patterns are subscribed again. */
  reconnecting(wanted) {
    this.#asked.clear();
    this.#leaving.clear();
    const held = [...this.#topics.keys(), ...this.#patterns.map((pattern) => pattern.pattern)];
    this.#left(held.filter((text) => !wanted.includes(text)));
    // What was kept for what is not wanted any more, is not needed any more.
    this.#welcome(this.#offered);
    this.resubscribed();
  }

  /**
   * The `from` of a subscription that goes on here: of these topics, or of all. Where patterns cover
   * very many topics, they go on together from where all of them are.
   */
  resume(topics = undefined) {
    const from = {};
    this.#streams.forEach((stream, index) => {
      const s = {};
      const own = [...this.#topics].filter(([, topic]) => topic.stream === index);
      const tooMany = own.filter(([, topic]) => !topic.named).length > MAX_POSITIONS;
      for (const [text, topic] of own) {
        if (topics === undefined ? topic.named || !tooMany : topics.includes(text)) s[text] = topic.pos;
      }
      const c = topics === undefined ? stream.cursor : undefined;
      // Topics of a pattern that have sent nothing yet go on where it began.
      for (const held of topics === undefined ? this.#patterns : []) {
        if (held.stream === stream.name && (c === undefined || seqOf(c) < held.start)) s[held.pattern] = held.start;
      }
      const any = Object.keys(s).length > 0;
      if (c !== undefined || any) from[stream.name] = { e: stream.epoch, ...(c !== undefined && { c }), ...(any && { s }) };
    });
    return from;
  }

  /** Takes a server message: 'deliver', 'drop', 'hole', 'declared', 'void' or 'other'. */
  take(message) {
    switch (message.t) {
      case 'welcome':
        this.#welcome(message.streams);
        return 'other';
      case 'ack': {
        if (this.#leaving.delete(message.id)) {
          this.#left(message.ok.map((left) => left.c));
          return 'other';
        }
        const asked = this.#asked.get(message.id) ?? {};
        this.#asked.delete(message.id);
        for (const accepted of message.ok) this.#acknowledged(accepted.c, accepted.pos ?? {}, asked);
        // What is refused is not held: nobody waits for it, and no promise is held back.
        this.#left((message.err ?? []).map((refused) => refused.c));
        return 'other';
      }
      case 'snap':
        return this.#snapshot(message.c, message.s, message.x ?? 0);
      case 'd':
        return this.#tick(message.c, message.s, message.p, message.x ?? 0);
      case 'skip':
        for (const [topic, to] of message.i) {
          this.#counts.skips += 1;
          this.#raise(topic, to, message.x ?? 0);
        }
        return 'declared';
      case 'gap':
        this.#counts.gaps += 1;
        this.#raise(message.c, message.to, message.x ?? 0);
        return 'declared';
      case 'reset':
        this.#reset(message);
        return 'void';
      case 'hb':
        for (const [name, cursor] of Object.entries(message.cur)) this.#advance(name, cursor);
        return 'other';
      case 'end':
        this.#topics.delete(message.c);
        return 'other';
      default:
        return 'other';
    }
  }

  #welcome(streams) {
    this.#offered = streams;
    const standsIn = (name) => {
      const index = this.#streams.findIndex((stream) => stream.name === name);
      return index >= 0 && (this.#patterns.some((held) => held.stream === name) || [...this.#topics.values()].some((topic) => topic.stream === index));
    };
    // A position of another epoch is answered with a reset; until then the old one is kept, so that
    // the resumption names it.
    const known = (info) => this.#streams.find((stream) => stream.name === info.name && (stream.epoch === info.e || standsIn(info.name)));
    const renumbered = streams.map((info) => known(info) ?? { name: info.name, epoch: info.e, cursor: undefined });
    // So with a stream that is not there any more: what was its, another one may carry.
    const isGone = (stream) => !streams.some((info) => info.name === stream.name) && standsIn(stream.name);
    renumbered.push(...this.#streams.filter(isGone));
    for (const topic of this.#topics.values()) {
      const name = this.#streams[topic.stream]?.name;
      topic.stream = renumbered.findIndex((stream) => stream.name === name);
    }
    this.#streams = renumbered;
  }

  #acknowledged(text, heads, asked) {
    const pattern = isPattern(text);
    for (const [topic, held] of this.#topics) {
      if (pattern ? covers(text, topic) : topic === text) held.repairing = false;
    }
    this.#moved(text, heads);
    for (const [name, head] of Object.entries(heads)) {
      const index = this.#streams.findIndex((stream) => stream.name === name);
      if (index < 0) continue;
      const from = asked[name];
      const places = [from?.s?.[text], from?.c && seqOf(from.c)].filter((place) => place !== undefined);
      // The answer says where the beginning is.
      const start = Math.max(0, ...places) || head;
      // The cursor does not speak for a subscription that begins before it.
      const stream = this.#streams[index];
      if (stream.cursor !== undefined && seqOf(stream.cursor) > start) stream.cursor = undefined;
      if (pattern) {
        const held = this.#patterns.some((other) => other.pattern === text && other.stream === name);
        if (!held) this.#patterns.push({ pattern: text, stream: name, start });
      } else {
        // Whatever a pattern still owes of it comes before its own start.
        const pos = Math.min(start, this.#covered(text, name) ?? start);
        if (!this.#topics.has(text)) this.#topics.set(text, { stream: index, pos, seen: 0, repairing: false });
        this.#topics.get(text).named = true;
      }
    }
  }

  /** Other streams than before carry what was subscribed: positions in those mean nothing here. */
  #moved(text, heads) {
    if (Object.keys(heads).length === 0) return;
    this.#patterns = this.#patterns.filter((held) => held.pattern !== text || held.stream in heads);
    for (const [topic, held] of this.#topics) {
      const byThis = isPattern(text) ? covers(text, topic) && !held.named : topic === text;
      if (byThis && !(this.#streams[held.stream]?.name in heads)) this.#topics.delete(topic);
    }
  }

  /** Where the earliest of the patterns that cover a topic begins. */
  #covered(text, name) {
    const starts = this.#patterns.filter((held) => held.stream === name && covers(held.pattern, text)).map((held) => held.start);
    return starts.length > 0 ? Math.min(...starts) : undefined;
  }

  #left(texts) {
    for (const text of texts) {
      this.#patterns = this.#patterns.filter((held) => held.pattern !== text);
      const topic = this.#topics.get(text);
      if (topic) topic.named = false;
    }
    for (const [text, topic] of this.#topics) {
      if (!topic.named && !this.#patterns.some((held) => covers(held.pattern, text))) this.#topics.delete(text);
    }
  }

  #entry(text, stream) {
    let topic = this.#topics.get(text);
    if (topic?.stream === stream) return topic;
    // It is new, or another stream carries it now.
    const pos = this.#covered(text, this.#streams[stream]?.name) ?? 0;
    topic = { named: false, repairing: false, ...topic, stream, pos, seen: 0 };
    this.#topics.set(text, topic);
    return topic;
  }

  #snapshot(text, s, stream) {
    const topic = this.#entry(text, stream);
    if (topic.repairing || s <= topic.seen) {
      this.#counts.duplicates += 1;
      return 'drop';
    }
    topic.pos = Math.max(topic.pos, s);
    topic.seen = s;
    this.#counts.delivered += 1;
    return 'deliver';
  }

  #tick(text, s, p, stream) {
    const topic = this.#entry(text, stream);
    if (topic.repairing) return 'drop';
    if (s <= topic.pos) {
      this.#counts.duplicates += 1;
      return 'drop';
    }
    if (p > topic.pos) {
      topic.repairing = true;
      this.#counts.holes += 1;
      return 'hole';
    }
    topic.pos = s;
    topic.seen = s;
    this.#counts.delivered += 1;
    return 'deliver';
  }

  #raise(text, to, stream) {
    if (isPattern(text)) {
      const name = this.#streams[stream]?.name;
      for (const held of this.#patterns) {
        if (held.pattern === text && held.stream === name) held.start = Math.max(held.start, to);
      }
      for (const [topic, held] of this.#topics) {
        if (held.stream === stream && !held.repairing && covers(text, topic)) held.pos = Math.max(held.pos, to);
      }
      return;
    }
    const topic = this.#entry(text, stream);
    if (!topic.repairing) topic.pos = Math.max(topic.pos, to);
  }

  #advance(name, cursor) {
    const index = this.#streams.findIndex((stream) => stream.name === name);
    const stream = this.#streams[index];
    // While a topic is being repaired the promise does not cover what it ignores.
    if (!stream || !this.isGood() || (stream.cursor !== undefined && seqOf(stream.cursor) > seqOf(cursor))) return;
    stream.cursor = cursor;
    const seq = seqOf(cursor);
    for (const topic of this.#topics.values()) {
      if (topic.stream === index) topic.pos = Math.max(topic.pos, seq);
    }
    for (const held of this.#patterns) {
      if (held.stream === name) held.start = Math.max(held.start, seq);
    }
  }

  /** One topic begins anew, perhaps before the cursor, which does not speak for it then. */
  #void(text, e, s) {
    const held = this.#topics.get(text)?.stream ?? -1;
    // Another stream than the one that it was known by may carry it now.
    const found = this.#streams.findIndex((stream) => stream.epoch === e && this.#covered(text, stream.name) !== undefined);
    const index = this.#streams[held]?.epoch === e || found < 0 ? held : found;
    if (index < 0) return;
    const stream = this.#streams[index];
    if (stream?.cursor !== undefined && seqOf(stream.cursor) > s) stream.cursor = undefined;
    const topic = this.#entry(text, index);
    [topic.pos, topic.seen] = [s, 0];
  }

  #reset({ st, c, e, s = 0 }) {
    this.#counts.resets += 1;
    if (c !== undefined) this.#void(c, e, s);
    const index = this.#streams.findIndex((stream) => stream.name === st);
    if (index < 0) return;
    this.#streams[index].epoch = e;
    this.#streams[index].cursor = undefined;
    for (const held of this.#patterns) if (held.stream === st) held.start = s;
    for (const held of this.#topics.values()) if (held.stream === index) [held.pos, held.seen] = [s, 0];
  }
}
