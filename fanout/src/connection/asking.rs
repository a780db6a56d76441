//! What a connection needs that is older than the ring: the broker is asked for it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use schemas::ws::CloseCode;
use tokio::time::sleep;
use tracing::debug;

use super::Connection;
use crate::repair::{Page, Scope};
use crate::session::Ask;
use crate::shard::Shard;

/// Requests that one connection may have under way, those that nobody waits for any more included.
const MAX_ASKED: usize = 16;
/// How long to wait before the broker is asked again, at first.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Whoever waited so long, and the broker is there, is sent to another replica.
const LAST_PAUSE: Duration = Duration::from_secs(3);

/// Asks the broker for what the session wants to read.
pub(super) async fn ask_all(shard: &Shard, connection: &Connection) -> Infallible {
    let mut asked = FuturesUnordered::new();
    loop {
        while asked.len() < MAX_ASKED {
            let waiting = shard.shared.metrics.waiting_repairs.get();
            let waiting = usize::try_from(waiting).unwrap_or_default();
            let Some(ask) = connection.session.borrow_mut().ask(waiting) else {
                break;
            };
            // In a box of its own: it is large, and an idle connection has none.
            asked.push(answer(shard, connection, ask).boxed_local());
        }
        tokio::select! {
            () = connection.hungry.notified() => {}
            Some(answer) = asked.next(), if !asked.is_empty() => {
                if let Some((ask, page)) = answer {
                    connection.session.borrow_mut().answered(&ask, page);
                    connection.wake.notify_one();
                }
            }
        }
    }
}

/// Asks until there is an answer, or nobody waits for one; whoever cannot be helped here is sent to
/// another replica.
async fn answer(shard: &Shard, connection: &Connection, ask: Ask) -> Option<(Ask, Arc<Page>)> {
    let stream = ask.of.stream().index();
    let repairs = shard.shared.repairs.get(stream)?;
    let mut pause = FIRST_PAUSE;
    while connection.session.borrow().awaits(&ask) {
        let (epoch, topic, stale) = {
            let known = shard.shared.stores.get(stream)?.read();
            let topic = match ask.of {
                Scope::Topic(topic) => Some(Arc::clone(known.info(topic)?)),
                Scope::Stream(_) => None,
            };
            (known.epoch, topic, known.stale)
        };
        if let Some(epoch) = epoch {
            let page = match topic {
                Some(topic) => repairs.of_topic(epoch, &topic, ask.after).await,
                None => repairs.of_stream(epoch, ask.of.stream(), ask.after).await,
            };
            match page {
                Ok(page) => return Some((ask, page)),
                Err(error) => {
                    debug!(%error, "older messages cannot be read");
                    shard.shared.metrics.failed_repairs.inc();
                }
            }
        }
        if pause > LAST_PAUSE && !stale && connection.session.borrow().awaits(&ask) {
            connection.end(CloseCode::Overloaded);
        }
        sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE * 2);
    }
    None
}
