//! Provisioning: the same again changes nothing, other limits are taken, other streams are refused.

use std::time::Duration;

use anyhow::Result;
use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::{self, stream};
use bus::provision::{ProvisionError, StreamSpec, provision};
use futures_util::StreamExt;
use schemas::id::Venue;
use tokio::time::timeout;

use crate::server::Server;
use crate::{STREAM, provisioned};

/// How long the broker may take.
const PATIENCE: Duration = Duration::from_secs(30);

fn spec() -> StreamSpec {
    StreamSpec {
        venues: Vec::new(),
        name: STREAM.to_owned(),
        max_age_secs: 3_600,
        max_bytes: 1 << 28,
        replicas: 1,
    }
}

#[tokio::test]
async fn the_same_again_changes_nothing() -> Result<()> {
    let server = Server::start().await?;
    let client = server.client().await?;
    let mut updates = client
        .subscribe("$JS.EVENT.ADVISORY.STREAM.UPDATED.>")
        .await?;
    let first = provision(&client, &spec()).await?;
    assert_eq!(provision(&client, &spec()).await?, first);
    let smaller = StreamSpec {
        max_bytes: 1 << 27,
        max_age_secs: 60,
        ..spec()
    };
    assert_eq!(provision(&client, &smaller).await?, first);
    let told = timeout(Duration::from_secs(10), updates.next()).await?;
    let told = told.map(|message| message.subject.to_string());
    assert_eq!(
        told.as_deref(),
        Some("$JS.EVENT.ADVISORY.STREAM.UPDATED.TICKS")
    );
    let stream = jetstream::new(client.clone()).get_stream(STREAM).await?;
    let config = &stream.cached_info().config;
    assert_eq!(config.max_bytes, 1 << 27);
    assert_eq!(config.max_age, Duration::from_mins(1));
    // Whatever else was updated would have been told before this.
    client
        .publish("$JS.EVENT.ADVISORY.STREAM.UPDATED.END", "".into())
        .await?;
    let told = timeout(Duration::from_secs(10), updates.next()).await?;
    let told = told.map(|message| message.subject.to_string());
    assert_eq!(
        told.as_deref(),
        Some("$JS.EVENT.ADVISORY.STREAM.UPDATED.END")
    );
    Ok(())
}

#[tokio::test]
async fn a_broker_that_is_not_there_yet_is_not_called_old() -> Result<()> {
    let mut server = Server::start().await?;
    server.kill().await?;
    let options = async_nats::ConnectOptions::new().retry_on_initial_connect();
    let client = options.connect(server.url()).await?;
    let refusal = provision(&client, &spec()).await;
    assert!(
        matches!(&refusal, Err(ProvisionError::Api { source, .. }) if source.is_retryable()),
        "{refusal:?}"
    );
    Ok(())
}

#[tokio::test]
async fn the_stream_is_as_designed() -> Result<()> {
    let server = Server::start().await?;
    let client = server.client().await?;
    provisioned(&client).await?;
    let context = jetstream::new(client.clone());
    let config = context
        .get_stream(STREAM)
        .await?
        .cached_info()
        .config
        .clone();
    assert_eq!(config.subjects, ["tick.>"]);
    assert_eq!(config.storage, stream::StorageType::File);
    assert_eq!(config.compression, Some(stream::Compression::None));
    assert_eq!(config.discard, stream::DiscardPolicy::Old);
    assert_eq!(config.max_messages_per_subject, -1);
    assert!(config.allow_direct && config.allow_atomic_publish);
    assert!(config.deny_delete && config.deny_purge);
    let republish = config.republish.map(|to| (to.source, to.destination));
    assert_eq!(republish, Some(("tick.>".to_owned(), "live.>".to_owned())));
    for bucket in ["auth", "epochs", "leases"] {
        let store = context.get_key_value(bucket).await?;
        assert_eq!(store.status().await?.history(), 1, "{bucket}");
    }
    Ok(())
}

#[tokio::test]
async fn what_the_operator_set_stays() -> Result<()> {
    let server = Server::start().await?;
    let client = server.client().await?;
    provisioned(&client).await?;
    let context = jetstream::new(client.clone());
    let mut config = context
        .get_stream(STREAM)
        .await?
        .cached_info()
        .config
        .clone();
    config.description = Some("kept".to_owned());
    config.metadata.insert("desk".to_owned(), "kept".to_owned());
    context.update_stream(config).await?;
    provision(&client, &spec()).await?;
    let config = context
        .get_stream(STREAM)
        .await?
        .cached_info()
        .config
        .clone();
    assert_eq!(config.description.as_deref(), Some("kept"));
    assert_eq!(
        config.metadata.get("desk").map(String::as_str),
        Some("kept")
    );
    assert_eq!(config.max_bytes, 1 << 28);
    Ok(())
}

/// The stream sequences of the next messages that the recorder receives; each is acknowledged.
async fn received(stream: &stream::Stream, count: usize) -> Result<Vec<u64>> {
    let told = |error| anyhow::anyhow!("{error}");
    let consumer: PullConsumer = stream.get_consumer("recorder").await.map_err(told)?;
    let fetching = consumer.fetch().max_messages(count);
    let mut batch = fetching.expires(PATIENCE).messages().await?;
    let mut seqs = Vec::new();
    while let Some(message) = batch.next().await {
        let message = message.map_err(told)?;
        seqs.push(message.info().map_err(told)?.stream_sequence);
        message.double_ack().await.map_err(told)?;
    }
    Ok(seqs)
}

#[tokio::test]
async fn the_recorder_receives_everything_though_an_older_one_did_not() -> Result<()> {
    let server = Server::start().await?;
    let client = server.client().await?;
    provisioned(&client).await?;
    let context = jetstream::new(client.clone());
    let stream = context.get_stream(STREAM).await?;
    let older = pull::Config {
        durable_name: Some("recorder".to_owned()),
        max_ack_pending: 40_000,
        filter_subjects: vec!["tick.trade.>".to_owned(), "tick.bar.>".to_owned()],
        ..pull::Config::default()
    };
    stream.update_consumer(older).await?;
    let publish = async |subject: &'static str| {
        anyhow::Ok(context.publish(subject, "x".into()).await?.await?.sequence)
    };
    publish("tick.book.x.A").await?;
    let first = publish("tick.trade.x.A").await?;
    assert_eq!(received(&stream, 1).await?, [first]);
    provision(&client, &spec()).await?;
    let book = publish("tick.book.x.A").await?;
    let later = [book, publish("tick.trade.x.A").await?];
    assert_eq!(received(&stream, 2).await?, later);
    let info = stream.consumer_info("recorder").await?;
    assert!(info.config.filter_subjects.is_empty());
    assert_eq!(info.ack_floor.stream_sequence, later[1]);
    assert_eq!((info.num_pending, info.num_ack_pending), (0, 0));
    Ok(())
}

#[tokio::test]
async fn another_kind_of_stream_is_refused() -> Result<()> {
    let server = Server::start().await?;
    let client = server.client().await?;
    let context = jetstream::new(client.clone());
    context
        .create_stream(stream::Config {
            name: STREAM.to_owned(),
            subjects: vec!["tick.>".to_owned()],
            storage: stream::StorageType::Memory,
            ..stream::Config::default()
        })
        .await?;
    let refusal = provision(&client, &spec()).await;
    assert!(
        matches!(
            &refusal,
            Err(ProvisionError::Incompatible { what, field: "storage", .. }) if what == STREAM
        ),
        "{refusal:?}"
    );
    Ok(())
}

#[tokio::test]
async fn subjects_of_another_stream_are_refused() -> Result<()> {
    let server = Server::start().await?;
    let client = server.client().await?;
    let context = jetstream::new(client.clone());
    context
        .create_stream(stream::Config {
            name: "OTHER".to_owned(),
            subjects: vec!["tick.trade.>".to_owned()],
            ..stream::Config::default()
        })
        .await?;
    let refusal = provision(&client, &spec()).await;
    assert!(
        matches!(&refusal, Err(ProvisionError::Overlap { stream, .. }) if stream == STREAM),
        "{refusal:?}"
    );
    Ok(())
}

#[tokio::test]
async fn streams_share_no_venue() -> Result<()> {
    let server = Server::start().await?;
    let client = server.client().await?;
    let of = |name: &str, venues: &[&str]| StreamSpec {
        name: name.to_owned(),
        venues: venues.iter().flat_map(|venue| Venue::new(venue)).collect(),
        ..spec()
    };
    provision(&client, &spec()).await?;
    for wanted in [of("B", &[]), of("B", &["simb"])] {
        let refusal = provision(&client, &wanted).await.unwrap_err();
        assert!(matches!(refusal, ProvisionError::Overlap { .. }));
        let said = refusal.to_string();
        assert!(said.contains("stream B cannot take tick.") && said.contains("--venues"));
    }
    provision(&client, &of(STREAM, &["sim"])).await?;
    provision(&client, &of("B", &["simb"])).await?;
    let greedy = provision(&client, &of(STREAM, &["sim", "simb"])).await;
    assert!(matches!(greedy, Err(ProvisionError::Overlap { .. })));
    Ok(())
}
