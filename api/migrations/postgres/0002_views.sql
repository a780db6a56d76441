-- For whoever asks in SQL: times to the microsecond beside the exact ones.
CREATE VIEW trades AS
SELECT to_timestamp(0) + at / 1000 * INTERVAL '1 microsecond' AS time,
       at, venue, symbol, price, size, created, gen, s
FROM events WHERE kind = 'trade';

CREATE VIEW quotes AS
SELECT to_timestamp(0) + at / 1000 * INTERVAL '1 microsecond' AS time,
       at, venue, symbol, bid, bid_size, ask, ask_size, created, gen, s
FROM events WHERE kind = 'quote';

CREATE VIEW candles AS
SELECT to_timestamp(0) + at / 1000 * INTERVAL '1 microsecond' AS time,
       at, venue, symbol, iv, open, high, low, close, volume, created, gen, s
FROM bars;
