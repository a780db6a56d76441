//! Signals against this very process: the first cancels the token and leaves the process alone.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use daemon::signals::Signals;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn the_first_signal_asks_for_a_drain() -> Result<()> {
    let stop = CancellationToken::new();
    let signals = Signals::catch()?;
    let kill = Command::new("kill")
        .args(["-TERM", &std::process::id().to_string()])
        .status()?;
    assert!(kill.success());
    let cancelled = async {
        tokio::select! {
            never = signals.relay(stop.clone()) => match never {},
            () = stop.cancelled() => {}
        }
    };
    timeout(Duration::from_secs(30), cancelled).await?;
    Ok(())
}
