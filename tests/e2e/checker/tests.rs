//! The judge is judged: every kind of violation is found, and nothing else.

use super::*;
use crate::record::Wish;

const TOPIC: &str = "quote.sim.A";

fn history(seqs: &[u64]) -> History {
    let all = seqs.iter().map(|seq| (StreamSeq::new(*seq), *seq));
    let messages = Messages {
        kind: Kind::Quote,
        all: all.collect(),
    };
    History {
        topics: [(TOPIC.to_owned(), messages)].into(),
        first: StreamSeq::new(2),
        last: StreamSeq::new(9),
        ids: BTreeMap::new(),
    }
}

fn seq(seq: u64) -> StreamSeq {
    StreamSeq::new(seq)
}

fn tick(s: u64, p: u64) -> Fact {
    Fact::Tick {
        topic: 0,
        s: seq(s),
        p: seq(p),
        digest: s,
    }
}

fn found(conflate: &'static str, facts: Vec<Fact>) -> Findings {
    let start = Fact::Start {
        text: TOPIC.to_owned(),
        pos: seq(2),
    };
    let end = Fact::Cursor(seq(9));
    let facts = [start].into_iter().chain(facts).chain([end]);
    let record = Record {
        wishes: vec![Wish {
            topics: vec![TOPIC.to_owned()],
            conflate,
            begin: false,
        }],
        topics: vec![TOPIC.to_owned()],
        facts: facts.map(|fact| (0, fact)).collect(),
        ..Record::default()
    };
    let mut findings = Findings::default();
    judge(&[history(&[2, 4, 6, 9])], &record, &mut findings).unwrap();
    findings
}

fn counts(findings: &Findings) -> (u64, u64, u64, u64) {
    (
        findings.missing,
        findings.double,
        findings.disordered,
        findings.false_words,
    )
}

#[test]
fn what_is_whole_is_clean() {
    let whole = found(
        "none",
        vec![tick(4, 2), tick(6, 5), Fact::Cursor(seq(8)), tick(9, 6)],
    );
    assert!(whole.is_clean(), "{whole}");
    assert_eq!(whole.ticks, 3);
    let skip = Fact::Skip {
        topic: 0,
        to: seq(8),
        count: Some(2),
    };
    let skipped = found("auto", vec![skip, tick(9, 6)]);
    assert!(skipped.is_clean(), "{skipped}");
    assert_eq!(skipped.skipped, 2);
    let value = Fact::Value {
        topic: 0,
        s: seq(6),
        digest: 6,
    };
    assert!(found("auto", vec![value, tick(9, 6)]).is_clean());
}

#[test]
fn every_violation_is_found() {
    let skip = |count| Fact::Skip {
        topic: 0,
        to: seq(8),
        count,
    };
    let gap = |to| Fact::Gap {
        text: TOPIC.to_owned(),
        from: seq(1),
        to: seq(to),
        why: GapReason::Retention,
    };
    let value = |at| Fact::Value {
        topic: 0,
        s: seq(at),
        digest: 9,
    };
    let reset = Fact::Reset {
        of: None,
        epoch: "1-0".parse().unwrap(),
    };
    let cases = [
        (
            "a tick is missing",
            vec![tick(4, 2), tick(9, 6)],
            (1, 0, 0, 0),
        ),
        (
            "the tail is missing",
            vec![tick(4, 2), tick(6, 4)],
            (1, 0, 0, 0),
        ),
        (
            "a cursor promises too much",
            vec![tick(4, 2), Fact::Cursor(seq(6)), tick(9, 6)],
            (1, 0, 0, 0),
        ),
        (
            "twice",
            vec![tick(4, 2), tick(4, 2), tick(6, 4), tick(9, 6)],
            (0, 1, 0, 0),
        ),
        (
            "out of order",
            vec![tick(6, 5), tick(4, 2), tick(9, 6)],
            (1, 0, 1, 0),
        ),
        (
            "a predecessor is denied",
            vec![tick(4, 1), tick(6, 4), tick(9, 6)],
            (0, 0, 0, 1),
        ),
        (
            "a skip of what must not be conflated",
            vec![skip(Some(2)), tick(9, 6)],
            (0, 0, 0, 1),
        ),
        (
            "a gap over what is retained",
            vec![gap(6), tick(9, 6)],
            (0, 0, 0, 1),
        ),
        (
            "a value of another message",
            vec![tick(4, 2), value(6), tick(9, 6)],
            (0, 0, 0, 1),
        ),
        (
            "a value that hides a tick",
            vec![tick(4, 2), value(9)],
            (1, 0, 0, 0),
        ),
        (
            "a reset in one history",
            vec![reset, tick(4, 2), tick(6, 4), tick(9, 6)],
            (0, 0, 0, 1),
        ),
    ];
    for (what, facts, expected) in cases {
        let findings = found("none", facts);
        assert_eq!(counts(&findings), expected, "{what}: {findings}");
    }
    let findings = found("auto", vec![skip(Some(1)), tick(9, 6)]);
    assert_eq!(counts(&findings), (0, 0, 0, 1), "a wrong count: {findings}");
}
