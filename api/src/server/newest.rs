//! The last closed and the forming bar of a series, as the stream has them.

use schemas::codec::from_msgpack;
use schemas::id::{Interval, Kind, Symbol, Venue};
use schemas::tick::Tick;
use schemas::topic::Topic;
use tracing::debug;

use super::Api;
use crate::bars::Newest;
use crate::store::TickStore;

/// What the stream says last of bars of this length; nothing where they are not published. Nobody waits
/// for a broker that is away: charts then end with the last bar that closed, indicators with what is
/// recorded.
pub(super) async fn newest<S: TickStore>(
    api: &Api<S>,
    (venue, symbol): (&Venue, &Symbol),
    published: Option<Interval>,
) -> Newest {
    let mut newest = Newest {
        is_told: true,
        ..Newest::default()
    };
    let Some(interval) = published else {
        return newest;
    };
    let topic = |kind| Topic::with_interval(kind, venue.clone(), symbol.clone(), interval);
    let topics = [Kind::Bar, Kind::Form].map(topic).into_iter();
    let Some(found) = api.latest.soon(topics).await else {
        return Newest::default();
    };
    for value in found.iter() {
        match from_msgpack(&value.payload) {
            Ok(Tick::Bar(bar)) => newest.closed = Some((value.seq, bar)),
            Ok(Tick::Form(form)) => newest.forming = Some(form),
            Ok(_) => {}
            Err(problem) => debug!(%problem, "no bar"),
        }
    }
    newest
}
