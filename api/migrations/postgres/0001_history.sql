-- Times are nanoseconds since 1970; texts sort by their bytes, as they do in the other database.

-- Append kinds: every tick once, in a partition per day of event time (UTC). The payload is the tick
-- as it came, so every digit is kept; the decimals beside it are for whoever asks in SQL.
CREATE TABLE events (
    at       BIGINT NOT NULL, -- event time, or receive time
    created  BIGINT NOT NULL, -- epoch: when the stream was created
    gen      BIGINT NOT NULL, -- epoch: generation
    s        BIGINT NOT NULL, -- stream sequence
    kind     TEXT COLLATE "C" NOT NULL,
    venue    TEXT COLLATE "C" NOT NULL,
    symbol   TEXT COLLATE "C" NOT NULL,
    payload  BYTEA NOT NULL,
    price    NUMERIC,
    size     NUMERIC,
    bid      NUMERIC,
    bid_size NUMERIC,
    ask      NUMERIC,
    ask_size NUMERIC,
    PRIMARY KEY (kind, venue, symbol, at, created, gen, s)
) PARTITION BY RANGE (at);

CREATE INDEX events_by_position ON events (kind, venue, symbol, created, gen, s);

-- Times that no day was made for: captures of years ago, clocks that are wrong.
CREATE TABLE events_default PARTITION OF events DEFAULT;

-- Keyed kinds: the latest message of a key, by epoch and sequence.
CREATE TABLE bars (
    at      BIGINT NOT NULL, -- start of the interval
    created BIGINT NOT NULL,
    gen     BIGINT NOT NULL,
    s       BIGINT NOT NULL,
    venue   TEXT COLLATE "C" NOT NULL,
    symbol  TEXT COLLATE "C" NOT NULL,
    iv      TEXT COLLATE "C" NOT NULL,
    payload BYTEA NOT NULL,
    open    NUMERIC,
    high    NUMERIC,
    low     NUMERIC,
    close   NUMERIC,
    volume  NUMERIC,
    PRIMARY KEY (venue, symbol, iv, at)
);

CREATE INDEX bars_by_position ON bars (venue, symbol, iv, created, gen, s);

CREATE TABLE states (
    created BIGINT NOT NULL,
    gen     BIGINT NOT NULL,
    s       BIGINT NOT NULL,
    kind    TEXT COLLATE "C" NOT NULL,
    venue   TEXT COLLATE "C" NOT NULL,
    symbol  TEXT COLLATE "C" NOT NULL,
    payload BYTEA NOT NULL,
    PRIMARY KEY (kind, venue, symbol)
);

-- Messages that are no ticks.
CREATE TABLE dead_letters (
    created BIGINT NOT NULL,
    gen     BIGINT NOT NULL,
    s       BIGINT NOT NULL,
    subject TEXT NOT NULL,
    problem TEXT NOT NULL,
    payload BYTEA NOT NULL,
    PRIMARY KEY (created, gen, s)
);

-- Everything of the recorded kinds up to the floor is stored.
CREATE TABLE progress (
    stream  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    created BIGINT NOT NULL,
    gen     BIGINT NOT NULL,
    floor   BIGINT NOT NULL,
    at      BIGINT NOT NULL -- when the broker stored the message at the floor
);

-- When recording stood where: what lies before is as old as that, whatever time its ticks bear.
CREATE TABLE marks (
    stream  TEXT COLLATE "C" NOT NULL,
    created BIGINT NOT NULL,
    gen     BIGINT NOT NULL,
    floor   BIGINT NOT NULL,
    at      BIGINT NOT NULL,
    PRIMARY KEY (stream, created, gen, floor)
);
