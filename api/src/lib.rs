//! Recorder (JetStream to database) and HTTP: history, latest values, the console page.
//!
//! | module | does |
//! |---|---|
//! | [`store`] | the seam to databases, and its implementations |
//! | [`bars`] | bars of any length, by calendars |
//! | [`indicators`] | technical indicators over bars |
//! | [`recorder`] | writes every recorded tick once |
//! | [`server`] | answers over HTTP |
//! | `udf` | instruments, bars, quotes and marks in TradingView's words; pure |

pub mod bars;
pub mod indicators;
pub mod recorder;
pub mod server;
pub mod store;
mod udf;
