//! TradingView's Universal Data Feed, as far as it can be told without asking anybody: instruments,
//! bars, quotes and marks in the words of its adapter.
//!
//! An answer that goes wrong is a [`refusal::Refusal`]: TradingView wants its own form of an error.

pub(crate) mod history;
pub(crate) mod marks;
mod number;
pub(crate) mod quotes;
pub(crate) mod refusal;
pub(crate) mod symbol;
pub(crate) mod ticker;
pub(crate) mod times;
