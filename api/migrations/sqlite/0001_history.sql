-- Append kinds: every tick once. The payload is the tick as it came, so every digit is kept.
CREATE TABLE events (
    kind    TEXT    NOT NULL,
    venue   TEXT    NOT NULL,
    symbol  TEXT    NOT NULL,
    at      INTEGER NOT NULL, -- event time, or receive time: nanoseconds since 1970
    created INTEGER NOT NULL, -- epoch: when the stream was created
    gen     INTEGER NOT NULL, -- epoch: generation
    s       INTEGER NOT NULL, -- stream sequence
    payload BLOB    NOT NULL,
    PRIMARY KEY (kind, venue, symbol, at, created, gen, s)
) STRICT, WITHOUT ROWID;

CREATE INDEX events_by_position ON events (kind, venue, symbol, created, gen, s);

-- Keyed kinds: the latest message of a key, by epoch and sequence.
CREATE TABLE bars (
    venue   TEXT    NOT NULL,
    symbol  TEXT    NOT NULL,
    iv      TEXT    NOT NULL,
    at      INTEGER NOT NULL, -- start of the interval
    created INTEGER NOT NULL,
    gen     INTEGER NOT NULL,
    s       INTEGER NOT NULL,
    payload BLOB    NOT NULL,
    PRIMARY KEY (venue, symbol, iv, at)
) STRICT, WITHOUT ROWID;

CREATE TABLE states (
    kind    TEXT    NOT NULL,
    venue   TEXT    NOT NULL,
    symbol  TEXT    NOT NULL,
    created INTEGER NOT NULL,
    gen     INTEGER NOT NULL,
    s       INTEGER NOT NULL,
    payload BLOB    NOT NULL,
    PRIMARY KEY (kind, venue, symbol)
) STRICT, WITHOUT ROWID;

-- Messages that are no ticks.
CREATE TABLE dead_letters (
    created INTEGER NOT NULL,
    gen     INTEGER NOT NULL,
    s       INTEGER NOT NULL,
    subject TEXT    NOT NULL,
    problem TEXT    NOT NULL,
    payload BLOB    NOT NULL,
    PRIMARY KEY (created, gen, s)
) STRICT, WITHOUT ROWID;

-- Everything of the recorded kinds up to the floor is stored.
CREATE TABLE progress (
    stream  TEXT    NOT NULL PRIMARY KEY,
    created INTEGER NOT NULL,
    gen     INTEGER NOT NULL,
    floor   INTEGER NOT NULL,
    at      INTEGER NOT NULL  -- when the broker stored the message at the floor
) STRICT, WITHOUT ROWID;
