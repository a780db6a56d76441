-- Ticks by position are asked for of bars too.
CREATE INDEX bars_by_position ON bars (venue, symbol, iv, created, gen, s);
