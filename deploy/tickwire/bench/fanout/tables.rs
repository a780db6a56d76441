//! The tables that people read.

use super::report::{Load, Report};
use super::{catch_up, churn, slow, storm};

/// Every table that has rows.
pub(super) fn of(report: &Report) -> Vec<String> {
    let named = |load: &Load| format!("{} {}", load.scenario, load.encoding);
    let loads = report.loads.iter().map(|load| row(&named(load), load));
    let ceilings = report.ceilings.iter().flat_map(|(name, ceiling)| {
        let parts = [
            ("highest", &ceiling.highest),
            ("too high", &ceiling.failed),
            ("half", &ceiling.half),
        ];
        let scenario = name.split('.').next().unwrap_or_default().to_owned();
        parts.into_iter().filter_map(move |(part, load)| {
            let load = load.as_ref()?;
            Some(row(&format!("{scenario} {part}"), load))
        })
    });
    let slow = report.slow.iter().flat_map(|pair| {
        [
            row("none slow", &pair.without),
            row(&format!("{} slow", pair.stalled), &pair.with),
        ]
    });
    let churns = report.churn.iter().flat_map(|churn| &churn.pairs);
    let churns = churns.flat_map(|pair| [row("quiet", &pair.without), row("churn", &pair.with)]);
    let ratios = report
        .ratios
        .iter()
        .map(|(name, ratio)| vec![name.clone(), format!("{ratio:.2}")]);
    let all = loads.chain(ceilings).chain(slow).chain(churns);
    let tables: [(&[&str], Vec<Vec<String>>); 7] = [
        (&LOADS, all.collect()),
        (&slow::HEAD, report.slow.iter().map(slow::row).collect()),
        (&storm::HEAD, report.storm.iter().map(storm::row).collect()),
        (
            &churn::HEAD,
            report.churn.iter().flat_map(churn::rows).collect(),
        ),
        (
            &churn::KNOWN_HEAD,
            report.churn.iter().map(churn::known).collect(),
        ),
        (
            &catch_up::HEAD,
            report.catch_ups.iter().map(catch_up::row).collect(),
        ),
        (&["quotient", ""], ratios.collect()),
    ];
    let filled = tables.iter().filter(|(_, rows)| !rows.is_empty());
    filled.map(|(head, rows)| table(head, rows)).collect()
}

/// Columns of equal width; numbers to the right.
fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let cell = |row: &[String], at: usize| row.get(at).cloned().unwrap_or_default();
    let widths: Vec<usize> = head
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let cells = rows.iter().map(|row| cell(row, at).chars().count());
            cells.max().unwrap_or(0).max(name.chars().count())
        })
        .collect();
    let line = |cells: &dyn Fn(usize) -> String| {
        let mut line = String::new();
        for (at, width) in widths.iter().enumerate() {
            let text = cells(at);
            let padded = if at < 2 {
                format!("{text:<width$}  ")
            } else {
                format!("{text:>width$}  ")
            };
            line.push_str(&padded);
        }
        line.trim_end().to_owned()
    };
    let mut lines = vec![line(&|at| {
        head.get(at).copied().unwrap_or_default().to_owned()
    })];
    lines.extend(rows.iter().map(|row| line(&|at| cell(row, at))));
    lines.join("\n")
}

/// The head of a table of loads.
const LOADS: [&str; 16] = [
    "load", "server", "clients", "ticks/s", "k/s", "k/cpu-s", "cpu", "others", "foreign", "p50 ms",
    "p99 ms", "max ms", "B sent", "B/tick", "KiB idle", "whole",
];

/// A row of a table of loads.
fn row(name: &str, load: &Load) -> Vec<String> {
    let missing = load.holes + load.lost + load.declared;
    let whole = if load.is_whole() {
        "yes".to_owned()
    } else {
        format!("{missing} missed, {} closed", load.closed)
    };
    vec![
        name.to_owned(),
        load.server.name().to_owned(),
        load.clients.to_string(),
        load.ticks_per_second.to_string(),
        format!("{:.1}", load.deliveries_per_second / 1_000.0),
        format!("{:.1}", load.kilo_per_cpu_second),
        format!("{:.2}", load.server_cpu),
        format!("{:.2}", load.broker_cpu + load.client_cpu),
        format!("{:.2}", load.foreign_cpu),
        format!("{:.2}", load.p50_ms),
        format!("{:.2}", load.p99_ms),
        format!("{:.1}", load.max_ms),
        format!("{:.0}", load.bytes_published),
        format!("{:.0}", load.bytes_per_delivery),
        format!("{:.1}", load.idle_kib),
        whole,
    ]
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn a_table_lines_up() {
        let rows = [
            vec!["A".to_owned(), "x".to_owned(), "5".to_owned()],
            vec!["longer".to_owned(), "y".to_owned(), "12345".to_owned()],
        ];
        let text = table(&["a", "b", "n"], &rows);
        assert_eq!(text, "a       b      n\nA       x      5\nlonger  y  12345");
    }
}
