// Finds instruments while one types.

const PAUSE_MS = 150;

export class Search {
  #asked = 0;
  #feed;
  #found;
  #input;
  #onChoose;

  /** `onChoose(ticker)` is called when an instrument is chosen. */
  constructor(feed, input, found, onChoose) {
    [this.#feed, this.#input, this.#found, this.#onChoose] = [feed, input, found, onChoose];
    let typing;
    input.addEventListener('input', () => {
      clearTimeout(typing);
      typing = setTimeout(() => this.#look(), PAUSE_MS);
    });
    input.addEventListener('focus', () => this.#look());
    input.parentElement.addEventListener('focusout', ({ relatedTarget }) => {
      if (!input.parentElement.contains(relatedTarget)) this.#close();
    });
    input.parentElement.addEventListener('keydown', (event) => this.#key(event));
    found.addEventListener('click', ({ target }) => this.#choose(target.closest('button')));
  }

  async #look() {
    const asked = ++this.#asked;
    let instruments;
    try {
      instruments = await this.#feed.search(this.#input.value.trim());
    } catch {
      instruments = [];
    }
    // Answers may overtake each other.
    if (asked !== this.#asked) return;
    const items = instruments.map(({ ticker, symbol, exchange, description }) => {
      const item = document.createElement('button');
      item.type = 'button';
      item.dataset.ticker = ticker;
      for (const [name, text] of [['b', symbol], ['span', description], ['small', exchange]]) {
        const part = document.createElement(name);
        part.textContent = text;
        item.append(part);
      }
      return item;
    });
    this.#found.replaceChildren(...items);
    this.#found.hidden = items.length === 0;
  }

  #key(event) {
    const { activeElement } = document;
    if (event.key === 'Escape') this.#close();
    else if (event.key === 'Enter' && activeElement === this.#input) this.#choose(this.#found.firstElementChild);
    else if (event.key === 'ArrowDown') (activeElement === this.#input ? this.#found.firstElementChild : activeElement.nextElementSibling)?.focus();
    else if (event.key === 'ArrowUp') (activeElement.previousElementSibling ?? this.#input).focus();
    else return;
    event.preventDefault();
  }

  #choose(item) {
    if (!item) return;
    this.#input.value = '';
    this.#close();
    this.#onChoose(item.dataset.ticker);
  }

  #close() {
    this.#asked += 1;
    this.#found.hidden = true;
  }
}
