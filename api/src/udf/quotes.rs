//! The answer to `/udf/quotes`, made from an instrument's last values.

use schemas::decimal::Price;
use schemas::tick::{Inst, Quote, Stat, Tick, Trade};
use serde::Serialize;

use super::number::Exact;
use super::symbol::description;
use super::ticker::Ticker;

/// One instrument of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub(crate) struct Entry {
    s: &'static str,
    /// What was asked for, letter by letter: the client finds its answer by it.
    n: String,
    v: Values,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
struct Values {
    #[serde(skip_serializing_if = "Option::is_none")]
    ch: Option<Exact>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chp: Option<Exact>,
    #[serde(skip_serializing_if = "Option::is_none")]
    short_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exchange: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lp: Option<Exact>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ask: Option<Exact>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bid: Option<Exact>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spread: Option<Exact>,
    #[serde(skip_serializing_if = "Option::is_none")]
    open_price: Option<Exact>,
    #[serde(skip_serializing_if = "Option::is_none")]
    high_price: Option<Exact>,
    #[serde(skip_serializing_if = "Option::is_none")]
    low_price: Option<Exact>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_close_price: Option<Exact>,
    #[serde(skip_serializing_if = "Option::is_none")]
    volume: Option<Exact>,
}

/// The last values of one instrument.
#[derive(Clone, Debug, Default)]
pub(crate) struct Last {
    inst: Option<Inst>,
    stat: Option<Stat>,
    quote: Option<Quote>,
    trade: Option<Trade>,
}

impl Last {
    /// Takes a last value; what quotes are not made of is ignored.
    pub(crate) fn take(&mut self, tick: Tick) {
        match tick {
            Tick::Inst(inst) => self.inst = Some(inst),
            Tick::Stat(stat) => self.stat = Some(stat),
            Tick::Quote(quote) => self.quote = Some(quote),
            Tick::Trade(trade) => self.trade = Some(trade),
            Tick::Book(_)
            | Tick::Bar(_)
            | Tick::Form(_)
            | Tick::Index(_)
            | Tick::Flow(_)
            | Tick::Status(_)
            | Tick::Feed(_) => {}
        }
    }

    /// Whether nothing is known.
    pub(crate) const fn is_empty(&self) -> bool {
        self.inst.is_none() && self.stat.is_none() && self.quote.is_none() && self.trade.is_none()
    }

    /// A price that was seen, as precise as any of them.
    pub(crate) fn price(&self) -> Option<Price> {
        let (stat, quote) = (self.stat.as_ref(), self.quote.as_ref());
        let seen = [
            stat.and_then(|stat| stat.last),
            self.trade.as_ref().map(|trade| trade.price),
            quote.and_then(|quote| quote.bid),
            quote.and_then(|quote| quote.ask),
        ];
        let seen = seen.into_iter().flatten();
        seen.max_by_key(|price| price.get().scale())
    }
}

/// What is known of an instrument. A statistic knows of corrections and comes at most once a
/// second; where there is none, the last trade tells the price.
pub(crate) fn entry(asked: String, ticker: &Ticker, last: Last) -> Entry {
    let Last {
        inst,
        stat,
        quote,
        trade,
    } = last;
    let name = inst.as_ref().map(description);
    let (bid, ask) = quote.map_or((None, None), |quote| (quote.bid, quote.ask));
    let exact = |price: Price| Exact(price.get());
    let mut values = Values {
        short_name: Some(ticker.symbol.to_string()),
        exchange: Some(ticker.venue.to_string()),
        description: Some(name.unwrap_or_else(|| ticker.symbol.to_string())),
        bid: bid.map(exact),
        ask: ask.map(exact),
        spread: bid.zip(ask).map(|(bid, ask)| Exact(ask.get() - bid.get())),
        lp: trade.map(|trade| exact(trade.price)),
        ..Values::default()
    };
    if let Some(stat) = stat {
        values.lp = stat.last.map(exact).or(values.lp);
        values.ch = stat.change.map(|change| Exact(change.get()));
        values.chp = stat.change_percent.map(|percent| Exact(percent.get()));
        values.open_price = stat.open.map(exact);
        values.high_price = stat.high.map(exact);
        values.low_price = stat.low.map(exact);
        values.prev_close_price = stat.previous_close.map(exact);
        values.volume = stat.volume.map(|volume| Exact(volume.get()));
    }
    Entry {
        s: "ok",
        n: asked,
        v: values,
    }
}

/// What is said of an instrument that there is not; the others of the request are answered.
pub(crate) fn unknown(asked: String) -> Entry {
    Entry {
        s: "error",
        n: asked,
        v: Values::default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn tick(fields: &Value) -> Tick {
        let mut tick = json!({ "v": "x", "y": "A", "tr": "1" });
        for (name, value) in fields.as_object().unwrap() {
            tick[name] = value.clone();
        }
        serde_json::from_value(tick).unwrap()
    }

    fn of(ticks: &[Value]) -> Value {
        let mut last = Last::default();
        for fields in ticks {
            last.take(tick(fields));
        }
        let ticker = "x:A".parse().unwrap();
        serde_json::to_value(entry("X:A".to_owned(), &ticker, last)).unwrap()
    }

    fn trade() -> Value {
        json!({ "k": "trade", "i": "7", "p": "3.0", "z": "1", "sd": "buy" })
    }

    #[test]
    fn a_quote_has_what_is_known_and_nothing_else() {
        let known = of(&[
            json!({ "k": "stat", "o": "1.0", "h": "3.5", "l": "0.50", "c": "2.5", "pc": "2.0",
                    "vo": "100", "ch": "0.5", "cp": "25" }),
            json!({ "k": "quote", "b": "2.4", "a": "2.6" }),
            trade(),
            json!({ "k": "inst", "ty": "spot", "nm": "Alpha" }),
        ]);
        assert_eq!(known["s"], "ok");
        assert_eq!(known["n"], "X:A");
        let expected = json!({
            "short_name": "A", "exchange": "x", "description": "Alpha", "lp": 2.5, "bid": 2.4, "ask": 2.6,
            "spread": 0.2, "open_price": 1.0, "high_price": 3.5, "low_price": 0.5,
            "prev_close_price": 2.0, "volume": 100, "ch": 0.5, "chp": 25,
        });
        assert_eq!(known["v"], expected);
        let bare = json!({ "short_name": "A", "exchange": "x", "description": "A" });
        assert_eq!(of(&[])["v"], bare);
        assert_eq!(of(&[trade()])["v"]["lp"], json!(3.0));
        let one_sided = of(&[json!({ "k": "quote", "b": "2.4" })]);
        assert_eq!(one_sided["v"].get("spread"), None);
    }

    #[test]
    fn an_instrument_that_is_unknown_is_an_error_of_its_own() {
        let entry = serde_json::to_value(unknown("x:B".to_owned())).unwrap();
        assert_eq!(entry, json!({ "s": "error", "n": "x:B", "v": {} }));
    }
}
