//! The last closed and the forming bar of a series, as the stream has them.

use schemas::codec::from_msgpack;
use schemas::id::{Interval, Kind, Symbol, Venue};
use schemas::tick::Tick;
use schemas::topic::Topic;
use tracing::debug;

use super::Api;
use super::udf::last;
use crate::bars::Newest;
use crate::store::TickStore;

/// What the stream says last of bars of this length; nothing where they are not published. History does
/// not wait for a broker that is away: it then ends with the last bar that closed.
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
    let Some(found) = last(api, [Kind::Bar, Kind::Form].map(topic).into_iter()).await else {
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
