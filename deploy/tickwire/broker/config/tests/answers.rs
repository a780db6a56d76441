//! Where the broker's answers go: a reader gets all that it may ask for, and nothing goes elsewhere.

use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::jetstream::{self, consumer::PullConsumer};
use async_nats::{Client, ConnectOptions};
use bus::get::{last_for_subject, next_by_subject, snapshot};
use bus::stream::{self, StreamState};
use futures_util::StreamExt;
use schemas::position::StreamSeq;
use tokio::time::timeout;

use super::{LEASE, Logins, READ, broker, spec};

const INFO: &str = "$JS.API.STREAM.INFO.TICKS";
const EPOCH: &str = "$KV.epochs.TICKS";
const EMPTY: &str = "tick.fence.A";
const PATIENCE: Duration = Duration::from_secs(30);

async fn login(logins: &Logins, user: &str) -> Result<Client> {
    let password = logins.passwords[user].reveal().to_owned();
    let options = ConnectOptions::with_user_and_password(user.to_owned(), password);
    let options = options.custom_inbox_prefix(format!("_INBOX_{user}"));
    Ok(options.connect(logins.url()).await?)
}

async fn store(client: &Client, subject: String, payload: String) -> Result<u64> {
    let context = jetstream::new(client.clone());
    Ok(context
        .publish(subject, payload.into())
        .await?
        .await?
        .sequence)
}

/// A stream with a hundred symbols, and an empty message such as fences are made of.
async fn filled(logins: &Logins) -> Result<()> {
    bus::provision::provision(&login(logins, "provision").await?, &spec("TICKS")).await?;
    let ingest = login(logins, "ingest").await?;
    for n in 0..200 {
        let subject = format!("tick.trade.sim.S{}", n % 100);
        store(&ingest, subject, n.to_string()).await?;
    }
    store(&ingest, EMPTY.to_owned(), String::new()).await?;
    Ok(())
}

/// What the broker stores, once everything that was sent before has been taken.
async fn settled(logins: &Logins) -> Result<Vec<StreamState>> {
    let ingest = login(logins, "ingest").await?;
    for subject in ["tick.trade.sim.LAST", "$KV.leases.LAST", "$KV.epochs.LAST"] {
        store(&ingest, subject.to_owned(), "last".to_owned()).await?;
    }
    let operator = login(logins, "provision").await?;
    let mut states = Vec::new();
    for name in ["TICKS", "KV_leases", "KV_epochs"] {
        states.push(stream::state(&operator, name).await?);
    }
    Ok(states)
}

/// Asks for everything that may be asked for, with the answers to go to `target`.
async fn divert(client: &Client, target: &str) -> Result<()> {
    for body in [
        "{\"last_by_subj\":\"tick.trade.sim.S1\"}".to_owned(),
        format!("{{\"last_by_subj\":\"{EMPTY}\"}}"),
        "{\"last_by_subj\":\"tick.none\"}".to_owned(),
    ] {
        client
            .publish_with_reply(READ, target.to_owned(), body.into())
            .await?;
    }
    for subject in [INFO.to_owned(), format!("{READ}.{EMPTY}")] {
        client
            .publish_with_reply(subject, target.to_owned(), "".into())
            .await?;
    }
    Ok(client.flush().await?)
}

#[tokio::test]
async fn who_may_only_read_cannot_have_answers_stored_or_obeyed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (mut server, logins) = broker(dir.path()).await?;
    filled(&logins).await?;
    let recorder = jetstream::new(login(&logins, "recorder").await?);
    let mut consumer: PullConsumer = recorder
        .get_consumer_from_stream("recorder", "TICKS")
        .await
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    let mut fetched = consumer.fetch().max_messages(1).messages().await?;
    let unacknowledged = fetched.next().await.context("a message")?;
    let unacknowledged = unacknowledged.map_err(|error| anyhow::anyhow!("{error}"))?;
    let ack = unacknowledged
        .reply
        .clone()
        .context("where to acknowledge")?;
    let before = settled(&logins).await?;

    let anonymous = async_nats::connect(logins.url()).await?;
    let readers = [
        anonymous,
        login(&logins, "reader").await?,
        login(&logins, "api").await?,
    ];
    for reader in &readers {
        for target in [
            "tick.trade.evil.B",
            LEASE,
            EPOCH,
            "$KV.auth.evil",
            "$JS.API.STREAM.DELETE.TICKS",
            "$JS.API.STREAM.DELETE.KV_leases",
            "$JS.API.CONSUMER.DELETE.TICKS.recorder",
            ack.as_str(),
        ] {
            divert(reader, target).await?;
        }
        // The broker answers in order: what was asked before has been answered.
        let subject = "tick.trade.sim.S1".to_owned();
        assert_eq!(snapshot(reader, "TICKS", &[subject]).await?.found.len(), 1);
    }

    let after = settled(&logins).await?;
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(after.created, before.created);
        assert_eq!(after.last_seq, before.last_seq.next(), "only the last one");
    }
    let info = consumer.info().await?;
    assert_eq!(info.num_ack_pending, 1, "somebody acknowledged");
    server.kill().await?;
    Ok(())
}

#[tokio::test]
async fn readers_get_all_answers_and_what_is_live() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (mut server, logins) = broker(dir.path()).await?;
    filled(&logins).await?;
    let subjects: Vec<String> = (0..100).map(|n| format!("tick.trade.sim.S{n}")).collect();
    let anonymous = async_nats::connect(logins.url()).await?;
    let readers = [anonymous, login(&logins, "reader").await?];
    for reader in &readers {
        let mut live = reader.subscribe("live.>").await?;
        reader.flush().await?;
        let state = stream::state(reader, "TICKS").await?;
        let all = snapshot(reader, "TICKS", &subjects).await?;
        assert_eq!(all.found.len(), 100);
        assert_eq!(all.up_to, Some(state.last_seq));
        let last = last_for_subject(reader, "TICKS", "tick.trade.sim.S7").await?;
        assert_eq!(last.map(|last| last.payload), Some("107".into()));
        let none = last_for_subject(reader, "TICKS", "tick.none").await?;
        assert!(none.is_none());
        let page = next_by_subject(reader, "TICKS", "tick.>", StreamSeq::new(11), 50).await?;
        let seqs: Vec<u64> = page.iter().map(|found| found.seq.get()).collect();
        assert_eq!(seqs, (11..61).collect::<Vec<_>>());

        let ingest = login(&logins, "ingest").await?;
        let seq = store(&ingest, "tick.trade.live.X".to_owned(), "now".to_owned()).await?;
        let told = timeout(PATIENCE, live.next()).await?.context("a tick")?;
        assert_eq!(told.subject.as_str(), "live.trade.live.X");
        let headers = told.headers.context("headers")?;
        let header = |name: &str| headers.get_last(name).map(ToString::to_string);
        assert_eq!(header("Nats-Sequence"), Some(seq.to_string()));
        assert_eq!(header("Nats-Subject").as_deref(), Some("tick.trade.live.X"));
    }
    let api = login(&logins, "api").await?;
    assert_eq!(snapshot(&api, "TICKS", &subjects).await?.found.len(), 100);
    server.kill().await?;
    Ok(())
}
