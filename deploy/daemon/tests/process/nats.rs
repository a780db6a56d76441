//! Logins from arguments and files, and what is shown while no broker can be reached.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use daemon::nats::{self, Login, NatsArgs};
use daemon::ops::Surface;
use tempfile::NamedTempFile;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    nats: NatsArgs,
}

fn parse(arguments: &[&str]) -> Result<NatsArgs, clap::Error> {
    let all = ["test"].iter().chain(arguments);
    Cli::try_parse_from(all).map(|cli| cli.nats)
}

#[test]
fn a_password_comes_from_the_argument_or_a_file() -> Result<()> {
    let anonymous = parse(&[])?.settings("api")?;
    assert_eq!(
        (anonymous.url.as_str(), anonymous.login),
        ("nats://127.0.0.1:4222", Login::Anonymous)
    );
    let expected = Login::Password {
        user: "api".to_owned(),
        password: "s3cret".into(),
    };
    let given = parse(&["--nats-user", "api", "--nats-password", "s3cret"])?;
    assert_eq!(given.settings("api")?.login, expected);
    let mut file = NamedTempFile::new()?;
    writeln!(file, "s3cret")?;
    let path = file.path().display().to_string();
    let filed = parse(&["--nats-user", "api", "--nats-password-file", &path])?;
    assert_eq!(filed.settings("api")?.login, expected);
    assert!(!format!("{given:?} {expected:?}").contains("s3cret"));
    Ok(())
}

#[test]
fn logins_that_cannot_work_are_refused() -> Result<()> {
    assert!(
        parse(&["--nats-user", "api"]).is_err(),
        "a user without a password"
    );
    let absent = parse(&["--nats-user", "api", "--nats-password-file", "/no/such"])?;
    let refusal = format!("{:#}", absent.settings("api").unwrap_err());
    assert!(refusal.starts_with("/no/such cannot be read"), "{refusal}");
    let both = parse(&[
        "--nats-user",
        "a",
        "--nats-password",
        "b",
        "--nats-creds-file",
        "c",
    ]);
    assert!(both.is_err(), "two ways to log in");
    Ok(())
}

#[test]
fn a_login_in_the_address_is_refused_and_not_repeated() -> Result<()> {
    for url in [
        "nats://me:s3cret@10.0.0.1:4222",
        "tls://s3cret@broker",
        "me:s3cret@broker",
        "nats://10.0.0.1, nats://me:s3cret@10.0.0.2",
    ] {
        let refusal = parse(&["--nats-url", url])?.settings("api").unwrap_err();
        let refusal = format!("{refusal:#}");
        for part in [
            "--nats-url",
            "--nats-user",
            "--nats-password-file",
            "--nats-creds-file",
        ] {
            assert!(refusal.contains(part), "{refusal}");
        }
        assert!(!refusal.contains("s3cret"), "{refusal}");
    }
    let urls = "nats://10.0.0.1:4222, tls://broker";
    assert_eq!(parse(&["--nats-url", urls])?.settings("api")?.url, urls);
    Ok(())
}

#[tokio::test]
async fn credentials_that_are_none_end_the_attempt() -> Result<()> {
    let mut file = NamedTempFile::new()?;
    writeln!(file, "not credentials")?;
    let path = file.path().display().to_string();
    let settings = parse(&["--nats-creds-file", &path])?.settings("api")?;
    let surface = Surface::new();
    let connecting = nats::connect(&settings, &surface);
    let refusal = timeout(Duration::from_secs(30), connecting).await?.err();
    let refusal = refusal
        .map(|error| format!("{error:#}"))
        .unwrap_or_default();
    assert!(refusal.contains("credentials are not usable"), "{refusal}");
    assert!(!refusal.contains("not credentials"), "{refusal}");
    Ok(())
}

#[tokio::test]
async fn while_no_broker_answers_the_role_is_not_ready_and_says_why() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("nats://{}", listener.local_addr()?);
    drop(listener);
    let settings = parse(&["--nats-url", &url])?.settings("fanout")?;
    let surface = Surface::new();
    let reason = async {
        loop {
            let report = surface.health.report();
            match report
                .checks
                .get("nats.fanout")
                .and_then(|check| check.reason.clone())
            {
                Some(reason) if reason != "starting" => return reason,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    tokio::select! {
        _ = nats::connect(&settings, &surface) => panic!("there is no broker"),
        reason = timeout(Duration::from_secs(30), reason) => {
            let reason = reason?;
            assert!(reason.starts_with("the broker cannot be reached: "), "{reason}");
        }
    }
    Ok(())
}

fn server() -> PathBuf {
    let named = std::env::var_os("TICKWIRE_NATS_SERVER_BIN").map(PathBuf::from);
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/nats-server");
    let server = named.unwrap_or(installed);
    assert!(
        server.exists(),
        "there is no nats-server: run `make setup`, or set TICKWIRE_NATS_SERVER_BIN"
    );
    server
}

#[tokio::test]
async fn an_event_that_was_lost_does_not_decide_readiness() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut broker = Command::new(server())
        .args(["-a", "127.0.0.1", "-p", "-1", "--ports_file_dir"])
        .arg(dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let url = timeout(Duration::from_secs(30), listening(dir.path())).await?;
    let settings = parse(&["--nats-url", &url])?.settings("fanout")?;
    let surface = Surface::new();
    let cx = timeout(Duration::from_secs(30), nats::connect(&settings, &surface)).await??;
    let check = surface.health.check("nats.fanout");
    check.down("what an event said whose successor was lost");
    assert!(surface.health.report().ready);
    broker.kill().await?;
    let gone = async {
        while cx.client.connection_state() == async_nats::connection::State::Connected {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(30), gone).await?;
    check.ok();
    let report = surface.health.report();
    let reason = report.checks["nats.fanout"].reason.as_deref();
    assert_eq!(
        (report.ready, reason),
        (false, Some("disconnected from the broker"))
    );
    Ok(())
}

/// Where the broker that tells its ports in this folder listens.
async fn listening(dir: &Path) -> String {
    loop {
        let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
        for file in files {
            let text = std::fs::read_to_string(file.path()).unwrap_or_default();
            let url = text.split('"').find(|part| part.starts_with("nats://"));
            if let Some(url) = url {
                return url.to_owned();
            }
        }
        tokio::task::yield_now().await;
    }
}
