//! The highest rate at which everybody gets everything in time.

use std::time::Duration;

use anyhow::Result;
use schemas::ws::Encoding;

use super::contender::{Contender, Tools};
use super::measure::{Span, Stand};
use super::report::{Ceiling, Load};
use super::shape::Shape;
use super::tell;

/// The highest rate that is tried, in ticks per second: what broker and publisher can surely carry.
const MAX_RATE: u32 = 50_000;
/// How often the space between the highest rate that passed and the lowest that did not is divided.
const DIVISIONS: u32 = 3;

/// One server under one scenario, built anew after it failed.
struct Climber<'a> {
    tools: &'a Tools,
    contender: Contender,
    shape: Shape,
    stand: Option<Stand>,
}

impl Climber<'_> {
    async fn step(&mut self, rate: u32, span: Span) -> Result<Load> {
        let stand = if let Some(stand) = self.stand.take() {
            stand
        } else {
            let turn = (self.contender, Encoding::Json);
            Stand::build(self.tools, turn, self.shape).await?
        };
        let (stand, load) = stand.run(rate, span).await?;
        tell(&load);
        if load.passes() {
            self.stand = Some(stand);
        } else {
            stand.clear().await?;
        }
        Ok(load)
    }
}

/// Doubles the rate until it does not pass, twice, nor its double: some servers write less often
/// only where they are pressed hard. Then looks between.
///
/// # Errors
///
/// Something does not start, or broke.
pub(super) async fn climb(
    tools: &Tools,
    contender: Contender,
    shape: Shape,
    span: Span,
) -> Result<Ceiling> {
    let mut climber = Climber {
        tools,
        contender,
        shape,
        stand: None,
    };
    let mut ceiling = Ceiling {
        highest: None,
        failed: None,
        half: None,
    };
    let mut rate = shape.rate;
    loop {
        let mut load = climber.step(rate, span).await?;
        if !load.passes() {
            load = climber.step(rate, span).await?;
        }
        if load.passes() {
            ceiling.highest = Some(load);
            ceiling.failed = None;
        } else if ceiling.failed.is_none() {
            ceiling.failed = Some(load);
        } else {
            break;
        }
        if rate >= MAX_RATE {
            break;
        }
        rate = rate.saturating_mul(2).min(MAX_RATE);
    }
    for _ in 0..DIVISIONS {
        let Some(rate) = between(&ceiling) else {
            break;
        };
        let load = climber.step(rate, span).await?;
        let side = if load.passes() {
            &mut ceiling.highest
        } else {
            &mut ceiling.failed
        };
        *side = Some(load);
    }
    if let Some(highest) = &ceiling.highest {
        let rate = (highest.ticks_per_second / 2).max(1);
        let span = Span {
            counted: span.counted.max(Duration::from_secs(2)),
            ..span
        };
        ceiling.half = Some(climber.step(rate, span).await?);
    }
    if let Some(stand) = climber.stand {
        stand.clear().await?;
    }
    Ok(ceiling)
}

/// The rate in the middle, as rates go: by quotient.
fn between(ceiling: &Ceiling) -> Option<u32> {
    let low = ceiling.highest.as_ref()?.ticks_per_second;
    let high = ceiling.failed.as_ref()?.ticks_per_second;
    middle(low, high)
}

fn middle(low: u32, high: u32) -> Option<u32> {
    let middle = u32::try_from((u64::from(low) * u64::from(high)).isqrt()).ok()?;
    (middle > low && middle < high).then_some(middle)
}

#[cfg(test)]
mod tests {
    use super::middle;

    #[test]
    fn the_middle_of_rates_is_as_far_from_both_by_quotient() {
        assert_eq!(middle(100, 400), Some(200));
        assert_eq!(middle(25_600, 51_200), Some(36_203));
        assert_eq!((middle(5, 6), middle(7, 7)), (None, None));
    }
}
