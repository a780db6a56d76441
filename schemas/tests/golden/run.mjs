// Runs the golden traces against a port of the continuity rule; the number of steps that held.
// Throws at the first one that does not. Used in a browser by the end-to-end tests, and by hand:
// node schemas/tests/golden/run.mjs

const same = (a, b) => JSON.stringify(sorted(a)) === JSON.stringify(sorted(b));

function sorted(value) {
  if (value === null || typeof value !== 'object' || Array.isArray(value)) return value;
  return Object.fromEntries(Object.keys(value).sort().map((key) => [key, sorted(value[key])]));
}

export function runTraces(Continuity, traces) {
  let held = 0;
  for (const { name, steps } of traces) {
    const continuity = new Continuity();
    for (const step of steps) {
      const check = (found, expected) => {
        if (!same(found, expected)) throw new Error(`${name}: ${JSON.stringify(step)}: got ${JSON.stringify(found)}`);
        held += 1;
      };
      if ('take' in step) check(continuity.take(step.take), step.is);
      else if ('subscribing' in step) continuity.subscribing(...step.subscribing);
      else if ('unsubscribing' in step) continuity.unsubscribing(step.unsubscribing);
      else if ('retain' in step) continuity.retain(step.retain);
      else if ('resubscribed' in step) continuity.resubscribed(step.resubscribed ?? undefined);
      else if ('resume' in step) check(continuity.resume(step.of), step.resume);
      else if ('good' in step) check(continuity.isGood(), step.good);
      else for (const [topic, position] of Object.entries(step.positions)) check(continuity.position(topic), position);
    }
  }
  return held;
}

if (typeof process !== 'undefined' && process.argv?.[1]?.endsWith('run.mjs')) {
  const { readFileSync } = await import('node:fs');
  const { Continuity } = await import('../../../api/console/continuity.js');
  const traces = JSON.parse(readFileSync(new URL('continuity.json', import.meta.url), 'utf8'));
  process.stdout.write(`${runTraces(Continuity, traces)} steps held\n`);
}
