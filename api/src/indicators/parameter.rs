//! Parameters of indicators: their defaults and limits, and what is given for them.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::Serialize;

use super::registry::{Description, IndicatorError, join, start_of};

/// One figure per bar.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct Output {
    /// Unique in the indicator.
    pub name: &'static str,
    /// Bars by which charts draw it ahead of the bar that it comes with (negative: back).
    pub shift: i8,
}

/// A number or a word that an indicator may be given.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct Parameter {
    /// Name in requests.
    pub name: &'static str,
    /// Default and limits.
    #[serde(flatten)]
    pub limits: Limits,
}

/// What a parameter may be.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
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
    pub(super) fn new(
        description: &'static Description,
        given: &'a BTreeMap<String, String>,
    ) -> Self {
        Self { description, given }
    }

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
    pub(super) fn label(&self) -> Result<String, IndicatorError> {
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
