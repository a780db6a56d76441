//! Instruments by what people call them: the best match first, whatever part of the name was typed.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use moka::future::Cache;
use schemas::codec::from_msgpack;
use schemas::id::Venue;
use schemas::position::StreamSeq;
use schemas::tick::{Inst, Tick};

use crate::store::{StoreError, TickStore};

/// How old a list of instruments may be that is searched.
const AGE: Duration = Duration::from_secs(5);
/// Instruments of one read of the database, and how many of these there are: beyond that the last ones
/// are not found by search.
const BATCH: u32 = 2_000;
const BATCHES: usize = 100;

/// An instrument that can be found.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The position of its tick.
    pub(super) seq: StreamSeq,
    /// Its tick.
    pub(super) payload: Bytes,
    venue: Venue,
    class: String,
    /// In lower case: the symbol, then the names that it has besides.
    symbol: String,
    names: Vec<String>,
}

/// What is searched for.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted<'a> {
    /// Of this venue only.
    pub(super) venue: Option<&'a Venue>,
    /// Of this class only.
    pub(super) class: Option<&'a str>,
    /// A part of the symbol, of another name, or a currency.
    pub(super) text: &'a str,
}

/// The instruments as they were a moment ago.
pub(super) struct Directory {
    known: Cache<(), Arc<Vec<Entry>>>,
}

impl Directory {
    /// Nothing is read yet.
    pub(super) fn new() -> Self {
        let known = Cache::builder().max_capacity(1).time_to_live(AGE).build();
        Self { known }
    }

    /// Instruments that match, the best first: the very symbol, symbols that begin with the text, those
    /// that contain it, then other names and currencies; equally good ones by venue and symbol.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub(super) async fn search<S: TickStore>(
        &self,
        store: &S,
        wanted: &Wanted<'_>,
    ) -> Result<Vec<Entry>, Arc<StoreError>> {
        let all = self.known.try_get_with((), read(store)).await?;
        let text = wanted.text.to_lowercase();
        let fits = |entry: &&Entry| {
            wanted.venue.is_none_or(|venue| *venue == entry.venue)
                && wanted.class.is_none_or(|class| class == entry.class)
        };
        let mut found: Vec<(u8, &Entry)> = all
            .iter()
            .filter(fits)
            .filter_map(|entry| Some((entry.rank(&text)?, entry)))
            .collect();
        // The order within a rank is the database's.
        found.sort_by_key(|(rank, _)| Reverse(*rank));
        Ok(found.into_iter().map(|(_, entry)| entry.clone()).collect())
    }
}

impl Entry {
    fn new(seq: StreamSeq, payload: Bytes, inst: Inst) -> Self {
        let lower = |text: &String| text.to_lowercase();
        let names = [&inst.name, &inst.base, &inst.quote, &inst.underlying];
        let names = names.into_iter().flatten().map(lower);
        let aliases = inst.aliases.iter().flatten().map(lower);
        Self {
            seq,
            payload,
            symbol: inst.head.symbol.as_str().to_lowercase(),
            names: names.chain(aliases).collect(),
            venue: inst.head.venue,
            class: inst.class,
        }
    }

    fn rank(&self, text: &str) -> Option<u8> {
        let named = || self.names.iter().any(|name| name.contains(text));
        match self.symbol.find(text) {
            Some(0) if self.symbol.len() == text.len() => Some(3),
            Some(0) => Some(2),
            Some(_) => Some(1),
            None => named().then_some(0),
        }
    }
}

async fn read<S: TickStore>(store: &S) -> Result<Arc<Vec<Entry>>, StoreError> {
    let mut entries = Vec::new();
    let mut last: Option<(Venue, String)> = None;
    for _ in 0..BATCHES {
        let after = last
            .as_ref()
            .map(|(venue, text)| (venue.as_str(), text.as_str()));
        let rows = store.instruments(None, "", after, BATCH).await?;
        let whole = u32::try_from(rows.len()).is_ok_and(|count| count == BATCH);
        last = None;
        for row in rows {
            if let Ok(Tick::Inst(inst)) = from_msgpack(&row.payload) {
                last = Some((inst.head.venue.clone(), inst.head.symbol.to_string()));
                entries.push(Entry::new(row.seq, row.payload, inst));
            }
        }
        if !whole || last.is_none() {
            break;
        }
    }
    Ok(Arc::new(entries))
}
