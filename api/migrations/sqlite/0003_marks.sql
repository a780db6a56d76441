-- When recording stood where: what lies before is as old as that, whatever time its ticks bear.
CREATE TABLE marks (
    stream  TEXT    NOT NULL,
    created INTEGER NOT NULL,
    gen     INTEGER NOT NULL,
    floor   INTEGER NOT NULL,
    at      INTEGER NOT NULL, -- nanoseconds since 1970
    PRIMARY KEY (stream, created, gen, floor)
) STRICT, WITHOUT ROWID;
