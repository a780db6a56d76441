//! Aggregates over the last bars, and values of some bars ago: constant amortized time per bar.

use std::collections::VecDeque;

use super::Candle;

/// An aggregate of consecutive bars that can be joined with that of the bars after them.
pub(super) trait Fold: Copy {
    /// The aggregate of both runs; `newer` follows `self` directly.
    fn join(self, newer: Self) -> Self;
}

/// The aggregate of the last `size` bars.
///
/// Nothing is ever subtracted: older bars are held as aggregates of their suffixes, newer ones as
/// one running aggregate, and the newer half is turned into suffixes when the older is used up. So
/// there is no drift, and a huge value leaves no trace once it is out of the window.
#[derive(Clone, Debug)]
pub(super) struct Window<T> {
    size: u16,
    /// Aggregates from a bar to the end of the older half; the last one begins with the oldest bar.
    older: Vec<T>,
    newer: Vec<T>,
    /// The aggregate of `newer`.
    running: Option<T>,
}

impl<T: Fold> Window<T> {
    pub(super) fn new(size: u16) -> Self {
        let (older, newer) = (Vec::new(), Vec::new());
        Self {
            size: size.max(1),
            older,
            newer,
            running: None,
        }
    }

    pub(super) fn size(&self) -> u16 {
        self.size
    }

    /// Takes one bar in, the oldest one out, and gives the aggregate once the window is full.
    pub(super) fn push(&mut self, bar: T) -> Option<T> {
        let size = usize::from(self.size);
        if self.older.len() + self.newer.len() == size {
            self.drop_oldest();
        }
        self.newer.push(bar);
        self.running = Some(self.running.map_or(bar, |run| run.join(bar)));
        if self.older.len() + self.newer.len() < size {
            return None;
        }
        match (self.older.last(), self.running) {
            (Some(older), Some(newer)) => Some(older.join(newer)),
            (None, newer) => newer,
            (older, None) => older.copied(),
        }
    }

    fn drop_oldest(&mut self) {
        if self.older.is_empty() {
            while let Some(bar) = self.newer.pop() {
                let suffix = self.older.last().map_or(bar, |after| bar.join(*after));
                self.older.push(suffix);
            }
            self.running = None;
        }
        self.older.pop();
    }
}

/// A sum.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sum<const N: usize>(pub(super) [f64; N]);

impl<const N: usize> Fold for Sum<N> {
    fn join(mut self, newer: Self) -> Self {
        for (sum, more) in self.0.iter_mut().zip(newer.0) {
            *sum += more;
        }
        self
    }
}

/// The lowest and the highest value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Range {
    pub(super) fn of(bar: &Candle) -> Self {
        let (low, high) = (bar.low, bar.high);
        Self { low, high }
    }

    pub(super) fn middle(self) -> f64 {
        f64::midpoint(self.low, self.high)
    }

    /// Where `value` stands between the lowest (0) and the highest (1); none if these are equal.
    pub(super) fn place(self, value: f64) -> Option<f64> {
        ratio(value - self.low, self.high - self.low)
    }
}

impl Fold for Range {
    fn join(self, newer: Self) -> Self {
        Self {
            low: self.low.min(newer.low),
            high: self.high.max(newer.high),
        }
    }
}

/// Count, mean and sum of squared distances from the mean: exact where all values are equal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moments {
    count: f64,
    pub(super) mean: f64,
    squares: f64,
}

impl Moments {
    pub(super) fn of(value: f64) -> Self {
        Self {
            count: 1.0,
            mean: value,
            squares: 0.0,
        }
    }

    /// Standard deviation of the whole population.
    pub(super) fn deviation(self) -> f64 {
        (self.squares / self.count).sqrt()
    }
}

impl Fold for Moments {
    fn join(self, newer: Self) -> Self {
        let count = self.count + newer.count;
        let (distance, share) = (newer.mean - self.mean, newer.count / count);
        Self {
            count,
            mean: self.mean + distance * share,
            squares: self.squares + newer.squares + distance * distance * self.count * share,
        }
    }
}

/// Sum and linearly weighted sum: the oldest value weighs 1, each newer one 1 more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weighted {
    count: f64,
    sum: f64,
    ramp: f64,
}

impl Weighted {
    pub(super) fn of(value: f64) -> Self {
        Self {
            count: 1.0,
            sum: value,
            ramp: value,
        }
    }

    pub(super) fn mean(self) -> f64 {
        self.ramp / (self.count * (self.count + 1.0) / 2.0)
    }
}

impl Fold for Weighted {
    fn join(self, newer: Self) -> Self {
        Self {
            count: self.count + newer.count,
            sum: self.sum + newer.sum,
            ramp: self.ramp + newer.ramp + self.count * newer.sum,
        }
    }
}

/// The value of `bars` bars ago.
#[derive(Clone, Debug)]
pub(super) struct Delay {
    bars: u16,
    values: VecDeque<f64>,
}

impl Delay {
    pub(super) fn new(bars: u16) -> Self {
        let values = VecDeque::new();
        Self { bars, values }
    }

    pub(super) fn bars(&self) -> u16 {
        self.bars
    }

    pub(super) fn push(&mut self, value: f64) -> Option<f64> {
        self.values.push_back(value);
        if self.values.len() > usize::from(self.bars) {
            return self.values.pop_front();
        }
        None
    }
}

/// The quotient, where there is one.
pub(super) fn ratio(part: f64, whole: f64) -> Option<f64> {
    if whole == 0.0 {
        return None;
    }
    Some(part / whole).filter(|quotient| quotient.is_finite())
}
