//! Which topic a tick is of: always the same, or by Zipf's law, as instruments trade.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Draws numbers from 0: the first is drawn twice as often as the second, three times as often as
/// the third. The same draws every time.
pub(super) struct Zipf {
    cumulative: Vec<f64>,
    rng: StdRng,
}

impl Zipf {
    /// Draws from so many.
    pub(super) fn new(count: usize) -> Self {
        let mut sum = 0.0;
        let ranks = 1..=u32::try_from(count).unwrap_or(u32::MAX);
        let cumulative = ranks.map(|rank| {
            sum += 1.0 / f64::from(rank);
            sum
        });
        Self {
            cumulative: cumulative.collect(),
            rng: StdRng::seed_from_u64(7),
        }
    }

    /// The next draw.
    pub(super) fn draw(&mut self) -> usize {
        let whole = self.cumulative.last().copied().unwrap_or_default();
        let at = self.rng.random::<f64>() * whole;
        let rank = self.cumulative.partition_point(|sum| *sum <= at);
        rank.min(self.cumulative.len().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::Zipf;

    #[test]
    fn the_first_is_drawn_twice_as_often_as_the_second() {
        let mut zipf = Zipf::new(500);
        let mut drawn = vec![0_u32; 500];
        for _ in 0..200_000 {
            drawn[zipf.draw()] += 1;
        }
        // 1 / H(500) = 14.7 %.
        assert!((28_000..31_000).contains(&drawn[0]), "{}", drawn[0]);
        assert!((14_000..15_500).contains(&drawn[1]), "{}", drawn[1]);
        assert!(drawn[499] > 0);
    }

    #[test]
    fn of_one_there_is_no_choice() {
        let mut zipf = Zipf::new(1);
        assert!((0..100).all(|_| zipf.draw() == 0));
    }
}
