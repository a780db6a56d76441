//! What is asked for of that which is older than the ring, and of what.

use async_nats::HeaderMap;
use bus::get::Found;

use super::*;
use crate::repair::{Page, Scope};
use crate::session::{Ask, Crowd};

/// A store without a ring: whatever is behind a client's position must be asked for.
fn forgetful() -> Arc<Store> {
    let store = Arc::new(Store::new("T", StreamNo::FIRST, 1));
    let origin = StreamSeq::ZERO;
    store.write().begin(EPOCH, origin.next(), origin);
    store
}

fn found(store: &Store, symbol: &str, seq: u64) -> Found {
    let live = publish(store, "trade", symbol, seq);
    Found {
        subject: live.topic.subject.to_string(),
        seq: live.seq,
        time: live.time,
        headers: HeaderMap::new(),
        payload: live.payload.clone(),
    }
}

/// A client comes back that has each topic up to a position; what it is told.
fn come_back(store: &Arc<Store>, positions: &[(String, u64)]) -> (Desk<1>, String) {
    let mut desk = Desk::new([Arc::clone(store)]);
    let s = positions
        .iter()
        .map(|(topic, pos)| (topic.clone(), StreamSeq::new(*pos)))
        .collect();
    let (e, c) = (EPOCH, None);
    desk.subscribe(Subscribe {
        topics: positions.iter().map(|(topic, _)| topic.clone()).collect(),
        from: [("T".to_owned(), From { e, c, s })].into(),
        ..Subscribe::default()
    });
    let said = desk.told((ROOM, desk.now));
    (desk, said)
}

/// All that it asks for, if so many requests of others wait.
fn all_asks(desk: &mut Desk<1>, waiting: usize) -> Vec<Ask> {
    std::iter::from_fn(|| desk.session.ask(waiting)).collect()
}

fn is_of_stream(ask: &Ask) -> bool {
    matches!(ask.of, Scope::Stream(_))
}

fn crowd() -> Vec<String> {
    (0..LIMITS.crowd.most).map(|at| format!("S{at}")).collect()
}

fn behind(symbols: &[String], pos: u64) -> Vec<(String, u64)> {
    let topics = symbols.iter().map(|symbol| format!("trade.x.{symbol}"));
    topics.map(|topic| (topic, pos)).collect()
}

/// Whatever the ring does not have of many topics is asked for once, and of a few one by one.
#[test]
fn whoever_lacks_many_topics_reads_the_stream() {
    let store = forgetful();
    let symbols = crowd();
    // Far enough for the largest crowd.
    let stored = (1..)
        .map(|number| number * 100)
        .zip(symbols.iter().cycle().take(2 * LIMITS.crowd.most));
    let all: Vec<Found> = stored
        .map(|(seq, symbol)| found(&store, symbol, seq))
        .collect();
    for (count, is_together) in [(LIMITS.crowd.most - 1, false), (LIMITS.crowd.most, true)] {
        let (mut desk, mut said) = come_back(&store, &behind(&symbols[..count], 0));
        let asks = all_asks(&mut desk, 0);
        assert_eq!(asks.len(), if is_together { 1 } else { count });
        assert!(
            asks.iter().all(|ask| is_of_stream(ask) == is_together),
            "{asks:?}"
        );
        for ask in asks {
            let known = store.read();
            let mut all = all.clone();
            if let Scope::Topic(topic) = ask.of {
                all.retain(|found| *found.subject == *known.info(topic).unwrap().subject);
            }
            drop(known);
            let page = Page::new(ask.after, None, all, false);
            desk.session.answered(&ask, Arc::new(page));
        }
        said += &desk.told((ROOM, desk.now));
        assert_eq!(said.matches(r#""t":"d""#).count(), 2 * count, "{said}");
        assert!(desk.session.ask(0).is_none(), "nothing is left to ask for");
    }
}

/// Whoever is nearly there reads what all others read who come back, and so does who would make many wait.
#[test]
fn it_takes_fewer_the_less_they_lack_and_the_more_wait() {
    const FIRST: u64 = 10_000;
    let Crowd { most, stretch } = LIMITS.crowd;
    for (lacking, waiting, needed) in [
        (1, 0, 1),
        (stretch - 1, 0, 1),
        (stretch, 0, 2),
        (2 * stretch, 0, 3),
        (100 * stretch, 0, most),
        (100 * stretch, 7, most),
        (stretch, 8, 1),
        (100 * stretch, 100, 1),
    ] {
        let store = forgetful();
        let symbols = crowd();
        for (seq, symbol) in (FIRST..).zip(&symbols) {
            publish(&store, "trade", symbol, seq);
        }
        let all = behind(&symbols, FIRST - lacking);
        for count in 1..=most {
            let (mut desk, _) = come_back(&store, &all[..count]);
            let asks = all_asks(&mut desk, waiting);
            let is_together = asks.iter().any(is_of_stream);
            assert_eq!(
                is_together,
                count >= needed,
                "{count} lack {lacking}: {asks:?}"
            );
        }
    }
}

/// Those who read the stream together may be far behind: whoever is not does not wait for them.
#[test]
fn a_crowd_hides_nobody_far_above_it() {
    let store = forgetful();
    let symbols = crowd();
    for (seq, symbol) in (1..).zip(&symbols) {
        publish(&store, "trade", symbol, seq);
    }
    publish(&store, "trade", "FAR", 1_000_000);
    let mut positions = behind(&symbols, 0);
    positions.push(("trade.x.FAR".to_owned(), 900_000));
    let (mut desk, _) = come_back(&store, &positions);
    let asks = all_asks(&mut desk, 0);
    let asked: Vec<(bool, u64)> = asks
        .iter()
        .map(|ask| (is_of_stream(ask), ask.after.get()))
        .collect();
    assert_eq!(asked, [(true, 0), (false, 900_000)]);
    assert!(!desk.session.wants(), "all of it is asked for");
}

/// A page that has nothing for those who wait is the last of its kind.
#[test]
fn rare_messages_are_asked_for_by_their_topics() {
    let store = forgetful();
    let symbols = crowd();
    let others = (1..=50).map(|seq| found(&store, "OTHER", seq)).collect();
    for (seq, symbol) in (1_000..).zip(&symbols) {
        publish(&store, "trade", symbol, seq);
    }
    let (mut desk, _) = come_back(&store, &behind(&symbols, 0));
    let asks = all_asks(&mut desk, 0);
    let [ask] = asks[..] else {
        panic!("{asks:?}");
    };
    let page = Page::new(ask.after, None, others, false);
    desk.session.answered(&ask, Arc::new(page));
    let asks = all_asks(&mut desk, 0);
    assert_eq!(asks.len(), symbols.len());
    for ask in asks {
        assert!(!is_of_stream(&ask) && ask.after.get() == 50, "{ask:?}");
    }
}

/// What was asked for is nobody's business any more once all have left who waited.
#[test]
fn nobody_waits_for_a_page_whose_topics_were_let_go() {
    let store = forgetful();
    let symbols = crowd();
    for (seq, symbol) in (1..).zip(&symbols) {
        publish(&store, "trade", symbol, seq);
    }
    let positions = behind(&symbols, 0);
    let (mut desk, _) = come_back(&store, &positions);
    let asks = all_asks(&mut desk, 0);
    let [ask] = asks[..] else {
        panic!("{asks:?}");
    };
    assert!(desk.session.awaits(&ask));
    desk.carry_out(ClientOp::Unsubscribe {
        id: None,
        topics: positions.into_iter().map(|(topic, _)| topic).collect(),
    });
    assert!(!desk.session.awaits(&ask));
    assert!(desk.session.ask(0).is_none());
}

/// A page may have been read before retention took what a new topic had there: the client, who has heard
/// of no position of it, is told of that first.
#[test]
fn a_topic_that_was_born_behind_what_expired_joins_a_page_from_before() {
    let store = forgetful();
    let old = found(&store, "OLD", 10);
    let (mut desk, _) = come_back(&store, &[("trade.>".to_owned(), 0)]);
    let asks = all_asks(&mut desk, 0);
    let [ask] = asks[..] else {
        panic!("{asks:?}");
    };
    assert!(is_of_stream(&ask));
    let span = (StreamSeq::new(11), StreamSeq::new(54));
    store.write().trimmed(span.1);
    let told = desk.session.trimmed(&store.read(), span, desk.now);
    told.unwrap();
    let new = publish(&store, "trade", "NEW", 59);
    desk.session.born(&new.topic, new.seq, &mut desk.indexes[0]);
    desk.session.applied(StreamNo::FIRST, new.seq);
    let lost = Found {
        subject: new.topic.subject.to_string(),
        seq: StreamSeq::new(32),
        ..old.clone()
    };
    let page = Page::new(ask.after, Some(StreamSeq::new(9)), vec![old, lost], false);
    desk.session.answered(&ask, Arc::new(page));
    let said = desk.told((ROOM, desk.now));
    let of_new = said.find(r#""c":"trade.x.NEW""#).map(|at| &said[at..]);
    let gap = r#""c":"trade.x.NEW","from":11,"to":54,"#;
    assert!(of_new.is_some_and(|said| said.starts_with(gap)), "{said}");
}
