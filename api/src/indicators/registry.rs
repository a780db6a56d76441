//! Indicators by name: their parameters with defaults and limits, and what they give.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use serde::Serialize;

use super::{Indicator, Study};
use super::{momentum, moving, trend, volatility, volume};

/// What an indicator is called, takes and gives.
#[derive(Clone, Copy, Debug, Serialize)]
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

/// One figure per bar.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Output {
    /// Unique in the indicator.
    pub name: &'static str,
    /// Bars by which charts draw it ahead of the bar that it comes with (negative: back).
    pub shift: i8,
}

/// A number or a word that an indicator may be given.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Parameter {
    /// Name in requests.
    pub name: &'static str,
    /// Default and limits.
    #[serde(flatten)]
    pub limits: Limits,
}

/// What a parameter may be.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Limits {
    /// A whole number.
    Integer {
        /// Where it is not given.
        default: u16,
        /// Lowest.
        min: u16,
        /// Highest.
        max: u16,
    },
    /// Any number.
    Number {
        /// Where it is not given.
        default: f64,
        /// Lowest.
        min: f64,
        /// Highest.
        max: f64,
    },
    /// One of some words.
    Choice {
        /// Where it is not given.
        default: &'static str,
        /// All of them.
        of: &'static [&'static str],
    },
    /// A time zone of the IANA database.
    Zone {
        /// Where it is not given.
        default: &'static str,
    },
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
        volatility::ALL,
        volume::ALL,
        trend::ALL,
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
    let arguments = Arguments {
        description,
        given: parameters,
    };
    let study = (description.build)(&arguments)?;
    let label = arguments.label()?;
    Ok(Indicator::new(description, label, study))
}

fn names() -> String {
    join(describe().map(|description| description.name))
}

fn join<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(", ")
}

fn start_of(text: &str) -> String {
    text.chars().take(64).collect()
}

impl Description {
    fn unknown(&self, parameter: &str) -> IndicatorError {
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

impl Parameter {
    /// Number of bars: 1 to 1000.
    pub(super) const fn period(name: &'static str, default: u16) -> Self {
        Self::count(name, default, 1)
    }

    /// Number of bars: `min` to 1000.
    pub(super) const fn count(name: &'static str, default: u16, min: u16) -> Self {
        let max = 1000;
        let limits = Limits::Integer { default, min, max };
        Self { name, limits }
    }

    pub(super) const fn number(name: &'static str, default: f64, min: f64, max: f64) -> Self {
        let limits = Limits::Number { default, min, max };
        Self { name, limits }
    }

    pub(super) const fn choice(name: &'static str, of: &'static [&'static str]) -> Self {
        let default = match of {
            [first, ..] => first,
            [] => "",
        };
        let limits = Limits::Choice { default, of };
        Self { name, limits }
    }

    pub(super) const fn zone(name: &'static str) -> Self {
        let limits = Limits::Zone { default: "UTC" };
        Self { name, limits }
    }

    fn refuse(&self, value: &str) -> IndicatorError {
        let limits = match self.limits {
            Limits::Integer { min, max, .. } => format!("a whole number from {min} to {max}"),
            Limits::Number { min, max, .. } => format!("a number from {min} to {max}"),
            Limits::Choice { of, .. } => format!("one of {}", join(of.iter().copied())),
            Limits::Zone { .. } => "a time zone such as UTC or Asia/Karachi".to_owned(),
        };
        IndicatorError::Refused {
            parameter: self.name,
            limits,
            value: start_of(value),
        }
    }
}

impl Output {
    pub(super) const fn new(name: &'static str) -> Self {
        Self { name, shift: 0 }
    }

    pub(super) const fn shifted(name: &'static str, shift: i8) -> Self {
        Self { name, shift }
    }
}

/// What an indicator is made from. Each reading checks the parameter against its limits.
pub(super) struct Arguments<'a> {
    description: &'static Description,
    given: &'a BTreeMap<String, String>,
}

impl<'a> Arguments<'a> {
    fn find(&self, name: &str) -> Result<(&'static Parameter, Option<&'a str>), IndicatorError> {
        let parameter = self
            .description
            .parameters
            .iter()
            .find(|parameter| parameter.name == name)
            .ok_or_else(|| self.description.unknown(name))?;
        Ok((parameter, self.given.get(name).map(String::as_str)))
    }

    pub(super) fn whole(&self, name: &str) -> Result<u16, IndicatorError> {
        let (parameter, given) = self.find(name)?;
        let Limits::Integer { default, min, max } = parameter.limits else {
            return Err(self.description.unknown(name));
        };
        let Some(text) = given else {
            return Ok(default);
        };
        let number = text.parse().ok();
        number
            .filter(|number| (min..=max).contains(number))
            .ok_or_else(|| parameter.refuse(text))
    }

    pub(super) fn number(&self, name: &str) -> Result<f64, IndicatorError> {
        let (parameter, given) = self.find(name)?;
        let Limits::Number { default, min, max } = parameter.limits else {
            return Err(self.description.unknown(name));
        };
        let Some(text) = given else {
            return Ok(default);
        };
        let number = text.parse().ok();
        number
            .filter(|number| (min..=max).contains(number))
            .ok_or_else(|| parameter.refuse(text))
    }

    pub(super) fn choice(&self, name: &str) -> Result<&'static str, IndicatorError> {
        let (parameter, given) = self.find(name)?;
        let Limits::Choice { default, of } = parameter.limits else {
            return Err(self.description.unknown(name));
        };
        let Some(text) = given else {
            return Ok(default);
        };
        let word = of.iter().copied().find(|word| *word == text);
        word.ok_or_else(|| parameter.refuse(text))
    }

    pub(super) fn zone(&self, name: &str) -> Result<TimeZone, IndicatorError> {
        let (parameter, given) = self.find(name)?;
        let Limits::Zone { default } = parameter.limits else {
            return Err(self.description.unknown(name));
        };
        let text = given.unwrap_or(default);
        TimeZone::get(text).map_err(|_| parameter.refuse(text))
    }

    /// Name and all parameters, the same for the same indicator however it was asked for.
    fn label(&self) -> Result<String, IndicatorError> {
        let mut parts = Vec::with_capacity(self.description.parameters.len());
        for parameter in self.description.parameters {
            parts.push(match parameter.limits {
                Limits::Integer { .. } => self.whole(parameter.name)?.to_string(),
                Limits::Number { .. } => self.number(parameter.name)?.to_string(),
                Limits::Choice { .. } => self.choice(parameter.name)?.to_owned(),
                Limits::Zone { .. } => {
                    let zone = self.zone(parameter.name)?;
                    zone.iana_name().unwrap_or("UTC").to_owned()
                }
            });
        }
        Ok(format!("{}({})", self.description.name, parts.join(",")))
    }
}
