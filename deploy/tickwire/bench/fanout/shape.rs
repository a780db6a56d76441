//! The work: how many clients hold which topics, and how many ticks come.

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::index::sample;

/// A scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) name: &'static str,
    pub(super) clients: usize,
    /// How many topics there are.
    pub(super) topics: usize,
    /// How many of them each client holds.
    pub(super) held: usize,
    /// Ticks per second.
    pub(super) rate: u32,
    /// The server stands still half of the time.
    pub(super) braked: bool,
}

impl Shape {
    /// One hot topic.
    pub(super) const A: Self = Self {
        name: "A",
        clients: 1_000,
        topics: 1,
        held: 1,
        rate: 100,
        braked: false,
    };
    /// Many topics, a few for each client, as busy as Zipf's law says.
    pub(super) const B: Self = Self {
        name: "B",
        clients: 1_000,
        topics: 500,
        held: 10,
        rate: 2_000,
        braked: false,
    };
    /// The same for a server with half of its core, which is full before those that load it are.
    pub(super) const HALF_B: Self = Self {
        name: "B-half-core",
        braked: true,
        ..Self::B
    };
    /// Very many clients, and hardly anything to say.
    pub(super) const C: Self = Self {
        name: "C",
        clients: 10_000,
        topics: 1,
        held: 1,
        rate: 1,
        braked: false,
    };
    /// About 100 KB/s for each client.
    pub(super) const SLOW: Self = Self {
        name: "slow",
        clients: 200,
        topics: 1,
        held: 1,
        rate: 450,
        braked: false,
    };

    /// One hot topic, and room beside it for those who churn.
    pub(super) const CHURN: Self = Self {
        name: "churn",
        clients: 1_000,
        topics: 1,
        held: 1,
        rate: 50,
        braked: false,
    };

    /// The same work for another number of clients.
    pub(super) const fn with_clients(mut self, clients: Option<usize>) -> Self {
        if let Some(clients) = clients {
            self.clients = clients;
        }
        self
    }

    /// The topics of each client: drawn, and the same every time.
    pub(super) fn hold(&self) -> Vec<Vec<usize>> {
        let mut rng = StdRng::seed_from_u64(3);
        let held = self.held.min(self.topics);
        (0..self.clients)
            .map(|_| sample(&mut rng, self.topics, held).into_vec())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Shape;

    #[test]
    fn every_client_holds_what_the_scenario_says_without_repeats() {
        for shape in [Shape::A, Shape::B, Shape::C] {
            let held = shape.hold();
            assert_eq!(held.len(), shape.clients);
            for mut topics in held {
                topics.sort_unstable();
                topics.dedup();
                assert_eq!(topics.len(), shape.held, "{}", shape.name);
                assert!(topics.iter().all(|topic| *topic < shape.topics));
            }
        }
        assert_eq!(Shape::B.hold(), Shape::B.hold());
    }
}
