//! The same indicators, computed from all bars so far at every bar, by other formulas where there
//! are any. Periods grow by two from parameter to parameter, as the tests set them.

use super::Candle;

type Figures = Vec<Option<f64>>;

/// All outputs of all bars.
pub(super) fn compute(name: &str, period: usize, bars: &[Candle]) -> Vec<Figures> {
    (1..=bars.len())
        .map(|count| figures(name, period, &bars[..count]))
        .collect()
}

/// Whether both are the same to a billionth: of the highest price and quantity where the figure is
/// a difference of such, otherwise of the figure.
pub(super) fn agree(
    found: Option<f64>,
    expected: Option<f64>,
    name: &str,
    bars: &[Candle],
) -> bool {
    let (Some(found), Some(expected)) = (found, expected) else {
        return found == expected;
    };
    let highest = bars.iter().map(|bar| bar.high).fold(0.0, f64::max);
    let unit = match name {
        "obv" | "adl" => bars.iter().map(|bar| bar.volume).sum(),
        "rsi" | "stoch" | "williams_r" | "cci" | "mfi" | "adx" | "aroon" | "roc" | "trix" => 1.0,
        "cmf" => 0.01,
        _ => highest * 1e-3,
    };
    (found - expected).abs() <= 1e-9 * unit.max(found.abs()).max(expected.abs())
}

fn real(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

fn last(values: &[f64], count: usize) -> Option<&[f64]> {
    values.len().checked_sub(count).map(|from| &values[from..])
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / real(values.len())
}

fn highest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::MIN, f64::max)
}

fn lowest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::MAX, f64::min)
}

fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / real(values.len())).sqrt()
}

fn quotient(part: f64, whole: f64) -> Option<f64> {
    (whole != 0.0).then(|| part / whole)
}

/// Averages of all prefixes that are long enough, by the sum of weights.
fn smooth(values: &[f64], period: usize, weight: f64) -> Vec<f64> {
    (period..=values.len())
        .map(|count| {
            let tail = &values[period..count];
            let seed =
                mean(&values[..period]) * (1.0 - weight).powi(tail.len().try_into().unwrap());
            let ages = (0..).zip(tail.iter().rev());
            let rest: f64 = ages
                .map(|(age, value)| value * (1.0 - weight).powi(age))
                .sum();
            seed + weight * rest
        })
        .collect()
}

fn exponential(values: &[f64], period: usize) -> Vec<f64> {
    smooth(values, period, 2.0 / (real(period) + 1.0))
}

fn wilder(values: &[f64], period: usize) -> Vec<f64> {
    smooth(values, period, 1.0 / real(period))
}

fn differences(values: &[f64]) -> Vec<f64> {
    values.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

fn true_ranges(bars: &[Candle]) -> Vec<f64> {
    let mut ranges = vec![bars[0].high - bars[0].low];
    ranges.extend(bars.windows(2).map(|pair| {
        let (before, bar) = (pair[0].close, pair[1]);
        (bar.high - bar.low)
            .max((bar.high - before).abs())
            .max((bar.low - before).abs())
    }));
    ranges
}

fn column(bars: &[Candle], of: fn(&Candle) -> f64) -> Vec<f64> {
    bars.iter().map(of).collect()
}

fn typical(bars: &[Candle]) -> Vec<f64> {
    column(bars, |bar| (bar.high + bar.low + bar.close) / 3.0)
}

/// Lowest low and highest high of the last bars.
fn range(bars: &[Candle], count: usize) -> Option<(f64, f64)> {
    let (lows, highs) = (column(bars, |bar| bar.low), column(bars, |bar| bar.high));
    Some((lowest(last(&lows, count)?), highest(last(&highs, count)?)))
}

fn band(middle: Option<f64>, width: Option<f64>) -> Figures {
    let both = middle.zip(width);
    let (upper, lower) = (both.map(|(m, w)| m + w), both.map(|(m, w)| m - w));
    vec![upper, both.map(|(m, _)| m), lower]
}

fn figures(name: &str, period: usize, bars: &[Candle]) -> Figures {
    let closes = column(bars, |bar| bar.close);
    let now = *bars.last().unwrap();
    let window = last(&closes, period);
    match name {
        "sma" => vec![window.map(mean)],
        "stddev" => vec![window.map(deviation)],
        "wma" => vec![window.map(|window| {
            let weights = (1..).map(f64::from);
            let sum: f64 = weights
                .zip(window)
                .map(|(weight, value)| weight * value)
                .sum();
            sum / (real(period) * (real(period) + 1.0) / 2.0)
        })],
        "vwma" => {
            let paid = column(bars, |bar| bar.close * bar.volume);
            let volumes = column(bars, |bar| bar.volume);
            let both = last(&paid, period).zip(last(&volumes, period));
            vec![both.and_then(|(paid, volumes)| {
                quotient(paid.iter().sum::<f64>(), volumes.iter().sum())
            })]
        }
        "ema" => vec![exponential(&closes, period).last().copied()],
        "rma" => vec![wilder(&closes, period).last().copied()],
        "dema" | "tema" => {
            let once = exponential(&closes, period);
            let twice = exponential(&once, period);
            let thrice = exponential(&twice, period);
            let (one, two, three) = (once.last(), twice.last(), thrice.last());
            vec![if name == "dema" {
                two.map(|two| 2.0 * one.unwrap() - two)
            } else {
                three.map(|three| 3.0 * one.unwrap() - 3.0 * two.unwrap() + three)
            }]
        }
        "bbands" => band(
            window.map(mean),
            window.map(|window| 2.0 * deviation(window)),
        ),
        "donchian" => {
            let range = range(bars, period);
            vec![
                range.map(|(_, high)| high),
                range.map(|(low, high)| f64::midpoint(low, high)),
                range.map(|(low, _)| low),
            ]
        }
        "atr" => vec![wilder(&true_ranges(bars), period).last().copied()],
        "keltner" => {
            let width = wilder(&true_ranges(bars), period + 2);
            let middle = exponential(&closes, period);
            band(
                middle.last().copied(),
                width.last().map(|width| 2.0 * width),
            )
        }
        "rsi" | "macd" | "trix" | "roc" | "stoch" | "williams_r" | "cci" => {
            momentum(name, period, bars)
        }
        "obv" | "adl" | "cmf" | "mfi" | "vwap" => volume(name, period, bars),
        "adx" => directional(period, bars),
        "aroon" => aroon(period, bars),
        "ichimoku" => {
            let middle = |count| range(bars, count).map(|(low, high)| f64::midpoint(low, high));
            let (conversion, base) = (middle(period), middle(period + 2));
            let lead = conversion.zip(base).map(|(a, b)| f64::midpoint(a, b));
            vec![conversion, base, lead, middle(period + 4), Some(now.close)]
        }
        "psar" => vec![parabolic(bars)],
        _ => panic!("{name} has no naive computation"),
    }
}

fn momentum(name: &str, period: usize, bars: &[Candle]) -> Figures {
    let closes = column(bars, |bar| bar.close);
    let close = bars.last().unwrap().close;
    match name {
        "rsi" => {
            let changes = differences(&closes);
            let part = |sign: f64| {
                let moves: Vec<_> = changes
                    .iter()
                    .map(|change| (sign * change).max(0.0))
                    .collect();
                wilder(&moves, period).last().copied()
            };
            let strength = part(1.0).zip(part(-1.0));
            vec![
                strength.and_then(|(gain, loss)| match (gain > 0.0, loss > 0.0) {
                    (false, false) => None,
                    (true, false) => Some(100.0),
                    (_, true) => Some(100.0 - 100.0 / (1.0 + gain / loss)),
                }),
            ]
        }
        "macd" => {
            let (fast, slow) = (
                exponential(&closes, period),
                exponential(&closes, period + 2),
            );
            let fast = &fast[fast.len() - slow.len()..];
            let line: Vec<_> = fast
                .iter()
                .zip(&slow)
                .map(|(fast, slow)| fast - slow)
                .collect();
            let signal = exponential(&line, period + 4).last().copied();
            let line = line.last().copied();
            vec![
                line,
                signal,
                line.zip(signal).map(|(line, signal)| line - signal),
            ]
        }
        "trix" => {
            let once = exponential(&closes, period);
            let thrice = exponential(&exponential(&once, period), period);
            let changes: Vec<_> = thrice
                .windows(2)
                .map(|pair| 100.0 * (pair[1] / pair[0] - 1.0))
                .collect();
            let signal = exponential(&changes, period + 2).last().copied();
            vec![changes.last().copied(), signal]
        }
        "roc" => {
            let before = last(&closes, period + 1).map(|window| window[0]);
            vec![before.map(|before| 100.0 * (close / before - 1.0))]
        }
        "stoch" => {
            let raw: Vec<_> = (1..=bars.len())
                .map(|count| {
                    let (low, high) = range(&bars[..count], period)?;
                    quotient(100.0 * (bars[count - 1].close - low), high - low)
                })
                .collect();
            let exists = raw.last().unwrap().is_some();
            let raw: Vec<_> = raw.into_iter().flatten().collect();
            let smooth: Vec<_> = raw.windows(period + 2).map(mean).collect();
            let k = smooth.last().copied().filter(|_| exists);
            let d = last(&smooth, period + 4).map(mean).filter(|_| exists);
            vec![k, d]
        }
        "williams_r" => vec![
            range(bars, period)
                .and_then(|(low, high)| quotient(-100.0 * (high - close), high - low)),
        ],
        "cci" => {
            let period = period.max(2);
            let prices = typical(bars);
            let window = last(&prices, period).filter(|w| lowest(w) < highest(w));
            vec![window.map(|window| {
                let mean = mean(window);
                let distance: f64 = window.iter().map(|price| (price - mean).abs()).sum();
                (prices.last().unwrap() - mean) / (0.015 * distance / real(period))
            })]
        }
        _ => panic!("{name} is not here"),
    }
}

fn volume(name: &str, period: usize, bars: &[Candle]) -> Figures {
    let volumes = column(bars, |bar| bar.volume);
    let flows = column(bars, |bar| {
        if bar.high > bar.low {
            (2.0 * bar.close - bar.low - bar.high) / (bar.high - bar.low) * bar.volume
        } else {
            0.0
        }
    });
    let prices = typical(bars);
    match name {
        "obv" => {
            let signed = bars.windows(2).map(|pair| {
                let change = pair[1].close - pair[0].close;
                if change == 0.0 {
                    0.0
                } else {
                    change.signum() * pair[1].volume
                }
            });
            vec![Some(signed.sum())]
        }
        "adl" => vec![Some(flows.iter().sum())],
        "cmf" => {
            let both = last(&flows, period).zip(last(&volumes, period));
            vec![both.and_then(|(flows, volumes)| {
                quotient(flows.iter().sum::<f64>(), volumes.iter().sum())
            })]
        }
        "mfi" => {
            let Some(from) = bars.len().checked_sub(period).filter(|from| *from > 0) else {
                return vec![None];
            };
            let (mut rising, mut falling) = (0.0, 0.0);
            for at in from..bars.len() {
                let money = prices[at] * volumes[at];
                if prices[at] > prices[at - 1] {
                    rising += money;
                } else if prices[at] < prices[at - 1] {
                    falling += money;
                }
            }
            vec![quotient(100.0 * rising, rising + falling)]
        }
        "vwap" => {
            let day = |bar: &Candle| bar.start.get().div_euclid(86_400_000_000_000);
            let today = day(bars.last().unwrap());
            let of_day = || (0..bars.len()).filter(|at| day(&bars[*at]) == today);
            let paid: f64 = of_day().map(|at| prices[at] * volumes[at]).sum();
            vec![quotient(paid, of_day().map(|at| volumes[at]).sum())]
        }
        _ => panic!("{name} is not here"),
    }
}

/// Sums instead of averages, as Wilder's worksheet has them.
fn directional(period: usize, bars: &[Candle]) -> Figures {
    let ups: Vec<_> = bars
        .windows(2)
        .map(|pair| pair[1].high - pair[0].high)
        .collect();
    let downs: Vec<_> = bars
        .windows(2)
        .map(|pair| pair[0].low - pair[1].low)
        .collect();
    let one_sided = |mine: &[f64], other: &[f64]| -> Vec<f64> {
        mine.iter()
            .zip(other)
            .map(|(mine, other)| if mine > other { mine.max(0.0) } else { 0.0 })
            .collect()
    };
    let worksheet = |values: &[f64]| -> Vec<f64> {
        let mut sums = Vec::new();
        for count in period..=values.len() {
            sums.push(match sums.last() {
                None => values[..period].iter().sum(),
                Some(sum) => sum - sum / real(period) + values[count - 1],
            });
        }
        sums
    };
    let ranges = worksheet(&true_ranges(bars)[1..]);
    let plus = worksheet(&one_sided(&ups, &downs));
    let minus = worksheet(&one_sided(&downs, &ups));
    let lines: Vec<_> = (0..ranges.len())
        .map(|at| quotient(plus[at], ranges[at]).zip(quotient(minus[at], ranges[at])))
        .collect();
    let indices: Vec<_> = lines
        .iter()
        .map(|line| line.and_then(|(plus, minus)| quotient((plus - minus).abs(), plus + minus)))
        .collect();
    let exists = indices.last().is_some_and(Option::is_some);
    let indices: Vec<_> = indices.into_iter().flatten().collect();
    let index = wilder(&indices, period + 2)
        .last()
        .copied()
        .filter(|_| exists);
    let line = lines.last().copied().flatten();
    vec![
        index.map(|index| 100.0 * index),
        line.map(|(plus, _)| 100.0 * plus),
        line.map(|(_, minus)| 100.0 * minus),
    ]
}

fn aroon(period: usize, bars: &[Candle]) -> Figures {
    let age = |values: &[f64], extreme: fn(&[f64]) -> f64| {
        let window = last(values, period + 1)?;
        let best = extreme(window);
        window
            .iter()
            .rev()
            .position(|value| value.total_cmp(&best).is_eq())
    };
    let percent = |age: usize| 100.0 * (real(period) - real(age)) / real(period);
    let up = age(&column(bars, |bar| bar.high), highest).map(percent);
    let down = age(&column(bars, |bar| bar.low), lowest).map(percent);
    vec![up, down, up.zip(down).map(|(up, down)| up - down)]
}

/// Wilder's rules, bar by bar, with the standard factors.
fn parabolic(bars: &[Candle]) -> Option<f64> {
    let second = bars.get(1)?;
    let mut long = second.close > bars[0].close;
    let mut stop = if long { bars[0].low } else { bars[0].high };
    let mut extreme = if long { second.high } else { second.low };
    let mut factor = 0.02;
    let mut shown = stop;
    for (at, bar) in bars.iter().enumerate().skip(1) {
        let (before, lows_and_highs) = (&bars[at - 1], at.checked_sub(2).map(|at| &bars[at]));
        for guard in [Some(before), lows_and_highs].into_iter().flatten() {
            stop = if long {
                stop.min(guard.low)
            } else {
                stop.max(guard.high)
            };
        }
        if (long && bar.low <= stop) || (!long && bar.high >= stop) {
            long = !long;
            stop = if long {
                extreme.min(bar.low).min(before.low)
            } else {
                extreme.max(bar.high).max(before.high)
            };
            extreme = if long { bar.high } else { bar.low };
            factor = 0.02;
        } else if long && bar.high > extreme {
            extreme = bar.high;
            factor = (factor + 0.02_f64).min(0.2);
        } else if !long && bar.low < extreme {
            extreme = bar.low;
            factor = (factor + 0.02_f64).min(0.2);
        }
        shown = stop;
        stop += factor * (extreme - stop);
    }
    Some(shown)
}
