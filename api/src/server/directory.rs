//! Instruments by what people call them: the best match first, whatever part of the name was typed.
//!
//! There may be very many, and somebody who types asks again with every letter: names alone are looked
//! through, and nothing is copied or read but what is answered.

use std::ops::Range;
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
/// The most instruments that are called the same.
const NAMESAKES: usize = 64;
/// How well an instrument may match.
const RANKS: usize = 4;

/// An instrument that was found.
#[derive(Clone, Debug)]
pub(super) struct Match {
    /// The position of its tick.
    pub(super) seq: StreamSeq,
    /// Its tick.
    pub(super) payload: Bytes,
}

/// Some of the instruments that match.
#[derive(Clone, Debug, Default)]
pub(super) struct Matches {
    /// The best first.
    pub(super) found: Vec<Match>,
    /// Whether there are more behind them.
    pub(super) more: bool,
}

/// An instrument that can be found.
#[derive(Debug)]
struct Entry {
    tick: Match,
    venue: Venue,
    class: String,
    /// In lower case, as are all names.
    symbol: String,
    aliases: Vec<String>,
    /// Its name for people, its currencies, and what it derives from.
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

    /// Those of the instruments that match, by their places, the best first: the very symbol, symbols
    /// that begin with the text, those that contain it, then other names and currencies; equally good
    /// ones by venue and symbol.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub(super) async fn search<S: TickStore>(
        &self,
        store: &S,
        wanted: &Wanted<'_>,
        places: Range<usize>,
    ) -> Result<Matches, Arc<StoreError>> {
        let all = self.known.try_get_with((), read(store)).await?;
        Ok(best(&all, wanted, places))
    }

    /// Instruments with this very name in any capitals: first those whose symbol it is, then those that
    /// have it besides; of very many the first.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub(super) async fn called<S: TickStore>(
        &self,
        store: &S,
        venue: Option<&Venue>,
        name: &str,
    ) -> Result<Vec<Match>, Arc<StoreError>> {
        let all = self.known.try_get_with((), read(store)).await?;
        let name = name.to_lowercase();
        let of = || {
            all.iter()
                .filter(|entry| venue.is_none_or(|venue| *venue == entry.venue))
        };
        let symbols = of().filter(|entry| entry.symbol == name);
        let others = of().filter(|entry| entry.symbol != name && entry.is_also(&name));
        let found = symbols.chain(others).take(NAMESAKES);
        Ok(found.map(|entry| entry.tick.clone()).collect())
    }
}

fn best(all: &[Entry], wanted: &Wanted<'_>, places: Range<usize>) -> Matches {
    let text = wanted.text.to_lowercase();
    let fits = |entry: &&Entry| {
        wanted.venue.is_none_or(|venue| *venue == entry.venue)
            && wanted.class.is_none_or(|class| class == entry.class)
    };
    // The order within a rank is the database's; one more than is answered tells that there are more.
    let mut ranks: [Vec<&Entry>; RANKS] = Default::default();
    for entry in all.iter().filter(fits) {
        let rank = entry.rank(&text).and_then(|rank| ranks.get_mut(rank));
        if let Some(rank) = rank.filter(|rank| rank.len() <= places.end) {
            rank.push(entry);
        }
    }
    let count: usize = ranks.iter().map(Vec::len).sum();
    let found = ranks.iter().flatten().skip(places.start);
    let found = found.take(places.len());
    Matches {
        found: found.map(|entry| entry.tick.clone()).collect(),
        more: count > places.end,
    }
}

impl Entry {
    fn new(tick: Match, inst: Inst) -> Self {
        let lower = |text: &String| text.to_lowercase();
        let names = [&inst.name, &inst.base, &inst.quote, &inst.underlying];
        Self {
            tick,
            symbol: inst.head.symbol.as_str().to_lowercase(),
            aliases: inst.aliases.iter().flatten().map(lower).collect(),
            names: names.into_iter().flatten().map(lower).collect(),
            venue: inst.head.venue,
            class: inst.class,
        }
    }

    /// Whether it has this name besides its symbol.
    fn is_also(&self, name: &str) -> bool {
        !name.is_empty() && self.aliases.iter().any(|alias| alias == name)
    }

    /// How well it matches, 0 is best.
    fn rank(&self, text: &str) -> Option<usize> {
        let mut names = self.names.iter().chain(&self.aliases);
        match self.symbol.find(text) {
            Some(0) if self.symbol.len() == text.len() => Some(0),
            Some(0) => Some(1),
            Some(_) => Some(2),
            None => names.any(|name| name.contains(text)).then_some(3),
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
                let (seq, payload) = (row.seq, row.payload);
                entries.push(Entry::new(Match { seq, payload }, inst));
            }
        }
        if !whole || last.is_none() {
            break;
        }
    }
    Ok(Arc::new(entries))
}

#[cfg(test)]
mod tests {
    use schemas::codec::to_msgpack;
    use serde_json::json;

    use super::*;

    /// Of these venues and symbols; the sequence is the place, and one in two has an alias.
    fn entries(of: impl Iterator<Item = (&'static str, String)>) -> Vec<Entry> {
        let entry = |(seq, (venue, symbol)): (u64, (&str, String))| {
            let alias = (seq % 2 == 0).then(|| vec![format!("Alias-{symbol}"), "Both".to_owned()]);
            let tick = json!({
                "k": "inst", "v": venue, "y": symbol, "tr": "1", "ty": "spot", "qc": "USD", "al": alias,
            });
            let Ok(Tick::Inst(inst)) = serde_json::from_value(tick) else {
                panic!("no instrument");
            };
            let payload = to_msgpack(&Tick::Inst(inst.clone())).unwrap().into();
            let seq = StreamSeq::new(seq);
            Entry::new(Match { seq, payload }, inst)
        };
        (0..).zip(of).map(entry).collect()
    }

    fn seqs(found: &[Match]) -> Vec<u64> {
        found.iter().map(|found| found.seq.get()).collect()
    }

    fn text(text: &str) -> Wanted<'_> {
        Wanted {
            text,
            ..Wanted::default()
        }
    }

    #[test]
    fn no_more_is_found_than_is_answered() {
        let many = entries((0..5_000).map(|n| ("x", format!("SYM{n}"))));
        for (text_, places, expected, more) in [
            ("", 0..3, vec![0, 1, 2], true),
            ("", 4_998..5_000, vec![4_998, 4_999], false),
            ("", 4_998..5_001, vec![4_998, 4_999], false),
            ("", 6_000..6_010, vec![], false),
            ("sym499", 0..2, vec![499, 4_990], true),
            // The very symbol, those that begin with it, and nothing else.
            ("sym499", 10..20, vec![4_999], false),
            ("alias-sym10", 0..2, vec![10, 100], true),
            ("usd", 7..8, vec![7], true),
            ("nothing", 0..9, vec![], false),
            ("", 0..usize::MAX, (0..5_000).collect(), false),
        ] {
            let matches = best(&many, &text(text_), places.clone());
            assert!(seqs(&matches.found) == expected, "{text_} {places:?}");
            assert_eq!(matches.more, more, "{text_} {places:?}");
        }
        // Page by page as at once.
        let at_once = seqs(&best(&many, &text("9"), 0..5_000).found);
        let mut pages = Vec::new();
        while pages.len() < at_once.len() {
            let page = best(&many, &text("9"), pages.len()..pages.len() + 7);
            assert_eq!(page.more, pages.len() + 7 < at_once.len());
            pages.extend(seqs(&page.found));
        }
        assert!(pages == at_once, "{} of {}", pages.len(), at_once.len());
    }

    #[tokio::test]
    async fn whoever_is_called_so_is_found_by_the_whole_name() {
        let directory = Directory::new();
        let of = [
            ("x", "AB"),
            ("x", "ABC"),
            ("x", "BOTH"),
            ("y", "Ab"),
            ("y", "C"),
        ];
        let all = entries(
            of.into_iter()
                .map(|(venue, symbol)| (venue, symbol.to_owned())),
        );
        directory.known.insert((), Arc::new(all)).await;
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::sqlite::Sqlite::open(&dir.path().join("x.db"), None).await;
        let (store, y) = (store.unwrap(), Venue::new("y").unwrap());
        for (venue, name, expected) in [
            (None, "ab", vec![0, 3]),
            (Some(&y), "AB", vec![3]),
            (None, "alias-ab", vec![0]),
            (None, "both", vec![2, 0, 4]),
            (None, "usd", vec![]),
            (None, "", vec![]),
        ] {
            let found = directory.called(&store, venue, name).await.unwrap();
            assert_eq!(seqs(&found), expected, "{name}");
        }
    }
}
