// Receives so many ticks with npm's `ws`, by the console's continuity machine, and says what it saw.
//
// Usage: client.mjs WS URL TICKS deflate|plain, where WS is the package's own module.

import { Continuity } from '../../api/console/continuity.js';

const [module, url, ticks, mode] = process.argv.slice(2);
const { WebSocket } = await import(module);

// Everything is sent compressed, however short.
const perMessageDeflate = mode === 'deflate' && { threshold: 0 };
const socket = new WebSocket(url, ['tickwire.v1.json'], { perMessageDeflate });
const continuity = new Continuity();
let snapshots = 0;

socket.on('open', () => {
  const topics = ['trade.sim.*', 'quote.sim.*'];
  continuity.subscribing(1, {});
  socket.send(JSON.stringify([{ op: 'subscribe', id: 1, topics, conflate: 'none' }]));
});
socket.on('message', (data) => {
  for (const message of JSON.parse(data)) {
    continuity.take(message);
    snapshots += message.t === 'snap';
  }
  if (continuity.counts().delivered >= Number(ticks)) socket.close(1000, 'seen enough');
});
socket.on('close', (closed) => {
  const { delivered, holes, gaps, skips, resets } = continuity.counts();
  const declared = gaps + skips + resets;
  console.log(JSON.stringify({ ticks: delivered, snapshots, holes, declared, extensions: socket.extensions, closed }));
});
