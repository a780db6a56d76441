// Reads the description's schemas: what a parameter may be, and what an answer looks like, in words.

/** How deep an answer is spelled out. */
const DEPTH = 6;

export class Schemas {
  #document;

  constructor(document) {
    this.#document = document;
  }

  /** A schema with its reference followed. */
  resolve(schema) {
    const target = schema?.$ref;
    if (!target) return schema ?? {};
    const steps = target.replace(/^#\//, '').split('/');
    const step = (inner, name) => inner?.[name.replaceAll('~1', '/').replaceAll('~0', '~')];
    return this.resolve(steps.reduce(step, this.#document));
  }

  /** The values that a parameter may have, if they can be listed. */
  choices(schema) {
    const resolved = this.resolve(schema);
    if (resolved.enum) return resolved.enum.map(String);
    if (resolved.type === 'boolean') return ['true', 'false'];
    const values = (resolved.oneOf ?? resolved.anyOf)?.map((one) => this.choices(one));
    if (values?.every((one) => one !== undefined)) return values.flat();
    return resolved.const === undefined ? undefined : [String(resolved.const)];
  }

  /** What a parameter may be, in a few words. */
  limits(schema) {
    const resolved = this.resolve(schema);
    const words = [];
    if (resolved.type === 'array') words.push(`up to ${resolved.maxItems} with commas between: ${this.limits(resolved.items)}`);
    else if (resolved.minimum !== undefined && resolved.maximum !== undefined) words.push(`${resolved.minimum} to ${resolved.maximum}`);
    else if (resolved.pattern) words.push(resolved.pattern);
    if (resolved.default !== undefined) words.push(`default ${resolved.default}`);
    return words.join('; ');
  }

  /** A schema as an outline: one line for each field. */
  outline(schema, indent = '', seen = []) {
    const name = schema?.$ref?.split('/').at(-1);
    if (name !== undefined && (seen.includes(name) || seen.length > DEPTH)) return name;
    const within = name === undefined ? seen : [...seen, name];
    const resolved = this.resolve(schema);
    const choices = this.choices(resolved);
    if (choices) return choices.map((one) => JSON.stringify(one)).join(' | ');
    for (const together of ['anyOf', 'oneOf']) {
      if (resolved[together]) {
        const parts = resolved[together].map((one) => this.outline(one, indent, within));
        return [...new Set(parts)].join(' | ');
      }
    }
    if (resolved.type === 'array') return this.#array(resolved, indent, within);
    if (resolved.properties || resolved.additionalProperties) return this.#object(resolved, indent, within);
    return [resolved.type ?? 'any'].flat().join(' | ');
  }

  #array(schema, indent, seen) {
    const parts = schema.prefixItems ?? [schema.items ?? {}];
    const more = schema.prefixItems ? '' : ', …';
    return `[${parts.map((one) => this.outline(one, indent, seen)).join(', ')}${more}]`;
  }

  #object(schema, indent, seen) {
    const inner = `${indent}  `;
    const required = schema.required ?? [];
    const lines = Object.entries(schema.properties ?? {}).map(([name, field]) => {
      const optional = required.includes(name) ? '' : '?';
      const about = this.resolve(field).description ?? field.description;
      const remark = about ? `  // ${about.replaceAll('\n', ' ')}` : '';
      return `${inner}${name}${optional}: ${this.outline(field, inner, seen)}${remark}`;
    });
    if (typeof schema.additionalProperties === 'object') {
      lines.push(`${inner}[name]: ${this.outline(schema.additionalProperties, inner, seen)}`);
    }
    const also = (schema.allOf ?? []).concat(schema.anyOf ?? []).map((one) => this.outline(one, inner, seen));
    return [`{\n${lines.join('\n')}\n${indent}}`, ...also].join(' & ');
  }
}
