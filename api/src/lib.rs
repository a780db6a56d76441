//! Recorder (JetStream to database) and HTTP: history, latest values, the console page.
//!
//! | module | does |
//! |---|---|
//! | [`store`] | the seam to databases, and its implementations |
//! | [`indicators`] | technical indicators over bars |
//! | [`recorder`] | writes every recorded tick once |
//! | [`server`] | answers over HTTP |

pub mod indicators;
pub mod recorder;
pub mod server;
pub mod store;
