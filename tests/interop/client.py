"""Receives so many ticks with Python's `websockets`, by the rule of the README, and says what it saw.

Usage: client.py URL TICKS deflate|plain
"""

import asyncio
import json
import sys

from websockets.asyncio.client import connect

STREAM = "TICKS"


class Seen:
    """Positions of topics, and counts."""

    def __init__(self):
        self.head = None
        self.positions = {}
        self.counts = {"ticks": 0, "snapshots": 0, "holes": 0, "declared": 0}

    def raise_to(self, topic, position):
        self.positions[topic] = max(self.positions.get(topic, self.head), position)

    def take(self, message):
        kind = message["t"]
        if kind == "ack":
            self.head = message["ok"][0]["pos"][STREAM]
        elif kind == "snap":
            self.counts["snapshots"] += 1
            self.raise_to(message["c"], message["s"])
        elif kind == "d":
            position = self.positions.get(message["c"], self.head)
            if message["s"] > position:
                self.counts["ticks" if message["p"] <= position else "holes"] += 1
                self.raise_to(message["c"], message["s"])
        elif kind in ("skip", "gap", "reset", "err"):
            self.counts["declared"] += 1


async def main(url, ticks, deflate):
    seen = Seen()
    compression = "deflate" if deflate else None
    async with connect(url, subprotocols=["tickwire.v1.json"], compression=compression) as socket:
        topics = ["trade.sim.*", "quote.sim.*"]
        op = {"op": "subscribe", "id": 1, "topics": topics, "conflate": "none"}
        await socket.send(json.dumps([op]))
        async for text in socket:
            for message in json.loads(text):
                seen.take(message)
            if seen.counts["ticks"] >= ticks:
                break
        extensions = [extension.name for extension in socket.protocol.extensions]
    print(json.dumps({**seen.counts, "extensions": ", ".join(extensions), "closed": socket.close_code}))


asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "deflate"))
