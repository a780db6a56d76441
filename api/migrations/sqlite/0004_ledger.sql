-- What venues did not send, or a feed did not receive, as the feeds told it; kept for ever.
CREATE TABLE gaps (
    at      INTEGER NOT NULL, -- when it was noticed
    created INTEGER NOT NULL,
    gen     INTEGER NOT NULL,
    s       INTEGER NOT NULL,
    began   INTEGER NOT NULL,
    payload BLOB    NOT NULL, -- the feed's tick
    PRIMARY KEY (at, created, gen, s)
) STRICT, WITHOUT ROWID;

-- Those that were recorded before: in MessagePack, "st": "gap".
INSERT INTO gaps (at, created, gen, s, began, payload)
SELECT at, created, gen, s, at, payload FROM events
WHERE kind = 'feed' AND instr(payload, x'a27374a3676170') > 0;

-- What the stream did not keep until it was recorded.
CREATE TABLE losses (
    stream  TEXT    NOT NULL,
    at      INTEGER NOT NULL, -- when it was noticed
    created INTEGER NOT NULL,
    gen     INTEGER NOT NULL,
    s       INTEGER NOT NULL, -- the first of them
    until   INTEGER NOT NULL, -- the last of them
    began   INTEGER NOT NULL, -- when the broker stored what was recorded before
    why     TEXT    NOT NULL,
    PRIMARY KEY (stream, at, created, gen, s)
) STRICT, WITHOUT ROWID;
