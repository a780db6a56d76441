//! Sessions against a client that keeps the continuity rule, over random histories.

mod client;
mod rules;
mod world;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use world::World;

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

/// Runs one random history; a failure names its seed, and what happened last.
fn run(seed: u64, steps: u32) {
    let trace = Trace::default();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, &trace);
        for _ in 0..steps {
            world.step();
        }
        world.settle();
    }));
    let lines = trace
        .borrow()
        .iter()
        .cloned()
        .collect::<Vec<_>>()
        .join("\n");
    assert!(outcome.is_ok(), "seed {seed}:\n{lines}");
}

#[test]
fn random_histories_leave_no_hole() {
    for seed in 0..300 {
        run(seed, 120);
    }
}
