//! Indicators by name.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::parameter::{Arguments, Output, Parameter};
use super::{Indicator, Study};
use super::{momentum, moving, parabolic, place, trend, volatility, volume};

/// What an indicator is called, takes and gives.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct Description {
    /// Name in requests, lower case.
    pub name: &'static str,
    /// Name for people.
    pub title: &'static str,
    /// In the order in which they are usually written.
    pub parameters: &'static [Parameter],
    /// In the order of [`Values`](super::Values).
    pub outputs: &'static [Output],
    /// Makes one from checked arguments.
    #[serde(skip)]
    pub(super) build: fn(&Arguments<'_>) -> Result<Box<dyn Study>, IndicatorError>,
}

/// Why there is no such indicator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndicatorError {
    /// No indicator of this name.
    #[error("indicator {0:?} is not known; known are {known}", known = names())]
    Unknown(String),
    /// A parameter that the indicator does not have.
    #[error("{indicator} has no parameter {parameter:?}; it has {known}")]
    UnknownParameter {
        /// The indicator.
        indicator: &'static str,
        /// The parameter.
        parameter: String,
        /// Those that it has.
        known: String,
    },
    /// A value beyond the limits of its parameter.
    #[error("{parameter} must be {limits}, not {value:?}")]
    Refused {
        /// The parameter.
        parameter: &'static str,
        /// What it may be.
        limits: String,
        /// What was given, its first characters.
        value: String,
    },
    /// Two parameters in the wrong order.
    #[error("{lower} must be less than {upper}")]
    Order {
        /// The one that must be less.
        lower: &'static str,
        /// The other one.
        upper: &'static str,
    },
}

impl IndicatorError {
    /// The parameter at fault; none where it is the name of the indicator.
    pub fn parameter(&self) -> Option<&str> {
        match self {
            Self::Unknown(_) => None,
            Self::UnknownParameter { parameter, .. } => Some(parameter),
            Self::Refused { parameter, .. } => Some(parameter),
            Self::Order { lower, .. } => Some(lower),
        }
    }
}

/// Every indicator, by family.
pub fn describe() -> impl Iterator<Item = &'static Description> {
    [
        moving::ALL,
        momentum::ALL,
        place::ALL,
        volatility::ALL,
        volume::ALL,
        trend::ALL,
        parabolic::ALL,
    ]
    .into_iter()
    .flatten()
}

/// Makes the indicator `name`; parameters that are not given have their defaults.
///
/// # Errors
///
/// [`IndicatorError`] names the parameter and its limits.
pub fn parse(
    name: &str,
    parameters: &BTreeMap<String, String>,
) -> Result<Indicator, IndicatorError> {
    let description = describe()
        .find(|description| description.name == name)
        .ok_or_else(|| IndicatorError::Unknown(start_of(name)))?;
    let known = description.parameters;
    if let Some(stranger) = parameters
        .keys()
        .find(|given| known.iter().all(|parameter| parameter.name != *given))
    {
        return Err(description.unknown(stranger));
    }
    let arguments = Arguments::new(description, parameters);
    let study = (description.build)(&arguments)?;
    let label = arguments.label()?;
    Ok(Indicator::new(description, label, study))
}

fn names() -> String {
    join(describe().map(|description| description.name))
}

pub(super) fn join<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(", ")
}

pub(super) fn start_of(text: &str) -> String {
    text.chars().take(64).collect()
}

impl Description {
    pub(super) fn unknown(&self, parameter: &str) -> IndicatorError {
        let known = join(self.parameters.iter().map(|parameter| parameter.name));
        IndicatorError::UnknownParameter {
            indicator: self.name,
            parameter: start_of(parameter),
            known: if known.is_empty() {
                "none".to_owned()
            } else {
                known
            },
        }
    }
}
