//! Direct Get: pages, holes, patterns, refusals, and answers of which a part is lost.

use anyhow::Result;
use async_nats::HeaderMap;
use bus::api::ApiError;
use bus::get::{following, last_for_subject, multi_last, next_by_subject, snapshot};
use schemas::position::StreamSeq;

use crate::reading::publish;
use crate::server::Server;
use crate::{STREAM, provisioned};

fn subjects(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| format!("tick.trade.x.S{n}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_last_values_come_in_pages() -> Result<()> {
    let server = Server::start().await?;
    let client = server.client().await?;
    provisioned(&client).await?;
    publish(&client, 3_000, 1_500).await?;
    let found = multi_last(&client, STREAM, &subjects(0..1_600)).await?;
    assert_eq!(found.len(), 1_500);
    assert!(found.iter().all(|found| found.seq.get() > 1_500));
    let snapshot = snapshot(&client, STREAM, &subjects(0..1_100)).await?;
    assert_eq!(snapshot.found.len(), 1_100);
    assert_eq!(snapshot.up_to, Some(StreamSeq::new(3_000)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_last_values_come_in_pages() -> Result<()> {
    let server = Server::start().await?;
    let client = server.client().await?;
    provisioned(&client).await?;
    let context = async_nats::jetstream::new(client.clone());
    let payload = bytes::Bytes::from(vec![7; 65_536]);
    for subject in subjects(0..200) {
        context.publish(subject, payload.clone()).await?.await?;
    }
    let all = snapshot(&client, STREAM, &subjects(0..200)).await?;
    let seqs: Vec<u64> = all.found.iter().map(|found| found.seq.get()).collect();
    assert_eq!(seqs, (1..=200).collect::<Vec<_>>());
    assert_eq!(all.up_to, Some(StreamSeq::new(200)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_absent() -> Result<()> {
    let server = Server::start().await?;
    let client = server.client().await?;
    provisioned(&client).await?;
    publish(&client, 10, 10).await?;
    let none = ["tick.trade.x.none".to_owned()];
    let nothing = snapshot(&client, STREAM, &none).await?;
    assert_eq!((nothing.found.len(), nothing.up_to), (0, None));
    assert_eq!(snapshot(&client, STREAM, &[]).await?.found, []);
    assert_eq!(last_for_subject(&client, STREAM, &none[0]).await?, None);
    let after = StreamSeq::new(11);
    assert_eq!(
        next_by_subject(&client, STREAM, "tick.>", after, 5).await?,
        []
    );
    let refusal = multi_last(&client, "NONE", &none).await;
    assert!(matches!(&refusal, Err(error @ ApiError::NoResponders { .. }) if error.is_retryable()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_read_as_they_were_sent() -> Result<()> {
    let server = Server::start().await?;
    let client = server.client().await?;
    provisioned(&client).await?;
    publish(&client, 20, 4).await?;
    let mut headers = HeaderMap::new();
    headers.insert("Tw-Schema", "trade/1");
    let context = async_nats::jetstream::new(client.clone());
    let stored = context.publish_with_headers("tick.trade.x.S1", headers, "last".into());
    let seq = StreamSeq::new(stored.await?.await?.sequence);
    let Some(last) = last_for_subject(&client, STREAM, "tick.trade.x.S1").await? else {
        anyhow::bail!("the message is not found");
    };
    assert_eq!((last.seq, &*last.payload), (seq, &b"last"[..]));
    assert_eq!(
        (last.subject.as_str(), last.header("Tw-Schema")),
        ("tick.trade.x.S1", Some("trade/1"))
    );
    let stored = bus::stream::message_at(&client, STREAM, seq).await?;
    assert_eq!(stored.map(|stored| stored.time), Some(last.time));
    let from = StreamSeq::new(3);
    let page = next_by_subject(&client, STREAM, "tick.trade.x.S1", from, 3).await?;
    let seqs: Vec<u64> = page.iter().map(|found| found.seq.get()).collect();
    assert_eq!(seqs, [6, 10, 14]);
    let all = next_by_subject(&client, STREAM, "tick.>", StreamSeq::ZERO, 100).await?;
    assert_eq!(all.len(), 21);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_position_says_what_is_trimmed() -> Result<()> {
    let server = Server::start().await?;
    let client = server.client().await?;
    let context = async_nats::jetstream::new(client.clone());
    let config = async_nats::jetstream::stream::Config {
        name: STREAM.to_owned(),
        subjects: vec!["tick.>".to_owned()],
        max_messages: 60,
        allow_direct: true,
        ..Default::default()
    };
    context.create_stream(config).await?;
    publish(&client, 100, 2).await?;
    // Odd sequences are of one subject; 41 is the first that is retained.
    let subject = "tick.trade.x.S0";
    let of_subject = bus::stream::message_at(&client, STREAM, StreamSeq::new(41)).await?;
    assert_eq!(
        of_subject.map(|message| message.subject).as_deref(),
        Some(subject)
    );
    let cases = [
        (subject, 0, 3, Some(40), vec![41, 43, 45]),
        (subject, 39, 2, Some(40), vec![41, 43]),
        (subject, 40, 2, None, vec![41, 43]),
        (subject, 41, 2, None, vec![43, 45]),
        (subject, 95, 9, None, vec![97, 99]),
        (subject, 99, 9, None, vec![]),
        (">", 0, 3, Some(40), vec![41, 42, 43]),
        (">", 40, 2, None, vec![41, 42]),
        (">", 98, 9, None, vec![99, 100]),
    ];
    for (subject, after, limit, trimmed, expected) in cases {
        let most = (limit, 10_000);
        let answer = following(&client, STREAM, subject, StreamSeq::new(after), most).await?;
        let at = format!("{subject} after {after}");
        assert_eq!(answer.trimmed, trimmed.map(StreamSeq::new), "{at}");
        let seqs: Vec<u64> = answer.found.iter().map(|found| found.seq.get()).collect();
        assert_eq!(seqs, expected, "{at}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patterns_that_match_too_much_are_refused() -> Result<()> {
    let server = Server::start().await?;
    let client = server.client().await?;
    provisioned(&client).await?;
    publish(&client, 1_100, 1_100).await?;
    let refusal = multi_last(&client, STREAM, &["tick.>".to_owned()]).await;
    assert!(
        matches!(&refusal, Err(error @ ApiError::Refused { status: 413, .. }) if !error.is_retryable()),
        "{refusal:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_part_of_an_answer_is_noticed() -> Result<()> {
    let server = Server::start().await?;
    provisioned(&server.client().await?).await?;
    publish(&server.client().await?, 1_000, 1_000).await?;
    let options = async_nats::ConnectOptions::new().subscription_capacity(1);
    let narrow = options.connect(server.url()).await?;
    let answer = multi_last(&narrow, STREAM, &subjects(0..1_000)).await;
    assert!(
        matches!(&answer, Err(error) if error.is_retryable()),
        "{answer:?}"
    );
    Ok(())
}
