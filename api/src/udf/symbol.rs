//! What TradingView must know of an instrument, made from its `inst` tick.

use schemas::decimal::{Price, Size};
use schemas::tick::Inst;
use schemas::time::UnixNanos;
use serde::Serialize;

use super::ticker::Ticker;

/// The most decimals that a price scale can have: it is a whole number below 2^53.
const MAX_DECIMALS: u32 = 15;
/// Decimals of prices of which nothing is known.
const DECIMALS: u32 = 2;
/// Decimals of volumes where the venue does not tell its lot.
const VOLUME_DECIMALS: u32 = 8;

/// The answer to `/udf/symbols`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[expect(clippy::struct_excessive_bools, reason = "the protocol's flags")]
pub(crate) struct SymbolInfo {
    name: String,
    ticker: String,
    full_name: String,
    description: String,
    #[serde(rename = "type")]
    class: String,
    session: String,
    session_holidays: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    corrections: Option<String>,
    timezone: String,
    exchange: String,
    listed_exchange: String,
    #[serde(rename = "exchange-traded")]
    traded: String,
    #[serde(rename = "exchange-listed")]
    listed: String,
    minmov: u64,
    minmov2: u64,
    pricescale: u64,
    format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    currency_code: Option<String>,
    has_intraday: bool,
    has_seconds: bool,
    has_daily: bool,
    has_weekly_and_monthly: bool,
    supported_resolutions: Vec<String>,
    #[serde(flatten)]
    multipliers: Multipliers,
    visible_plots_set: &'static str,
    volume_precision: u32,
    data_status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expired: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration_date: Option<i64>,
}

/// The lengths that the server has, by unit: the client makes none of them itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
struct Multipliers {
    #[serde(rename = "seconds_multipliers")]
    seconds: Vec<String>,
    #[serde(rename = "intraday_multipliers")]
    intraday: Vec<String>,
    #[serde(rename = "daily_multipliers")]
    daily: Vec<String>,
    #[serde(rename = "weekly_multipliers")]
    weekly: Vec<String>,
    #[serde(rename = "monthly_multipliers")]
    monthly: Vec<String>,
}

impl Multipliers {
    fn of(resolutions: &[String]) -> Self {
        let mut all = Self::default();
        for resolution in resolutions {
            let unit = resolution.trim_start_matches(|c: char| c.is_ascii_digit());
            let number = resolution.trim_end_matches(unit).to_owned();
            match unit {
                "S" => all.seconds.push(number),
                "D" => all.daily.push(number),
                "W" => all.weekly.push(number),
                "M" => all.monthly.push(number),
                _ => all.intraday.push(number),
            }
        }
        all
    }
}

/// When an instrument trades.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hours {
    /// As TradingView writes them: `24x7`, `0930-1600`.
    pub(crate) session: String,
    /// IANA name of the time zone.
    pub(crate) zone: String,
    /// Days without trade, `YYYYMMDD`.
    pub(crate) holidays: Vec<String>,
    /// Days with other hours, as TradingView writes them: `0930-1300:20261127`.
    pub(crate) corrections: Vec<String>,
}

/// Describes an instrument. `seen` is a price of it, for those whose venue tells no tick size.
pub(crate) fn describe(
    inst: &Inst,
    hours: Hours,
    seen: Option<Price>,
    resolutions: Vec<String>,
    now: UnixNanos,
) -> SymbolInfo {
    let ticker = ticker_of(inst);
    let venue = ticker.venue.to_string();
    let (minmov, pricescale) = scale(inst.tick_size, seen);
    SymbolInfo {
        name: ticker.symbol.to_string(),
        ticker: ticker.to_string(),
        full_name: ticker.to_string(),
        description: description(inst),
        class: class(inst).to_owned(),
        session: hours.session,
        session_holidays: hours.holidays.join(","),
        corrections: (!hours.corrections.is_empty()).then(|| hours.corrections.join(";")),
        timezone: time_zone(hours.zone),
        exchange: venue.clone(),
        listed_exchange: venue.clone(),
        traded: venue.clone(),
        listed: venue,
        minmov,
        minmov2: 0,
        pricescale,
        format: "price",
        currency_code: inst.quote.clone(),
        has_intraday: true,
        has_seconds: true,
        has_daily: true,
        has_weekly_and_monthly: true,
        multipliers: Multipliers::of(&resolutions),
        supported_resolutions: resolutions,
        visible_plots_set: "ohlcv",
        volume_precision: inst.lot.map_or(VOLUME_DECIMALS, decimals_of_lot),
        data_status: "streaming",
        expired: inst.expiry.map(|expiry| expiry <= now),
        expiration_date: inst.expiry.map(UnixNanos::seconds),
    }
}

/// The name that an instrument has here.
pub(crate) fn ticker_of(inst: &Inst) -> Ticker {
    Ticker {
        venue: inst.head.venue.clone(),
        symbol: inst.head.symbol.clone(),
    }
}

/// What an instrument is called, for people.
pub(crate) fn description(inst: &Inst) -> String {
    let pair = || {
        Some(format!(
            "{} / {}",
            inst.base.as_ref()?,
            inst.quote.as_ref()?
        ))
    };
    let name = inst.name.clone().or_else(pair);
    name.unwrap_or_else(|| inst.head.symbol.to_string())
}

/// The instrument's class in TradingView's words, where it has one of its own.
pub(crate) fn class(inst: &Inst) -> &str {
    match inst.class.as_str() {
        "equity" => "stock",
        "future" => "futures",
        other => other,
    }
}

/// TradingView takes `UTC` by one name only.
fn time_zone(name: String) -> String {
    match name.as_str() {
        "UTC" | "Etc/GMT" | "GMT" | "Z" => "Etc/UTC".to_owned(),
        _ => name,
    }
}

/// The smallest step of a price as `minmov / pricescale`.
fn scale(tick_size: Option<Price>, seen: Option<Price>) -> (u64, u64) {
    let of = |decimals: u32| 10_u64.pow(decimals.min(MAX_DECIMALS));
    let step = tick_size.map(|size| size.get().normalize());
    let step = step.filter(|step| step.is_sign_positive() && !step.is_zero());
    let Some(step) = step else {
        return (1, of(seen.map_or(DECIMALS, |price| price.get().scale())));
    };
    match u64::try_from(step.mantissa()) {
        Ok(steps) if step.scale() <= MAX_DECIMALS => (steps, of(step.scale())),
        Ok(_) | Err(_) => (1, of(step.scale())),
    }
}

fn decimals_of_lot(lot: Size) -> u32 {
    lot.get().normalize().scale()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn inst(fields: &Value) -> Inst {
        let mut tick = json!({ "v": "nse", "y": "A:B", "tr": "1", "ty": "equity" });
        for (name, value) in fields.as_object().unwrap() {
            tick[name] = value.clone();
        }
        serde_json::from_value(tick).unwrap()
    }

    fn described(fields: &Value, session: &str, zone: &str) -> Value {
        let resolutions = ["1S", "1", "60", "1D", "1W", "1M"].map(str::to_owned);
        let now = UnixNanos::new(2_000_000_000);
        let early = match session {
            "24x7" => Vec::new(),
            _ => ["0915-1300:20261127", "0915-1200:20261224"]
                .map(str::to_owned)
                .into(),
        };
        let hours = Hours {
            session: session.to_owned(),
            zone: zone.to_owned(),
            holidays: vec!["20260126".to_owned(), "20261225".to_owned()],
            corrections: early,
        };
        let info = describe(&inst(fields), hours, None, resolutions.into(), now);
        serde_json::to_value(info).unwrap()
    }

    #[test]
    fn an_instrument_is_described_in_tradingviews_words() {
        let info = json!({
            "nm": "Alpha Beta", "qc": "INR", "ts": "0.05", "lt": "0.010", "ex": "3000000000",
        });
        let info = described(&info, "0915-1530", "Asia/Kolkata");
        let expected = json!({
            "name": "A:B", "ticker": "nse:A:B", "full_name": "nse:A:B", "description": "Alpha Beta",
            "type": "stock", "session": "0915-1530", "session_holidays": "20260126,20261225",
            "corrections": "0915-1300:20261127;0915-1200:20261224", "timezone": "Asia/Kolkata",
            "exchange": "nse", "listed_exchange": "nse", "exchange-traded": "nse", "exchange-listed": "nse",
            "minmov": 5, "minmov2": 0, "pricescale": 100, "format": "price", "currency_code": "INR",
            "has_intraday": true, "has_seconds": true, "has_daily": true, "has_weekly_and_monthly": true,
            "supported_resolutions": ["1S", "1", "60", "1D", "1W", "1M"],
            "seconds_multipliers": ["1"], "intraday_multipliers": ["1", "60"], "daily_multipliers": ["1"],
            "weekly_multipliers": ["1"], "monthly_multipliers": ["1"],
            "visible_plots_set": "ohlcv", "volume_precision": 2, "data_status": "streaming",
            "expired": false, "expiration_date": 3,
        });
        assert_eq!(info, expected);
        // The adapter takes any answer with an `s` for an error.
        assert_eq!(info.get("s"), None);
    }

    #[test]
    fn what_is_not_known_is_left_out_or_has_a_default() {
        let info = described(
            &json!({ "ty": "spot", "bc": "BTC", "qc": "USDT" }),
            "24x7",
            "UTC",
        );
        for (name, value) in [
            ("description", json!("BTC / USDT")),
            ("type", json!("spot")),
            ("session", json!("24x7")),
            ("timezone", json!("Etc/UTC")),
            ("minmov", json!(1)),
            ("pricescale", json!(100)),
            ("volume_precision", json!(8)),
        ] {
            assert_eq!(info[name], value, "{name}");
        }
        assert_eq!(info.get("expired"), None);
        assert_eq!(info.get("corrections"), None);
        assert_eq!(described(&json!({}), "24x7", "UTC")["description"], "A:B");
    }

    #[test]
    fn the_price_scale_is_the_tick_size() {
        let price = |text: &str| text.parse::<Price>().unwrap();
        for (tick_size, expected) in [
            ("0.01", (1, 100)),
            ("0.010", (1, 100)),
            ("0.25", (25, 100)),
            ("0.00000001", (1, 100_000_000)),
            ("5", (5, 1)),
            ("500", (500, 1)),
            ("0.0000000000000000000000001", (1, 1_000_000_000_000_000)),
            ("0", (1, 1_000)),
            ("-1", (1, 1_000)),
        ] {
            let found = scale(Some(price(tick_size)), Some(price("1.500")));
            assert_eq!(found, expected, "{tick_size}");
        }
    }
}
