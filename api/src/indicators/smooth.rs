//! Exponential averages, and sums that never end.

/// An exponential average that starts from the plain average of its first `period` values.
#[derive(Clone, Debug)]
pub(super) struct Smooth {
    period: u16,
    /// Weight of the newest value.
    weight: f64,
    seen: u16,
    /// The sum of the first values, then the average.
    state: f64,
    /// Bars after which what was before them weighs less than a millionth.
    fading: usize,
}

impl Smooth {
    /// The usual exponential average: the newest value weighs `2 / (period + 1)`.
    pub(super) fn exponential(period: u16) -> Self {
        let period = period.max(1);
        let weight = 2.0 / (f64::from(period) + 1.0);
        Self::new(period, weight, 7 * (usize::from(period) + 1))
    }

    /// Wilder's: the newest value weighs `1 / period`.
    pub(super) fn wilder(period: u16) -> Self {
        let period = period.max(1);
        let weight = 1.0 / f64::from(period);
        Self::new(period, weight, 14 * usize::from(period))
    }

    fn new(period: u16, weight: f64, fading: usize) -> Self {
        let (seen, state) = (0, 0.0);
        Self {
            period,
            weight,
            seen,
            state,
            fading,
        }
    }

    /// Values before the first average.
    pub(super) fn warm_up(&self) -> usize {
        usize::from(self.period) - 1
    }

    /// Values before an average that does not depend noticeably on where the series was begun.
    pub(super) fn history(&self) -> usize {
        self.warm_up() + self.fading
    }

    pub(super) fn push(&mut self, value: f64) -> Option<f64> {
        if self.seen == self.period {
            self.state += (value - self.state) * self.weight;
            return Some(self.state);
        }
        self.seen += 1;
        self.state += value;
        if self.seen < self.period {
            return None;
        }
        self.state /= f64::from(self.period);
        Some(self.state)
    }
}

/// A sum without a window, whose rounding errors are carried along (Neumaier).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Total {
    sum: f64,
    lost: f64,
}

impl Total {
    pub(super) fn add(&mut self, value: f64) -> f64 {
        let sum = self.sum + value;
        self.lost += if self.sum.abs() >= value.abs() {
            (self.sum - sum) + value
        } else {
            (value - sum) + self.sum
        };
        self.sum = sum;
        self.sum + self.lost
    }
}
