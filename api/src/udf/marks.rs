//! Marks on bars and on the time scale: what truly happened to the market and to its feed.
//!
//! On bars: changes of an instrument's trading state. On the time scale: holes in what the venue
//! sent, and whether they were filled since.

use schemas::position::{Epoch, StreamSeq};
use schemas::tick::{Feed, Status, TradingState};
use serde::Serialize;

const GREEN: &str = "#36c5a0";
const RED: &str = "#f0616d";
const AMBER: &str = "#e5b455";
const GREY: &str = "#8494a5";
/// Of a mark on a bar, in pixels.
const SIZE: u32 = 14;

/// Marks on bars, as columns; scalars hold for all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub(crate) struct Marks {
    id: Vec<String>,
    time: Vec<i64>,
    color: Vec<&'static str>,
    text: Vec<String>,
    label: Vec<&'static str>,
    #[serde(rename = "labelFontColor")]
    label_font_color: &'static str,
    #[serde(rename = "minSize")]
    min_size: u32,
}

/// A mark on the time scale.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub(crate) struct TimescaleMark {
    id: String,
    time: i64,
    color: &'static str,
    label: &'static str,
    tooltip: Vec<String>,
    shape: &'static str,
}

/// Where a message stands in all streams that there ever were: sequences begin anew when a stream is
/// created again, and a client takes marks of one name for the same.
pub(crate) type Place = (Epoch, StreamSeq);

/// Marks every change of state; what repeats the state before is left out.
pub(crate) fn of_statuses(statuses: &[(Place, Status)]) -> Marks {
    let mut marks = Marks {
        label_font_color: "#0b1016",
        min_size: SIZE,
        ..Marks::default()
    };
    let mut before = None;
    for ((epoch, seq), status) in statuses {
        if before.replace(status.state) == Some(status.state) {
            continue;
        }
        let (label, color, name) = look(status.state);
        let at = status.head.event.unwrap_or(status.head.received);
        marks.id.push(format!("status-{epoch}-{seq}"));
        marks.time.push(at.seconds());
        marks.color.push(color);
        marks.label.push(label);
        let reason = status.reason.as_deref();
        let text = reason.map_or_else(|| name.to_owned(), |why| format!("{name}: {why}"));
        marks.text.push(text);
    }
    marks
}

const fn look(state: TradingState) -> (&'static str, &'static str, &'static str) {
    match state {
        TradingState::PreOpen => ("P", GREY, "before the opening"),
        TradingState::Auction => ("A", AMBER, "auction"),
        TradingState::Open => ("O", GREEN, "open"),
        TradingState::Halt => ("H", RED, "halted"),
        TradingState::Close => ("C", GREY, "closed"),
    }
}

/// Marks a hole in what the venue sent; `None` if this tells of something else.
pub(crate) fn of_feed((epoch, seq): Place, feed: &Feed) -> Option<TimescaleMark> {
    let gap = feed.gap.as_ref()?;
    let told = feed.head.event.unwrap_or(feed.head.received);
    let begun = gap.from.unwrap_or(told);
    let (color, what) = if gap.filled {
        (AMBER, "filled since")
    } else {
        (RED, "not filled")
    };
    let whose = gap.symbol.as_ref().map(|symbol| format!(", {symbol}"));
    let whose = whose.unwrap_or_default();
    let mut tooltip = vec![format!("gap in feed {}{whose}: {what}", feed.head.symbol)];
    if let Some(until) = gap.to {
        let seconds = until.since(begun).as_secs_f64();
        tooltip.push(format!("lasted {seconds:.1} s"));
    }
    tooltip.extend(feed.detail.clone());
    Some(TimescaleMark {
        id: format!("gap-{epoch}-{seq}"),
        time: begun.seconds(),
        color,
        label: "G",
        tooltip,
        shape: "circle",
    })
}

#[cfg(test)]
mod tests {
    use schemas::time::UnixNanos;
    use serde_json::{Value, json};

    use super::*;

    fn place(created: i64, seq: u64) -> Place {
        let epoch = Epoch::new(UnixNanos::new(created), 0);
        (epoch, StreamSeq::new(seq))
    }

    fn status(seq: u64, state: &str, reason: Option<&str>) -> (Place, Status) {
        let mut tick = json!({ "v": "x", "y": "A", "tr": "9000000000", "st": state });
        if let Some(reason) = reason {
            tick["rs"] = json!(reason);
        }
        (place(5, seq), serde_json::from_value(tick).unwrap())
    }

    fn feed(fields: &Value) -> Feed {
        let mut tick = json!({ "v": "x", "y": "main", "tr": "9000000000" });
        for (name, value) in fields.as_object().unwrap() {
            tick[name] = value.clone();
        }
        serde_json::from_value(tick).unwrap()
    }

    #[test]
    fn changes_of_state_are_marked_once() {
        let marks = of_statuses(&[
            status(3, "open", None),
            status(4, "open", None),
            status(9, "halt", Some("volatility")),
        ]);
        let expected = json!({
            "id": ["status-5-0-3", "status-5-0-9"], "time": [9, 9], "color": [GREEN, RED],
            "text": ["open", "halted: volatility"], "label": ["O", "H"],
            "labelFontColor": "#0b1016", "minSize": 14,
        });
        assert_eq!(serde_json::to_value(marks).unwrap(), expected);
        // The adapter counts ids, even where there are none.
        let none = serde_json::to_value(of_statuses(&[])).unwrap();
        assert_eq!(none["id"], json!([]));
    }

    #[test]
    fn the_same_sequence_of_another_stream_is_another_mark() {
        let (mut open, mut halt) = (status(3, "open", None), status(3, "halt", None));
        (open.0, halt.0) = (place(5, 3), place(6, 3));
        assert_eq!(
            of_statuses(&[open, halt]).id,
            ["status-5-0-3", "status-6-0-3"]
        );
        let gap = feed(&json!({ "st": "gap", "gp": { "filled": true } }));
        let id = |created| of_feed(place(created, 3), &gap).unwrap().id;
        assert_ne!(id(5), id(6));
    }

    #[test]
    fn gaps_of_feeds_are_marked_where_they_began() {
        let gap = feed(&json!({ "st": "gap", "dt": "reconnected", "gp": {
            "symbol": "A", "from": "2000000000", "to": "3500000000", "filled": false } }));
        let mark = of_feed(place(5, 7), &gap).unwrap();
        let expected = json!({
            "id": "gap-5-0-7", "time": 2, "color": RED, "label": "G", "shape": "circle",
            "tooltip": ["gap in feed main, A: not filled", "lasted 1.5 s", "reconnected"],
        });
        assert_eq!(serde_json::to_value(mark).unwrap(), expected);
        let filled = feed(&json!({ "st": "gap", "gp": { "filled": true } }));
        let mark = of_feed(place(5, 8), &filled).unwrap();
        assert_eq!((mark.time, mark.color), (9, AMBER));
        let live = feed(&json!({ "st": "live" }));
        assert_eq!(of_feed(place(5, 9), &live), None);
    }
}
