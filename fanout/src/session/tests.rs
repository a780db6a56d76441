//! Sessions against a client that keeps the continuity rule, over random histories.

mod client;
mod reading;
mod replica;
mod rules;
mod truth;
mod world;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use world::World;

/// Names other seeds than the usual ones: one, or `from..to`.
const SEEDS: &str = "TICKWIRE_SEEDS";
const USUAL: Range<u64> = 0..300;
const STEPS: u32 = 120;

/// What clients did and got last: told if a history went wrong, which is then run once more.
#[derive(Default)]
struct Trace {
    is_kept: bool,
    lines: RefCell<VecDeque<String>>,
}

const TRACE: usize = 100;

impl Trace {
    fn note(&self, line: impl FnOnce() -> String) {
        if !self.is_kept {
            return;
        }
        let mut lines = self.lines.borrow_mut();
        if lines.len() == TRACE {
            lines.pop_front();
        }
        lines.push_back(line());
    }
}

/// Runs one random history; how many messages its clients checked. `None` if it went wrong.
fn run(seed: u64, trace: &Rc<Trace>) -> Option<u64> {
    let history = || {
        let mut world = World::new(seed, trace);
        for _ in 0..STEPS {
            world.step();
        }
        world.settle();
        world.checked()
    };
    catch_unwind(AssertUnwindSafe(history)).ok()
}

#[expect(
    clippy::disallowed_methods,
    reason = "which histories to run is no setting of a service"
)]
fn seeds() -> Range<u64> {
    let Ok(named) = std::env::var(SEEDS) else {
        return USUAL;
    };
    let number = |text: &str| -> u64 { text.parse().expect("a seed is a number") };
    match named.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => number(&named)..number(&named) + 1,
    }
}

/// `make simulate` runs it over more seeds; a seed is a history, always the same one.
#[test]
fn random_histories_leave_no_hole() {
    let seeds = seeds();
    let (next, checked) = (AtomicU64::new(seeds.start), AtomicU64::new(0));
    let failed = Mutex::new(Vec::new());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            match run(seed, &Rc::default()) {
                Some(count) => {
                    checked.fetch_add(count, Ordering::Relaxed);
                }
                None => failed.lock().unwrap().push(seed),
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner().unwrap();
    let count = seeds.end - seeds.start;
    eprintln!(
        "{count} histories from seed {}, {} messages checked, {} failed",
        seeds.start,
        checked.into_inner(),
        failed.len()
    );
    if let Some(seed) = failed.first() {
        let trace = Rc::new(Trace {
            is_kept: true,
            ..Trace::default()
        });
        let again = run(*seed, &trace);
        let lines: Vec<_> = trace.lines.take().into();
        panic!(
            "{failed:?} failed; {seed}, again {again:?}:\n{}",
            lines.join("\n")
        );
    }
}
