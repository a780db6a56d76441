-- What venues did not send, or a feed did not receive, as the feeds told it; kept for ever.
CREATE TABLE gaps (
    at      BIGINT NOT NULL, -- when it was noticed
    created BIGINT NOT NULL,
    gen     BIGINT NOT NULL,
    s       BIGINT NOT NULL,
    began   BIGINT NOT NULL,
    payload BYTEA NOT NULL, -- the feed's tick
    PRIMARY KEY (at, created, gen, s)
);

-- Those that were recorded before: in MessagePack, "st": "gap".
INSERT INTO gaps (at, created, gen, s, began, payload)
SELECT at, created, gen, s, at, payload FROM events
WHERE kind = 'feed' AND position('\xa27374a3676170'::bytea IN payload) > 0;

-- What the stream did not keep until it was recorded.
CREATE TABLE losses (
    stream  TEXT COLLATE "C" NOT NULL,
    at      BIGINT NOT NULL, -- when it was noticed
    created BIGINT NOT NULL,
    gen     BIGINT NOT NULL,
    s       BIGINT NOT NULL, -- the first of them
    until   BIGINT NOT NULL, -- the last of them
    began   BIGINT NOT NULL, -- when the broker stored what was recorded before
    why     TEXT NOT NULL,
    PRIMARY KEY (stream, at, created, gen, s)
);
