//! Rows in the binary format of COPY, and the decimals of a tick beside its payload.

use rust_decimal::Decimal;
use schemas::decimal::{Price, Size};
use schemas::id::Kind;
use schemas::position::Epoch;
use serde::Deserialize;
use sqlx::Encode as _;
use sqlx::postgres::PgArgumentBuffer;

use super::StoreError;
use crate::store::statements::int;
use crate::store::{Content, Row};

/// Where what [`Encoder`] writes goes.
pub(super) const EVENTS: &str = "COPY events (at, created, gen, s, kind, venue, symbol, payload, \
     price, size, bid, bid_size, ask, ask_size) FROM STDIN (FORMAT binary)";
const COLUMNS: i16 = 14;
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: i16 = -1;
const NULL: i32 = -1;

/// The decimals that a database answers questions about; those of other kinds are absent.
#[derive(Debug, Default, Deserialize)]
struct Wire {
    p: Option<Price>,
    z: Option<Size>,
    b: Option<Price>,
    bz: Option<Size>,
    a: Option<Price>,
    az: Option<Size>,
}

/// Price, size, bid, its size, ask, its size.
pub(super) type Figures = [Option<Decimal>; 6];

/// The decimals of a trade or a quote; of anything else, none.
pub(super) fn figures(row: &Row) -> Figures {
    let Content::Event {
        kind: Kind::Trade | Kind::Quote,
        ..
    } = row.content
    else {
        return Figures::default();
    };
    let wire: Wire = rmp_serde::from_slice(&row.payload).unwrap_or_default();
    [
        wire.p.map(Price::get),
        wire.z.map(Size::get),
        wire.b.map(Price::get),
        wire.bz.map(Size::get),
        wire.a.map(Price::get),
        wire.az.map(Size::get),
    ]
}

/// Open, high, low, close, volume.
pub(super) type Candle = [Option<Decimal>; 5];

/// The decimals of a bar.
pub(super) fn candle(payload: &[u8]) -> Candle {
    #[derive(Deserialize)]
    struct Bar {
        o: Price,
        h: Price,
        l: Price,
        c: Price,
        vo: Size,
    }
    let Ok(Bar { o, h, l, c, vo }) = rmp_serde::from_slice(payload) else {
        return Candle::default();
    };
    [o.get(), h.get(), l.get(), c.get(), vo.get()].map(Some)
}

/// Fields of a row, each behind its length.
struct Fields(PgArgumentBuffer);

impl Fields {
    fn int(&mut self, value: i64) {
        self.bytes(&value.to_be_bytes());
    }

    fn bytes(&mut self, value: &[u8]) {
        // No message of a broker is as long as that.
        let length = i32::try_from(value.len()).unwrap_or(i32::MAX);
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(value);
    }

    fn decimal(&mut self, value: Option<Decimal>) -> Result<(), StoreError> {
        let Some(value) = value else {
            self.0.extend_from_slice(&NULL.to_be_bytes());
            return Ok(());
        };
        let place = self.0.len();
        self.0.extend_from_slice(&NULL.to_be_bytes());
        let encoded = value.encode_by_ref(&mut self.0);
        let _ = encoded.map_err(sqlx::Error::Encode)?;
        let length = self.0.len() - place - size_of::<i32>();
        let length = i32::try_from(length).unwrap_or(NULL).to_be_bytes();
        if let Some(hole) = self.0.get_mut(place..place + length.len()) {
            hole.copy_from_slice(&length);
        }
        Ok(())
    }
}

/// Writes events, as many at a time as are asked for.
pub(super) struct Encoder {
    epoch: Epoch,
    fields: Fields,
}

impl Encoder {
    pub(super) fn new(epoch: Epoch) -> Self {
        let mut fields = Fields(PgArgumentBuffer::default());
        fields.0.extend_from_slice(SIGNATURE);
        Self { epoch, fields }
    }

    /// Adds a row, if it is an event.
    pub(super) fn push(&mut self, row: &Row) -> Result<(), StoreError> {
        let Content::Event {
            kind,
            venue,
            symbol,
            at,
        } = &row.content
        else {
            return Ok(());
        };
        let fields = &mut self.fields;
        fields.0.extend_from_slice(&COLUMNS.to_be_bytes());
        fields.int(at.get());
        fields.int(self.epoch.created().get());
        fields.int(i64::from(self.epoch.generation()));
        fields.int(int(row.seq));
        fields.bytes(kind.as_str().as_bytes());
        fields.bytes(venue.as_str().as_bytes());
        fields.bytes(symbol.as_str().as_bytes());
        fields.bytes(&row.payload);
        for figure in figures(row) {
            fields.decimal(figure)?;
        }
        Ok(())
    }

    /// What was written and not sent.
    pub(super) fn pending(&self) -> &[u8] {
        &self.fields.0
    }

    /// It was sent.
    pub(super) fn sent(&mut self) {
        self.fields.0.clear();
    }

    /// Ends it; what is pending then is the last.
    pub(super) fn end(&mut self) {
        self.fields.0.extend_from_slice(&TRAILER.to_be_bytes());
    }
}
