//! `tickwire bench` measures, and says what it measured.

use std::process::Stdio;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use crate::world::{BINARY, PATIENCE};

/// Measures a fanout with these arguments: exit code, what it printed, and what it complained about.
async fn fanout(arguments: &[&str]) -> Result<(Option<i32>, String, String)> {
    bench("fanout", arguments).await
}

/// Measures anything.
async fn bench(what: &str, arguments: &[&str]) -> Result<(Option<i32>, String, String)> {
    let mut command = Command::new(BINARY);
    command
        .args(["bench", what])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await??;
    let (said, complained) = (output.stdout, output.stderr);
    Ok((
        output.status.code(),
        String::from_utf8(said)?,
        String::from_utf8(complained)?,
    ))
}

#[tokio::test]
async fn every_delivery_is_counted_and_checked() -> Result<()> {
    let small = "--alone --only a --clients 20 --seconds 1 --rounds 1";
    let arguments: Vec<&str> = small.split(' ').collect();
    let (code, said, complained) = fanout(&arguments).await?;
    assert_eq!(code, Some(0), "{complained}");
    assert!(said.contains("machine: "), "{said}");
    let report: Value = serde_json::from_str(said.lines().last().context("a line")?)?;
    let loads = report["loads"].as_array().context("loads")?;
    let encodings: Vec<&Value> = loads.iter().map(|load| &load["encoding"]).collect();
    assert_eq!(encodings, ["json", "msgpack"]);
    for load in loads {
        // 20 clients, 100 ticks a second, one second.
        assert_eq!(load["deliveries"], 2_000, "{load}");
        for nothing in ["holes", "lost", "declared", "closed"] {
            assert_eq!(load[nothing], 0, "{nothing}: {load}");
        }
        let (p99, max) = (load["p99_ms"].as_f64(), load["max_ms"].as_f64());
        assert!(p99 > Some(0.0) && p99 <= max, "{load}");
        assert!(load["bytes_per_delivery"].as_f64() > Some(100.0), "{load}");
    }
    let ratio = &report["ratios"]["A.msgpack_bytes_to_json"];
    assert!(ratio.as_f64() < Some(0.75), "{ratio}");
    Ok(())
}

#[tokio::test]
async fn the_gateway_of_nats_does_the_same_work() -> Result<()> {
    let small = "--beside nats-ws --only a,b --clients 20 --seconds 1 --rounds 1";
    let arguments: Vec<&str> = small.split(' ').collect();
    let (code, said, complained) = fanout(&arguments).await?;
    assert_eq!(code, Some(0), "{complained}");
    let report: Value = serde_json::from_str(said.lines().last().context("a line")?)?;
    let loads = report["loads"].as_array().context("loads")?;
    for scenario in ["A", "B"] {
        let of = |server: &str| {
            let mut same = loads.iter().filter(|load| {
                load["scenario"] == scenario
                    && load["server"] == server
                    && load["encoding"] == "json"
            });
            same.next().context("a load")
        };
        let (ours, gateway) = (of("tickwire")?, of("nats-ws")?);
        // The schedule and who holds what are drawn the same for everybody.
        assert!(ours["deliveries"].as_u64() > Some(0), "{ours}");
        assert_eq!(gateway["deliveries"], ours["deliveries"], "{gateway}");
        for nothing in ["holes", "lost", "duplicates", "declared", "closed"] {
            assert_eq!(gateway[nothing], 0, "{nothing}: {gateway}");
        }
        let sent = gateway["bytes_published"].as_f64();
        assert!(sent > ours["bytes_published"].as_f64(), "{gateway}");
        assert!(gateway["bytes_per_delivery"].as_f64() > sent, "{gateway}");
        let p99 = &report["ratios"][format!("{scenario}.p99_to_nats-ws")];
        assert!(p99.as_f64() > Some(0.0), "{p99}");
    }
    Ok(())
}

#[tokio::test]
async fn those_who_come_and_go_are_answered_and_nobody_misses_anything() -> Result<()> {
    let small = "--alone --only churn --clients 20 --instruments 500 --ops 200 --seconds 1";
    let arguments: Vec<&str> = small.split(' ').collect();
    let (code, said, complained) = fanout(&arguments).await?;
    assert_eq!(code, Some(0), "{complained}");
    let report: Value = serde_json::from_str(said.lines().last().context("a line")?)?;
    let churn = &report["churn"];
    assert_eq!(churn["instruments"], 500, "{churn}");
    // Eight ops a second are allowed to everybody.
    assert_eq!(churn["connections"], 25, "{churn}");
    for something in ["resident_kib", "pattern_ms"] {
        assert!(churn[something].as_f64() > Some(0.0), "{churn}");
    }
    let pairs = churn["pairs"].as_array().context("pairs")?;
    assert_eq!(pairs.len(), 3);
    for pair in pairs {
        assert_eq!(pair["answered_per_second"], 200.0, "{pair}");
        for nothing in ["unanswered", "without_value", "strays", "closed"] {
            assert_eq!(pair[nothing], 0, "{nothing}: {pair}");
        }
        assert!(pair["ack_p50_ms"].as_f64() > Some(0.0), "{pair}");
        assert!(pair["ack_p50_ms"].as_f64() <= pair["ack_p99_ms"].as_f64());
        for load in [&pair["without"], &pair["with"]] {
            // 20 clients, 50 ticks a second, one second.
            assert_eq!(load["deliveries"], 1_000, "{load}");
            for nothing in ["holes", "lost", "declared", "closed"] {
                assert_eq!(load[nothing], 0, "{nothing}: {load}");
            }
        }
    }
    let ratio = &report["ratios"]["churn.p99_to_quiet"];
    assert!(ratio.as_f64() > Some(0.0), "{ratio}");
    Ok(())
}

#[tokio::test]
async fn a_replica_that_was_stopped_is_watched_until_it_has_read_everything() -> Result<()> {
    let small = "--alone --only catch-up --behind 100000 --rounds 1";
    let arguments: Vec<&str> = small.split(' ').collect();
    let (code, said, complained) = fanout(&arguments).await?;
    assert_eq!(code, Some(0), "{complained}");
    let report: Value = serde_json::from_str(said.lines().last().context("a line")?)?;
    let catch_up = &report["catch_ups"][0];
    assert_eq!(catch_up["messages"], 100_000, "{catch_up}");
    for something in ["stopped_s", "first_ms", "cpu_us_per_message"] {
        assert!(catch_up[something].as_f64() > Some(0.0), "{catch_up}");
    }
    assert!(catch_up["whole_ms"].as_f64() >= catch_up["first_ms"].as_f64());
    Ok(())
}

#[tokio::test]
async fn what_an_ingest_stores_is_counted_and_timed() -> Result<()> {
    let arguments = ["--rates", "1000", "--seconds", "1"];
    let (code, said, complained) = bench("ingest", &arguments).await?;
    assert_eq!(code, Some(0), "{complained}");
    let report: Value = serde_json::from_str(said.lines().last().context("a line")?)?;
    let load = &report["loads"][0];
    assert_eq!(load["ticks_per_second"], 1_000, "{load}");
    for something in ["stored", "others", "ack_p50_ms", "ack_p99_ms", "broker_cpu"] {
        assert!(load[something].as_f64() > Some(0.0), "{something}: {load}");
    }
    assert!(load["ack_p50_ms"].as_f64() <= load["ack_p99_ms"].as_f64());
    // How many there are is for the machine to say.
    assert!(load["disturbances"].is_u64(), "{load}");
    Ok(())
}

#[tokio::test]
async fn without_the_broadcaster_the_remedy_is_named() -> Result<()> {
    let (code, _, complained) = fanout(&["--peer", "/no/such/axum-ws"]).await?;
    assert_eq!(code, Some(1));
    for part in ["/no/such/axum-ws", "--example axum-ws", "--alone"] {
        assert!(complained.contains(part), "{complained}");
    }
    Ok(())
}
