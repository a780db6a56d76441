//! Sessions against a client that keeps the continuity rule, over random histories.

mod client;
mod rules;
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

/// What the last client did and got, for the report of a failure.
type Trace = Rc<RefCell<VecDeque<String>>>;

const TRACE: usize = 100;

fn note(trace: &Trace, line: impl FnOnce() -> String) {
    let mut trace = trace.borrow_mut();
    if trace.len() == TRACE {
        trace.pop_front();
    }
    trace.push_back(line());
}

/// Runs one random history; how many messages its clients checked, or what happened last.
fn run(seed: u64) -> Result<u64, String> {
    let trace = Trace::default();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, &trace);
        for _ in 0..STEPS {
            world.step();
        }
        world.settle();
        world.checked()
    }));
    outcome.map_err(|_| {
        let lines: Vec<_> = trace.borrow().iter().cloned().collect();
        lines.join("\n")
    })
}

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
            match run(seed) {
                Ok(count) => {
                    checked.fetch_add(count, Ordering::Relaxed);
                }
                Err(trace) => failed.lock().unwrap().push((seed, trace)),
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
    if let Some((seed, trace)) = failed.first() {
        let all: Vec<u64> = failed.iter().map(|(seed, _)| *seed).collect();
        panic!("seeds {all:?}; {SEEDS}={seed} is:\n{trace}");
    }
}
