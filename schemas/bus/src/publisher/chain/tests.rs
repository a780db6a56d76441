//! The chain against a broker that loses, delays and repeats, and against a zombie.

use proptest::prelude::*;

use super::*;

fn message(id: u64) -> Outgoing {
    Outgoing {
        subject: "tick.trade.x.A".into(),
        id: id.to_string(),
        schema: "trade/1",
        payload: Vec::new().into(),
        collapsible: false,
        queued: None,
    }
}

/// A stream that stores a message only if its expectation holds.
#[derive(Default)]
struct Broker {
    stored: Vec<(u64, u64, String)>,
}

impl Broker {
    fn offer(&mut self, epoch: u64, link: Link, id: &str) -> bool {
        let fits = link.expected.get() == self.stored.len() as u64;
        if fits {
            self.stored.push((epoch, link.count, id.to_owned()));
        }
        fits
    }

    fn fence(&mut self, epoch: u64, fillers: usize) -> StreamSeq {
        for _ in 0..fillers {
            self.stored.push((epoch, 0, "filler".to_owned()));
        }
        StreamSeq::new(self.stored.len() as u64)
    }

    fn count_of(&self, epoch: u64) -> u64 {
        let of_epoch = self.stored.iter().rev().find(|(e, _, _)| *e == epoch);
        of_epoch.map_or(0, |(_, count, _)| *count)
    }

    fn ticks(&self) -> Vec<&str> {
        self.stored
            .iter()
            .map(|(_, _, id)| id.as_str())
            .filter(|id| *id != "filler")
            .collect()
    }
}

proptest! {
    /// Sockets that lose any part of what was sent, late copies from old sockets, lost
    /// acknowledgements: every message is stored once, in order.
    #[test]
    fn exactly_once_in_order(
        script in prop::collection::vec((1_u8..20, any::<u64>(), any::<bool>()), 1..60),
    ) {
        let mut broker = Broker::default();
        let base = broker.fence(1, 9);
        let mut chain = Chain::new(1, base, 8);
        let mut next = 0;
        let mut late: Vec<(Link, String)> = Vec::new();
        for (burst, losses, reconnect) in script {
            for _ in 0..usize::from(burst).min(chain.room()) {
                let outgoing = message(next);
                let id = outgoing.id.clone();
                let link = chain.push(outgoing);
                next += 1;
                if losses >> (next % 64) & 1 == 1 {
                    late.push((link, id));
                } else if broker.offer(1, link, &id) && link.count.is_multiple_of(3) {
                    chain.ack(link.count, chain.seq_of(link.count)).unwrap();
                }
            }
            if reconnect {
                chain.reconcile(broker.count_of(1)).unwrap();
                let again: Vec<_> =
                    chain.unacked().map(|(link, message)| (link, message.id.clone())).collect();
                for (link, id) in again {
                    broker.offer(1, link, &id);
                }
                for (link, id) in late.drain(..) {
                    broker.offer(1, link, &id);
                }
            }
        }
        chain.reconcile(broker.count_of(1)).unwrap();
        let rest: Vec<_> = chain.unacked().map(|(link, message)| (link, message.id.clone())).collect();
        for (link, id) in rest {
            prop_assert!(broker.offer(1, link, &id));
        }
        let expected: Vec<String> = (0..next).map(|id| id.to_string()).collect();
        prop_assert_eq!(broker.ticks(), expected);
    }

    /// Whatever a zombie has sent or still sends, the fence of window + 1 keeps it out.
    #[test]
    fn a_fence_stops_a_zombie(stored in 0_usize..8, successor in 0_u64..40) {
        let mut broker = Broker::default();
        let base = broker.fence(1, 9);
        let mut zombie = Chain::new(1, base, 8);
        let sent: Vec<_> = (0..8).map(|id| zombie.push(message(id))).collect();
        for link in &sent[..stored] {
            broker.offer(1, *link, "zombie");
        }
        let base = broker.fence(2, 9);
        let mut chain = Chain::new(2, base, 8);
        for id in 0..successor {
            let link = chain.push(message(id));
            prop_assert!(broker.offer(2, link, "successor"));
            chain.ack(link.count, chain.seq_of(link.count)).unwrap();
            for link in &sent {
                prop_assert!(!broker.offer(1, *link, "zombie"));
            }
        }
    }
}

#[test]
fn acknowledgements_are_cumulative_and_checked() {
    let mut chain = Chain::new(7, StreamSeq::new(100), 512);
    for id in 0..5 {
        chain.push(message(id));
    }
    assert_eq!(chain.ack(3, StreamSeq::new(103)).unwrap().len(), 3);
    assert_eq!(chain.ack(2, StreamSeq::new(102)).unwrap().len(), 0);
    assert!(matches!(
        chain.ack(4, StreamSeq::new(105)),
        Err(Broken::Elsewhere { .. })
    ));
    assert!(matches!(
        chain.ack(6, StreamSeq::new(106)),
        Err(Broken::Elsewhere { .. })
    ));
    assert_eq!(
        chain.reconcile(2),
        Err(Broken::Lost {
            stored: 2,
            acked: 3
        })
    );
    let links: Vec<_> = chain
        .unacked()
        .map(|(link, _)| (link.count, link.expected.get()))
        .collect();
    assert_eq!(links, [(4, 103), (5, 104)]);
}

#[test]
fn writers_are_read() {
    assert_eq!(parse_writer("12.34"), Some((12, 34)));
    for bad in ["", "1", "1.", ".1", "a.1", "1.-1"] {
        assert_eq!(parse_writer(bad), None);
    }
}
