// The quote board: one row per instrument, cells flash when they move. Knows ticks, not sockets.

const UP = 1;
const DOWN = -1;

/** Digits grouped for reading, every digit that the venue sent kept. */
export function readable(digits) {
  if (digits === undefined) return '–';
  const [, sign, whole, rest] = /^(-?)(\d+)(.*)$/.exec(digits) ?? [null, '', digits, ''];
  return sign + whole.replace(/\B(?=(\d{3})+$)/g, ',') + rest;
}

export class Board {
  #rows = new Map();
  #body;
  #calm = matchMedia('(prefers-reduced-motion: reduce)');
  #onSelect;
  #selected;

  /** `onSelect({venue, symbol})` is called when a row is chosen. */
  constructor(body, onSelect) {
    this.#body = body;
    this.#onSelect = onSelect;
    body.addEventListener('click', (event) => this.#choose(event.target.closest('tr')));
    body.addEventListener('animationend', ({ target }) => target.classList.remove('rise', 'fall'));
    body.addEventListener('keydown', (event) => {
      const row = event.target.closest('tr');
      if (event.key === 'Enter' || event.key === ' ') this.#choose(row);
      else if (event.key === 'ArrowDown') row?.nextElementSibling?.focus();
      else if (event.key === 'ArrowUp') row?.previousElementSibling?.focus();
      else return;
      event.preventDefault();
    });
  }

  /** Shows these instruments, in this order; values of rows that stay are kept. */
  show(instruments) {
    const kept = this.#rows;
    this.#rows = new Map();
    for (const instrument of instruments) {
      const key = `${instrument.venue} ${instrument.symbol}`;
      this.#rows.set(key, kept.get(key) ?? this.#row(instrument));
    }
    this.#body.replaceChildren(...[...this.#rows.values()].map((row) => row.element));
  }

  /** Marks a row as the one that the chart shows. */
  select({ venue, symbol }) {
    this.#selected?.element.setAttribute('aria-selected', 'false');
    this.#selected = this.#rows.get(`${venue} ${symbol}`);
    this.#selected?.element.setAttribute('aria-selected', 'true');
  }

  /** Takes a quote, trade or stat tick; ticks of instruments not shown are ignored. */
  tick(tick) {
    const row = this.#rows.get(`${tick.v} ${tick.y}`);
    if (!row) return;
    if (tick.k === 'quote') {
      this.#set(row, 'bid', tick.b);
      this.#set(row, 'ask', tick.a);
    } else if (tick.k === 'trade') {
      this.#set(row, 'last', tick.p);
    } else if (tick.k === 'stat') {
      if (tick.c !== undefined) this.#set(row, 'last', tick.c);
      if (tick.cp !== undefined) this.#change(row, Number(tick.cp));
    }
  }

  #row(instrument) {
    const element = document.createElement('tr');
    element.tabIndex = 0;
    element.setAttribute('aria-selected', 'false');
    element.dataset.venue = instrument.venue;
    element.dataset.symbol = instrument.symbol;
    const cells = {};
    for (const name of ['name', 'bid', 'ask', 'last', 'change']) {
      cells[name] = element.insertCell();
      cells[name].className = name;
      cells[name].textContent = '–';
    }
    cells.name.textContent = instrument.symbol;
    cells.name.title = `${instrument.venue} ${instrument.symbol}`;
    return { element, cells, values: {} };
  }

  #set(row, name, digits) {
    const before = row.values[name];
    if (before === digits) return;
    row.values[name] = digits;
    const cell = row.cells[name];
    cell.textContent = readable(digits);
    if (before === undefined || digits === undefined) return;
    this.#flash(cell, Number(digits) > Number(before) ? UP : DOWN);
  }

  #change(row, percent) {
    row.cells.change.textContent = `${percent > 0 ? '+' : ''}${percent.toFixed(2)} %`;
    row.cells.change.dataset.sign = percent > 0 ? 'up' : percent < 0 ? 'down' : '';
  }

  #flash(cell, direction) {
    // Where nothing is animated no end of it would come either.
    if (this.#calm.matches || document.hidden) return;
    const name = direction === UP ? 'rise' : 'fall';
    if (cell.classList.contains(name)) {
      for (const animation of cell.getAnimations()) animation.currentTime = 0;
      return;
    }
    cell.classList.remove('rise', 'fall');
    cell.classList.add(name);
  }

  #choose(row) {
    if (row) this.#onSelect({ venue: row.dataset.venue, symbol: row.dataset.symbol });
  }
}
