//! Who can log in, what that allows on a real broker, and who can read the configuration.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use bus::provision::StreamSpec;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::{FILE, Logins, USERS, render, write};

fn spec(name: &str) -> StreamSpec {
    StreamSpec {
        venues: Vec::new(),
        name: name.to_owned(),
        max_age_secs: 60,
        max_bytes: 1 << 20,
        replicas: 1,
    }
}

#[test]
fn every_user_has_a_password_of_its_own() {
    let logins = Logins::random(4000);
    let text = render(&spec("OTHER"), &logins);
    for user in USERS {
        let name = format!("TICKWIRE_{}_PASSWORD", user.to_uppercase());
        assert!(
            text.contains(&format!("password: ${name},")),
            "{user} cannot log in"
        );
        assert_eq!(text.matches(&format!("{name}: \"")).count(), 1);
    }
    let distinct: BTreeSet<_> = logins
        .passwords
        .values()
        .map(daemon::nats::Secret::reveal)
        .collect();
    assert_eq!(distinct.len(), USERS.len());
    assert!(text.contains("$JS.API.STREAM.INFO.OTHER") && !text.contains("TICKS\""));
    assert!(!format!("{logins:?}").contains(distinct.first().unwrap()));
}

#[test]
fn only_the_owner_can_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let nats = dir.path().join("nats");
    write(&nats, &spec("A"), &Logins::random(4000)).unwrap();
    write(&nats, &spec("A"), &Logins::random(4001)).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&nats), 0o700);
    assert_eq!(mode(&nats.join(FILE)), 0o600);
    assert!(
        std::fs::read_to_string(nats.join(FILE))
            .unwrap()
            .contains("127.0.0.1:4001")
    );
}

/// Asks a broker, as its protocol has it, which of these subjects a user may publish to.
async fn denied(port: u16, login: &str, subjects: &[&str]) -> Result<BTreeSet<String>> {
    let mut socket = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await?);
    let mut talk = format!("CONNECT {{\"verbose\":false,\"pedantic\":false{login}}}\r\n");
    for subject in subjects {
        talk.extend(["PUB ", subject, " 0\r\n\r\n"]);
    }
    talk.push_str("PING\r\n");
    socket.write_all(talk.as_bytes()).await?;
    let (mut denied, mut line) = (BTreeSet::new(), String::new());
    loop {
        line.clear();
        let read = timeout(Duration::from_secs(30), socket.read_line(&mut line)).await??;
        anyhow::ensure!(
            read > 0 && !line.contains("Authorization Violation"),
            "refused: {line}"
        );
        if line.starts_with("PONG") {
            return Ok(denied);
        }
        if line.starts_with("-ERR 'Permissions Violation") {
            denied.insert(line.split('"').nth(1).context("a subject")?.to_owned());
        }
    }
}

const TICK: &str = "tick.trade.sim.X";
const LEASE: &str = "$KV.leases.TICKS";
const READ: &str = "$JS.API.DIRECT.GET.TICKS";
const DELETE: &str = "$JS.API.STREAM.DELETE.TICKS";
const RECORDER: &str = "$JS.API.CONSUMER.DELETE.TICKS.recorder";
const NEXT: &str = "$JS.API.CONSUMER.MSG.NEXT.TICKS.recorder";

/// A broker with the configuration as `up` writes it; it ends with the handle.
async fn broker(dir: &Path) -> Result<(Child, Logins)> {
    let port = crate::broker::free_port()?;
    let logins = Logins::random(port);
    write(dir, &spec("TICKS"), &logins)?;
    let places = crate::broker::binary::Places {
        named: std::env::var_os("TICKWIRE_NATS_SERVER_BIN").map(Into::into),
        search_path: std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect(),
        installed: vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/nats-server")],
    };
    let server = Command::new(places.find().await?.path)
        .args(["-c", FILE])
        .current_dir(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let listening = async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(30), listening).await?;
    Ok((server, logins))
}

#[tokio::test]
async fn every_role_may_do_its_work_and_no_more() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (mut server, logins) = broker(dir.path()).await?;
    let port = logins.port;
    let all = [TICK, LEASE, READ, DELETE, RECORDER, NEXT];
    let rights = [
        ("ingest", vec![TICK, LEASE, READ]),
        ("fanout", vec![READ]),
        ("recorder", vec![NEXT]),
        ("api", vec![READ]),
        ("reader", vec![READ]),
        ("provision", vec![]),
    ];
    for (user, allowed) in rights {
        let password = logins.passwords[user].reveal();
        let login = format!(",\"user\":\"{user}\",\"pass\":\"{password}\"");
        let expected: BTreeSet<String> = all
            .iter()
            .filter(|one| !allowed.contains(one))
            .map(ToString::to_string)
            .collect();
        assert_eq!(denied(port, &login, &all).await?, expected, "{user}");
    }
    // Who does not log in is a reader.
    assert!(!denied(port, "", &all).await?.contains(READ));
    let wrong = ",\"user\":\"ingest\",\"pass\":\"guess\"";
    assert!(denied(port, wrong, &all).await.is_err());
    server.kill().await?;
    Ok(())
}

mod answers;
