//! Ours to the others', in the same run: quotients that hold on any machine.

use std::collections::BTreeMap;

use super::contender::Contender;
use super::report::{Ceiling, ChurnPair, Load, median, quotient};

/// A figure of a load.
type Figure = fn(&Load) -> f64;

/// Quotients of medians over the rounds of a scenario.
pub(super) fn loads(loads: &[Load], scenario: &str) -> Vec<(String, f64)> {
    let of = |server: Contender, encoding: &str, figure: Figure| {
        let same = loads.iter().filter(|load| {
            load.scenario == scenario && load.server == server && load.encoding == encoding
        });
        median(same.map(figure).collect())
    };
    let deliveries: Figure = |load| load.kilo_per_cpu_second;
    let idle: Figure = |load| load.idle_kib;
    let bytes: Figure = |load| load.bytes_per_delivery;
    let p99: Figure = |load| load.p99_ms;
    let ours = Contender::Tickwire;
    let mut pairs = Vec::new();
    for peer in Contender::PEERS {
        for (name, figure) in [
            ("deliveries_per_cpu", deliveries),
            ("idle_memory", idle),
            ("p99", p99),
        ] {
            let name = format!("{name}_to_{}", peer.name());
            pairs.push((name, of(ours, "json", figure), of(peer, "json", figure)));
        }
    }
    for (name, figure) in [
        ("msgpack_deliveries_per_cpu_to_json", deliveries),
        ("msgpack_bytes_to_json", bytes),
    ] {
        let (msgpack, json) = (of(ours, "msgpack", figure), of(ours, "json", figure));
        pairs.push((name.to_owned(), msgpack, json));
    }
    // Who was not measured has no figure.
    let measured = pairs
        .into_iter()
        .filter(|(_, one, other)| *one > 0.0 && *other > 0.0);
    measured
        .map(|(name, one, other)| (format!("{scenario}.{name}"), quotient(one, other)))
        .collect()
}

/// Quotients of the highest rates of a scenario. With a peer that never failed there is none: its
/// highest rate is not known. Ours is at least so high.
pub(super) fn ceilings(ceilings: &BTreeMap<String, Ceiling>, scenario: &str) -> Vec<(String, f64)> {
    let highest = |contender: Contender| {
        let ceiling = ceilings.get(&name(scenario, contender))?;
        Some(ceiling.highest.as_ref()?.deliveries_per_second)
    };
    let to_peer = |peer: Contender| {
        ceilings.get(&name(scenario, peer))?.failed.as_ref()?;
        let ratio = quotient(highest(Contender::Tickwire)?, highest(peer)?);
        Some((format!("{scenario}.highest_to_{}", peer.name()), ratio))
    };
    Contender::PEERS.into_iter().filter_map(to_peer).collect()
}

/// Medians of the quotients of latencies with churn and without.
pub(super) fn churn(pairs: &[ChurnPair]) -> Vec<(String, f64)> {
    let figures: [(&str, Figure); 2] = [("p50", |load| load.p50_ms), ("p99", |load| load.p99_ms)];
    let of = |(name, figure): (&str, Figure)| {
        let ratios = pairs
            .iter()
            .map(|pair| quotient(figure(&pair.with), figure(&pair.without)));
        (format!("churn.{name}_to_quiet"), median(ratios.collect()))
    };
    figures.map(of).into()
}

/// What a ceiling is called.
pub(super) fn name(scenario: &str, contender: Contender) -> String {
    format!("{scenario}.{}", contender.name())
}

#[cfg(test)]
mod tests {
    use super::{ceilings, loads, name};
    use crate::bench::fanout::contender::Contender;
    use crate::bench::fanout::report::{Ceiling, Load};

    fn load(server: Contender, encoding: &'static str, kilo_per_cpu_second: f64) -> Load {
        Load {
            scenario: "A",
            server,
            encoding,
            kilo_per_cpu_second,
            deliveries_per_second: kilo_per_cpu_second,
            ..Load::none()
        }
    }

    #[test]
    fn medians_are_compared_with_whoever_was_measured() {
        let measured = [
            load(Contender::Tickwire, "json", 100.0),
            load(Contender::NatsWs, "json", 50.0),
            load(Contender::Tickwire, "msgpack", 150.0),
            load(Contender::Tickwire, "json", 200.0),
            load(Contender::NatsWs, "json", 70.0),
        ];
        let expected = [
            ("A.deliveries_per_cpu_to_nats-ws".to_owned(), 2.5),
            ("A.msgpack_deliveries_per_cpu_to_json".to_owned(), 1.0),
        ];
        assert_eq!(loads(&measured, "A"), expected);
        assert_eq!(loads(&measured, "B"), []);
    }

    #[test]
    fn ceilings_are_compared_where_the_peers_was_found() {
        let ceiling = |contender, rate, failed: Option<f64>| {
            let ceiling = Ceiling {
                highest: Some(load(contender, "json", rate)),
                failed: failed.map(|rate| load(contender, "json", rate)),
                half: None,
            };
            (name("A", contender), ceiling)
        };
        let measured = [
            ceiling(Contender::Tickwire, 900.0, None),
            ceiling(Contender::Axum, 100.0, None),
            ceiling(Contender::NatsWs, 300.0, Some(400.0)),
        ];
        let expected = [("A.highest_to_nats-ws".to_owned(), 3.0)];
        assert_eq!(ceilings(&measured.into(), "A"), expected);
    }
}
