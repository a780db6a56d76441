//! How far something is: a bar on a terminal, a line from time to time elsewhere.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

/// How often a line is written where there is no terminal.
const EVERY: Duration = Duration::from_secs(5);

/// Shows on stderr how far something is.
pub(crate) struct Gauge {
    what: String,
    unit: &'static str,
    total: Option<u64>,
    done: u64,
    /// Where it stood at first: it may go on from somewhere.
    from: u64,
    began: Instant,
    told: Instant,
    bar: Option<ProgressBar>,
}

impl Gauge {
    /// Of `what`, counted in `unit`, from `from` to `total` if that is known.
    pub(crate) fn new(what: String, unit: &'static str, (from, total): (u64, Option<u64>)) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let (bar, text) = match total {
                Some(total) => (
                    ProgressBar::new(total),
                    "{msg} {wide_bar} {human_pos}/{human_len} ({per_sec}, {eta} left)",
                ),
                None => (
                    ProgressBar::no_length(),
                    "{msg} {spinner} {human_pos} ({per_sec})",
                ),
            };
            bar.set_draw_target(ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template(text) {
                bar.set_style(style);
            }
            bar.set_message(what.clone());
            bar.set_position(from);
            bar.reset_eta();
            bar
        });
        let now = Instant::now();
        Self {
            what,
            unit,
            total,
            done: from,
            from,
            began: now,
            told: now,
            bar,
        }
    }

    /// It is here now.
    pub(crate) fn set(&mut self, done: u64) {
        self.done = done;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if self.told.elapsed() >= EVERY {
            self.told = Instant::now();
            tell(&self.line(self.began.elapsed()));
        }
    }

    /// It is over: nothing of a bar stays.
    pub(crate) fn finish(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, elapsed: Duration) -> String {
        let Self {
            what, unit, done, ..
        } = self;
        let seconds = elapsed.as_secs().max(1);
        let rate = done.saturating_sub(self.from) / seconds;
        let of = self
            .total
            .map_or(String::new(), |total| format!(" of {total}"));
        format!("{what}: {done}{of} {unit}, {rate}/s")
    }
}

/// Writes a line to stderr.
pub(crate) fn tell(line: &str) {
    // With stderr gone there is nobody left to tell.
    drop(writeln!(io::stderr(), "{line}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_and_how_fast_since_it_began() {
        let mut gauge = Gauge::new("a.csv".to_owned(), "lines", (1_000, Some(9_000)));
        gauge.set(5_000);
        let line = gauge.line(Duration::from_secs(4));
        assert_eq!(line, "a.csv: 5000 of 9000 lines, 1000/s");
        let gauge = Gauge::new("a.csv".to_owned(), "rows", (0, None));
        assert_eq!(gauge.line(Duration::ZERO), "a.csv: 0 rows, 0/s");
    }
}
