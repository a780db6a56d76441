//! What a URL asks to be subscribed on connect; every error names its parameter.

use std::collections::BTreeMap;

use axum::extract::{Query, Request};
use axum::http::{HeaderMap, StatusCode};
use schemas::ws::{From, Subscribe};

use super::checks::{Refusal, refuse, wrong};
use crate::channels::{Channel, Channels, check_topics, conflate};
use crate::session::Limits;
use crate::sse::parse_id;

/// The header that a browser sends when it connects again, and the parameter for who cannot.
pub(super) const LAST_EVENT_ID: &str = "last-event-id";

/// What can be asked for.
pub(crate) struct Offer {
    pub(crate) channels: Channels,
    pub(crate) limits: Limits,
}

/// The parameters of one request; taken out one by one.
struct Parameters(BTreeMap<String, String>);

impl Parameters {
    fn of(request: &Request) -> Result<Self, Refusal> {
        let pairs: Query<Vec<(String, String)>> = Query::try_from_uri(request.uri())
            .map_err(|error| refuse("query", StatusCode::BAD_REQUEST, &error.body_text()))?;
        let mut parameters = BTreeMap::new();
        for (name, value) in pairs.0 {
            if parameters.insert(name.clone(), value).is_some() {
                return Err(wrong(&name, "this parameter is given twice"));
            }
        }
        Ok(Self(parameters))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// Where the client goes on, if it was here before. What it has seen since counts more than
    /// what it was started with.
    fn positions(&mut self, headers: &HeaderMap) -> Result<BTreeMap<String, From>, Refusal> {
        let given = self.take(LAST_EVENT_ID);
        let header = headers.get(LAST_EVENT_ID);
        let sent = header.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let is_some = |text: &String| !text.is_empty();
        let Some(text) = sent.filter(is_some).or(given.filter(is_some)) else {
            return Ok(BTreeMap::new());
        };
        parse_id(&text).map_err(|problem| wrong(LAST_EVENT_ID, &problem))
    }
}

/// What `/v1/sse` asks for.
pub(super) fn events(offer: &Offer, request: &Request) -> Result<Subscribe, Refusal> {
    let mut parameters = Parameters::of(request)?;
    let from = parameters.positions(request.headers())?;
    let mut set = match (parameters.take("topics"), parameters.take("channel")) {
        (Some(topics), None) => Channel {
            topics: check_topics(topics.split(','), &offer.limits)
                .map_err(|problem| wrong("topics", &problem))?,
            ..Channel::default()
        },
        (None, Some(name)) => {
            let known = offer.channels.get(&name).cloned();
            known.ok_or_else(|| wrong("channel", &no_channel(&offer.channels)))?
        }
        (None, None) => return Err(wrong("topics", "topics or channel is needed")),
        (Some(_), Some(_)) => {
            return Err(wrong("channel", "topics and channel exclude each other"));
        }
    };
    if let Some(text) = parameters.take("conflate") {
        set.conflate = conflate(&text).map_err(|problem| wrong("conflate", &problem))?;
    }
    if let Some(text) = parameters.take("snapshot") {
        let snapshot = text.parse();
        set.snapshot =
            Some(snapshot.map_err(|_| wrong("snapshot", "snapshot must be true or false"))?);
    }
    if let Some((name, _)) = parameters.0.pop_first() {
        let known = "the parameters are topics, channel, conflate, snapshot and last-event-id";
        return Err(wrong(&name, known));
    }
    Ok(Subscribe {
        from,
        ..set.subscribe()
    })
}

/// What `/ws` and `/ws/{channel}` ask for.
pub(super) fn channel(
    offer: &Offer,
    name: Option<&str>,
    request: &Request,
) -> Result<Subscribe, Refusal> {
    let set = match name {
        None => Channels::everything(),
        Some(name) => offer
            .channels
            .get(name)
            .cloned()
            .ok_or_else(|| Refusal::nothing(&no_channel(&offer.channels)))?,
    };
    let from = Parameters::of(request)?.positions(request.headers())?;
    Ok(Subscribe {
        from,
        ..set.subscribe()
    })
}

fn no_channel(channels: &Channels) -> String {
    format!("there is no such channel; there are {}", channels.names())
}
