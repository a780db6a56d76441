//! Whole ranges of history, read a page at a time as the client takes them: nothing is read ahead, and
//! no connection to the database is held while a client is slow.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, Uri};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream::try_unfold;
use prometheus_client::metrics::gauge::Gauge;
use schemas::http::{ItemError, Position, Table, write_line};
use schemas::id::Kind;
use schemas::position::{Epoch, StreamSeq};
use schemas::time::UnixNanos;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tracing::{Instrument as _, Span, error};

use super::answer::{Form, Format, frame, position_header};
use super::metrics::Metrics;
use super::problem::Problem;
use super::query::Mark;
use crate::store::{Found, Place, Progress, Range, Series, StoreError, TickStore};

/// Rows of the first page: little, so that the first byte comes soon.
const FIRST: u32 = 512;
/// Rows of every other page.
const PAGE: u32 = 4_096;
/// How much is written at a time, in bytes.
const CHUNK: usize = 32 * 1024;
/// How long reading a page may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// When a place may have become free.
const RETRY: Duration = Duration::from_secs(5);

/// Why a walk broke off.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the database did not answer within {} s", PATIENCE.as_secs())]
    Late,
    #[error("the client took longer than {} s", .0.as_secs())]
    Slow(Duration),
}

/// What is walked through.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// By time.
    Time(Range),
    /// By position; without an end, up to what is recorded when it begins.
    Position {
        /// Whose.
        series: Series,
        /// The epoch of the positions.
        epoch: Epoch,
        /// Behind this one.
        after: StreamSeq,
        /// Up to this one.
        until: Option<StreamSeq>,
    },
}

impl Way {
    fn series(&self) -> &Series {
        match self {
            Self::Time(Range { series, .. }) | Self::Position { series, .. } => series,
        }
    }

    async fn page<S: TickStore>(
        &self,
        store: &S,
        stream: &str,
        limit: u32,
    ) -> Result<(Vec<Found>, Option<Progress>), Broken> {
        let reading = async {
            match self {
                Self::Time(range) => {
                    let range = Range {
                        limit,
                        ..range.clone()
                    };
                    let page = store.page(stream, &range).await?;
                    Ok((page.rows, page.progress))
                }
                Self::Position {
                    series,
                    epoch,
                    after,
                    until,
                } => {
                    let until = until.unwrap_or(StreamSeq::new(u64::MAX >> 1));
                    let span = (*after, until);
                    let rows = store.by_position(series, *epoch, span, limit).await?;
                    Ok((rows, None))
                }
            }
        };
        timeout(PATIENCE, reading)
            .await
            .map_err(|_| Broken::Late)?
            .map_err(Broken::Store)
    }

    /// Goes on behind this row.
    fn go_behind(&mut self, row: &Found) {
        match self {
            Self::Time(range) => range.after = Some((row.at, row.epoch, row.seq)),
            Self::Position { after, .. } => *after = row.seq,
        }
    }
}

/// How many walks there may be at once, and how long each may take.
#[derive(Clone, Debug)]
pub(super) struct Walks {
    places: Arc<Semaphore>,
    deadline: Duration,
}

impl Walks {
    pub(super) fn new(places: usize, deadline: Duration) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places)),
            deadline,
        }
    }

    /// Begins a walk: its first page is read before anything is answered.
    ///
    /// # Errors
    ///
    /// There are too many already, or the database does not answer.
    pub(super) async fn begin<S: TickStore>(
        &self,
        store: S,
        stream: &str,
        (mut way, cursor): (Way, Option<Mark>),
        metrics: &Metrics,
    ) -> Result<Walk<S>, Problem> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            Problem::later(
                "as many exports are under way as may be: ask again, or with `limit`",
                RETRY,
            )
        })?;
        let ends = Instant::now() + self.deadline;
        if let Way::Position { until: None, .. } = way {
            way.end_at_floor(&store, stream).await?;
        }
        let (rows, progress) = way.page(&store, stream, FIRST).await?;
        let is_whole = rows.len() < full(FIRST);
        let last = match &way {
            Way::Time(range) if !is_whole && !range.descending => {
                let newest = Range {
                    descending: true,
                    after: None,
                    ..range.clone()
                };
                let (newest, _) = Way::Time(newest).page(&store, stream, 1).await?;
                newest.first().map(place_of)
            }
            Way::Time(_) | Way::Position { .. } => None,
        };
        // Live goes on from it only if nothing newer of the series was left out.
        let is_open = matches!(&way, Way::Time(range) if range.to == UnixNanos::new(i64::MAX)
            && (cursor.is_none() || !range.descending));
        let covered = cursor.map_or(progress, |mark| mark.covered);
        Ok(Walk {
            store,
            stream: stream.to_owned(),
            covered: covered.filter(|_| is_open),
            way,
            rows: rows.into_iter(),
            is_whole,
            last,
            ends,
            allowed: self.deadline,
            _running: Running::new(&metrics.exports, place),
        })
    }
}

impl Way {
    /// Ends at what is recorded now, so that the walk does not run after what is still being written.
    async fn end_at_floor<S: TickStore>(&mut self, store: &S, stream: &str) -> Result<(), Broken> {
        let Self::Position {
            series,
            epoch,
            until,
            ..
        } = self
        else {
            return Ok(());
        };
        let nothing = Range {
            series: series.clone(),
            from: UnixNanos::new(i64::MIN),
            to: UnixNanos::new(i64::MAX),
            descending: false,
            after: None,
            limit: 1,
        };
        let (_, progress) = Self::Time(nothing).page(store, stream, 1).await?;
        *until = progress
            .filter(|progress| progress.epoch == *epoch)
            .map(|progress| progress.floor.seq());
        Ok(())
    }
}

impl From<Broken> for Problem {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Store(problem) => problem.into(),
            Broken::Late | Broken::Slow(_) => Self::unavailable(broken.to_string()),
        }
    }
}

fn full(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

fn place_of(row: &Found) -> Place {
    (row.at, row.epoch, row.seq)
}

/// Counts a walk as long as it goes on.
struct Running {
    gauge: Gauge,
    _place: OwnedSemaphorePermit,
}

impl Running {
    fn new(gauge: &Gauge, place: OwnedSemaphorePermit) -> Self {
        gauge.inc();
        Self {
            gauge: gauge.clone(),
            _place: place,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

/// A range that is being read.
pub(super) struct Walk<S> {
    store: S,
    stream: String,
    way: Way,
    /// What the first page covered, if live goes on from there.
    covered: Option<Progress>,
    rows: std::vec::IntoIter<Found>,
    /// Whether all pages were read.
    is_whole: bool,
    /// The newest row when it began: what is written meanwhile is not run after.
    last: Option<Place>,
    ends: Instant,
    allowed: Duration,
    _running: Running,
}

impl<S: TickStore + 'static> Walk<S> {
    /// The answer: its body is made as it is taken, and breaks off where the walk does.
    pub(super) fn respond(self, form: Form, uri: &Uri) -> Response {
        let position = |Progress { epoch: e, floor: c }| (self.stream.clone(), Position { e, c });
        let pos = self.covered.map(position).into_iter().collect();
        let lines = Lines::new(form.format, self.way.series());
        let span = Span::current();
        let body = try_unfold((self, lines), move |(walk, lines)| {
            walk.step(lines).instrument(span.clone())
        });
        let mut response = Body::from_stream(body).into_response();
        let fields = response.headers_mut();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static(form.media_type));
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        frame(fields, uri, None, position_header(&pos));
        response
    }

    /// Writes the next piece; `None` at the end.
    async fn step(mut self, mut lines: Lines) -> Result<Option<(Bytes, (Self, Lines))>, Broken> {
        let piece = self.piece(&mut lines).await.inspect_err(|broken| {
            error!(%broken, "an export broke off");
        })?;
        Ok(piece.map(|piece| (piece, (self, lines))))
    }

    async fn piece(&mut self, lines: &mut Lines) -> Result<Option<Bytes>, Broken> {
        let mut piece = lines.begin();
        loop {
            while piece.len() < CHUNK
                && let Some(row) = self.rows.next()
            {
                if self.last.is_some_and(|last| place_of(&row) > last) {
                    self.is_whole = true;
                    self.rows = Vec::new().into_iter();
                    break;
                }
                lines.write(&mut piece, &row);
                self.way.go_behind(&row);
            }
            if !piece.is_empty() {
                return Ok(Some(piece.into()));
            }
            if self.is_whole {
                return Ok(None);
            }
            if Instant::now() > self.ends {
                return Err(Broken::Slow(self.allowed));
            }
            let (rows, _) = self.way.page(&self.store, &self.stream, PAGE).await?;
            self.is_whole = rows.len() < full(PAGE);
            self.rows = rows.into_iter();
        }
    }
}

/// Writes rows as lines.
struct Lines {
    /// The columns, if it is a table.
    table: Option<Table>,
    begun: bool,
}

impl Lines {
    fn new(format: Format, series: &Series) -> Self {
        let kind = match series {
            Series::Events(kind, ..) => *kind,
            Series::Bars(..) => Kind::Bar,
        };
        Self {
            table: (format == Format::Csv).then(|| Table::new(&[kind])),
            begun: false,
        }
    }

    /// A new piece: the first one of a table has its header.
    fn begin(&mut self) -> Vec<u8> {
        let mut piece = Vec::with_capacity(CHUNK + 1_024);
        if let Some(table) = self.table.as_ref().filter(|_| !self.begun) {
            table.write_header(&mut piece);
        }
        self.begun = true;
        piece
    }

    fn write(&self, piece: &mut Vec<u8>, row: &Found) {
        let written: Result<(), ItemError> = match &self.table {
            Some(table) => table.write_row(piece, row.seq, &row.payload),
            None => write_line(piece, row.seq, &row.payload),
        };
        if let Err(problem) = written {
            error!(%problem, seq = row.seq.get(), "a stored tick is damaged");
        }
    }
}
