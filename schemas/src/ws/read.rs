//! Reads client messages: bounded in depth and number, and every error names its field.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{ClientOp, Conflate, Encoding, ErrorCode, From, Subscribe};
use crate::position::StreamSeq;

/// The most ops in one message.
pub const MAX_OPS: usize = 64;
/// The deepest nesting that is read: message, op, `from`, stream, `s`, and one to spare.
const MAX_DEPTH: usize = 8;

/// Why a whole message cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not JSON.
    #[error("message is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Not MessagePack.
    #[error("message is not MessagePack: {0}")]
    MessagePack(#[from] rmp_serde::decode::Error),
    /// Bytes behind the message.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
    /// Not an array.
    #[error("message must be an array of objects")]
    NotArray,
    /// More ops than the limit.
    #[error("message has {0} ops, the limit is {MAX_OPS}")]
    TooMany(usize),
}

/// Why one op cannot be carried out; the others of its message can.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct OpError {
    /// The op's id, where it could be read.
    pub id: Option<u64>,
    /// Why, for programs.
    pub code: ErrorCode,
    /// Why, for people: the field and what was expected.
    pub message: String,
}

/// Reads a client's message: its ops, or for each that is wrong, why.
///
/// # Errors
///
/// [`ReadError`] if it is not an array of at most [`MAX_OPS`] in the given encoding.
pub fn read_ops(
    encoding: Encoding,
    bytes: &[u8],
) -> Result<Vec<Result<ClientOp, OpError>>, ReadError> {
    let Value::Array(items) = parse(encoding, bytes)? else {
        return Err(ReadError::NotArray);
    };
    if items.len() > MAX_OPS {
        return Err(ReadError::TooMany(items.len()));
    }
    Ok(items.into_iter().map(read_op).collect())
}

fn parse(encoding: Encoding, bytes: &[u8]) -> Result<Value, ReadError> {
    match encoding {
        Encoding::Json => Ok(serde_json::from_slice(bytes)?),
        Encoding::MessagePack => {
            let mut rest = bytes;
            let mut deserializer = rmp_serde::Deserializer::new(&mut rest);
            deserializer.set_max_depth(MAX_DEPTH);
            let value = Value::deserialize(&mut deserializer)?;
            if rest.is_empty() {
                Ok(value)
            } else {
                Err(ReadError::Trailing(rest.len()))
            }
        }
    }
}

/// The fields of one op; what they hold is taken out one by one.
struct Fields {
    id: Option<u64>,
    map: Map<String, Value>,
}

impl Fields {
    fn wrong(&self, message: impl Into<String>) -> OpError {
        OpError {
            id: self.id,
            code: ErrorCode::BadRequest,
            message: message.into(),
        }
    }

    fn topics(&mut self) -> Result<Vec<String>, OpError> {
        let Some(Value::Array(items)) = self.map.remove("topics") else {
            return Err(self.wrong("topics must be an array of strings"));
        };
        if items.is_empty() {
            return Err(self.wrong("topics must name at least one topic or pattern"));
        }
        let text = |(index, item): (usize, Value)| {
            let wrong = || self.wrong(format!("topics[{index}] must be a string"));
            item.as_str().map(str::to_owned).ok_or_else(wrong)
        };
        items.into_iter().enumerate().map(text).collect()
    }

    fn snapshot(&mut self) -> Result<Option<bool>, OpError> {
        match self.map.remove("snapshot") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(wanted)) => Ok(Some(wanted)),
            Some(_) => Err(self.wrong("snapshot must be true or false")),
        }
    }

    fn conflate(&mut self) -> Result<Conflate, OpError> {
        let wanted = match self.map.remove("conflate") {
            None | Some(Value::Null) => Some(Conflate::Auto),
            Some(Value::String(text)) if text == "auto" => Some(Conflate::Auto),
            Some(Value::String(text)) if text == "none" => Some(Conflate::None),
            Some(Value::Number(number)) => number
                .as_u64()
                .and_then(|millis| u32::try_from(millis).ok())
                .filter(|millis| Conflate::MILLIS.contains(millis))
                .map(Conflate::Millis),
            Some(_) => None,
        };
        wanted.ok_or_else(|| {
            let (low, high) = (Conflate::MILLIS.start(), Conflate::MILLIS.end());
            self.wrong(format!(
                "conflate must be \"auto\", \"none\" or {low} to {high} milliseconds"
            ))
        })
    }

    fn from(&mut self) -> Result<BTreeMap<String, From>, OpError> {
        let streams = match self.map.remove("from") {
            None | Some(Value::Null) => return Ok(BTreeMap::new()),
            Some(Value::Object(streams)) => streams,
            Some(_) => return Err(self.wrong("from must be an object by stream name")),
        };
        let read = |(stream, value): (String, Value)| {
            let position = self.position(&stream, value)?;
            Ok((stream, position))
        };
        streams.into_iter().map(read).collect()
    }

    fn position(&self, stream: &str, value: Value) -> Result<From, OpError> {
        let Value::Object(mut fields) = value else {
            return Err(self.wrong(format!("from.{stream} must be an object with e, c and s")));
        };
        let Some(e) = fields
            .remove("e")
            .and_then(|e| serde_json::from_value(e).ok())
        else {
            return Err(self.wrong(format!("from.{stream}.e must be an epoch as in welcome")));
        };
        let c = match fields.remove("c") {
            None | Some(Value::Null) => None,
            Some(cursor) => Some(serde_json::from_value(cursor).map_err(|_| {
                self.wrong(format!(
                    "from.{stream}.c must be a cursor as in hb, or \"0\""
                ))
            })?),
        };
        let s = match fields.remove("s") {
            None | Some(Value::Null) => BTreeMap::new(),
            Some(Value::Object(topics)) => topics
                .into_iter()
                .map(|(topic, seq)| match seq.as_u64() {
                    Some(seq) => Ok((topic, StreamSeq::new(seq))),
                    None => {
                        Err(self.wrong(format!("from.{stream}.s[{topic:?}] must be a sequence")))
                    }
                })
                .collect::<Result<_, _>>()?,
            Some(_) => {
                return Err(self.wrong(format!("from.{stream}.s must be an object by topic")));
            }
        };
        Ok(From { e, c, s })
    }
}

fn read_op(item: Value) -> Result<ClientOp, OpError> {
    let Value::Object(mut map) = item else {
        let message = "every item of a message must be an object".to_owned();
        return Err(OpError {
            id: None,
            code: ErrorCode::BadRequest,
            message,
        });
    };
    let id = match map.remove("id") {
        None | Some(Value::Null) => None,
        Some(id) => Some(id.as_u64().ok_or_else(|| OpError {
            id: None,
            code: ErrorCode::BadRequest,
            message: "id must be a whole number from 0 to 2^64 - 1".to_owned(),
        })?),
    };
    let op = map.remove("op");
    let mut fields = Fields { id, map };
    match op.as_ref().and_then(Value::as_str) {
        Some("subscribe") => Ok(ClientOp::Subscribe(Subscribe {
            id,
            topics: fields.topics()?,
            snapshot: fields.snapshot()?,
            conflate: fields.conflate()?,
            from: fields.from()?,
        })),
        Some("unsubscribe") => Ok(ClientOp::Unsubscribe {
            id,
            topics: fields.topics()?,
        }),
        Some("list") => Ok(ClientOp::List { id }),
        Some("ping") => Ok(ClientOp::Ping { id }),
        Some("auth") => Ok(ClientOp::Auth { id }),
        _ => Err(fields.wrong("op must be subscribe, unsubscribe, list, ping or auth")),
    }
}
