// The page of the API: every resource of /openapi.json, with a form that asks it.

import { Schemas } from './schema.js';

/** As much of an answer is shown. */
const SHOWN = 100_000;

const by = (id) => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== undefined));
  return made;
}

/** The form of one resource, and what it was answered. */
class Resource {
  #fields = [];
  #operation;
  #output = element('output');
  #path;
  #schemas;
  #types;

  constructor(path, operation, schemas) {
    this.#operation = operation;
    this.#path = path;
    this.#schemas = schemas;
    this.#types = Object.keys(operation.responses['200']?.content ?? {});
  }

  element() {
    const { operationId, parameters = [], summary, description } = this.#operation;
    const accept = element('select', { 'aria-label': 'Accept' }, ...this.#types.map((type) => new Option(type)));
    const send = element('div', { class: 'send' }, element('button', { type: 'submit' }, 'Send'), accept);
    const form = element('form', {}, ...parameters.map((one) => this.#parameter(one)), send);
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.#send(accept.value);
    });
    const title = element('h3', {}, element('b', {}, 'GET'), this.#path);
    return element(
      'article', { id: operationId, 'data-path': this.#path }, title, element('p', {}, summary),
      description ? element('p', { class: 'dim' }, description) : undefined, form, this.#output, this.#answers(),
    );
  }

  #parameter(parameter) {
    const { name, required, schema, description } = parameter;
    const id = `${this.#operation.operationId}.${name}`;
    const choices = this.#schemas.choices(schema);
    const resolved = this.#schemas.resolve(schema);
    const example = parameter.example ?? resolved.examples?.[0] ?? resolved.default;
    const field = choices
      ? element('select', { id, name }, new Option('', ''), ...choices.map((one) => new Option(one)))
      : element('input', { id, name, placeholder: example, autocomplete: 'off', spellcheck: 'false' });
    this.#fields.push({ parameter, field });
    const label = element('label', { for: id, 'data-required': required ? '' : undefined }, name);
    const limits = choices ? '' : this.#schemas.limits(schema);
    const about = element('div', {}, description ?? '', ' ', element('small', {}, limits));
    return element('div', { class: 'parameter' }, label, field, about);
  }

  /** The address that the form asks for. */
  #address() {
    let path = this.#path;
    const query = [];
    for (const { parameter, field } of this.#fields) {
      const value = encodeURIComponent(field.value).replaceAll('%2C', ',').replaceAll('%3A', ':');
      if (parameter.in === 'path') path = path.replace(`{${parameter.name}}`, value);
      else if (field.value !== '') query.push(`${encodeURIComponent(parameter.name)}=${value}`);
    }
    return query.length > 0 ? `${path}?${query.join('&')}` : path;
  }

  async #send(accept) {
    const address = this.#address();
    const command = `curl -H 'Accept: ${accept}' '${location.origin}${address.replaceAll("'", '%27')}'`;
    const started = performance.now();
    try {
      const response = await fetch(address, { headers: { accept }, cache: 'no-store' });
      const body = await response.arrayBuffer();
      const millis = Math.round(performance.now() - started);
      this.#show(response.ok, `${response.status} · ${body.byteLength} bytes · ${millis} ms`, command, readable(response, body));
    } catch (error) {
      this.#show(false, `no answer: ${error.message}`, command, '');
    }
  }

  #show(good, status, command, body) {
    this.#output.dataset.good = good;
    this.#output.replaceChildren(
      element('p', { class: 'status' }, status),
      element('pre', { class: 'command' }, command),
      element('pre', { class: 'body' }, body),
    );
  }

  #answers() {
    const parts = Object.entries(this.#operation.responses).flatMap(([status, { description, content = {} }]) => {
      const schema = Object.values(content)[0]?.schema;
      const outline = schema ? element('pre', {}, this.#schemas.outline(schema)) : undefined;
      return [element('p', {}, element('b', {}, status), ` ${description}`), ...(status === '200' && outline ? [outline] : [])];
    });
    return element('details', {}, element('summary', {}, 'Answers'), ...parts);
  }
}

/** A body as text: JSON indented, what is no text in hexadecimal. */
function readable(response, body) {
  const type = response.headers.get('content-type') ?? '';
  const more = body.byteLength > SHOWN ? `\n… ${body.byteLength - SHOWN} bytes more` : '';
  const shown = body.slice(0, SHOWN);
  if (/msgpack|octet-stream/.test(type)) {
    return Array.from(new Uint8Array(shown.slice(0, 512)), (byte) => byte.toString(16).padStart(2, '0')).join(' ');
  }
  const text = new TextDecoder().decode(shown);
  if (!/json$|json;/.test(type) || more) return text + more;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** Hides what a text does not occur in. */
function filter(text) {
  const wanted = text.toLowerCase();
  for (const each of document.querySelectorAll('article, nav a')) {
    each.hidden = !each.textContent.toLowerCase().includes(wanted);
  }
}

async function start() {
  const response = await fetch('/openapi.json');
  if (!response.ok) throw new Error(`/openapi.json answered ${response.status}`);
  const description = await response.json();
  const schemas = new Schemas(description);
  by('version').textContent = `${description.info.description} Version ${description.info.version}`;
  const chapters = Map.groupBy(Object.entries(description.paths), ([, { get }]) => get.tags[0]);
  for (const [chapter, paths] of chapters) {
    by('contents').append(element('h2', {}, chapter));
    by('resources').append(element('h2', {}, chapter));
    for (const [path, { get }] of paths) {
      by('contents').append(element('a', { href: `#${get.operationId}` }, path));
      by('resources').append(new Resource(path, get, schemas).element());
    }
  }
  by('filter').addEventListener('input', ({ target }) => filter(target.value));
  if (location.hash) document.querySelector(`[id="${CSS.escape(location.hash.slice(1))}"]`)?.scrollIntoView();
}

start()
  .catch((error) => by('resources').append(element('p', { class: 'status' }, `The description cannot be read: ${error.message}`)))
  .finally(() => by('resources').setAttribute('aria-busy', 'false'));
