//! Encodings: MessagePack on NATS and in the database, JSON for browsers, and the way between.

mod span;
mod transcode;
mod wide;

use serde::Deserialize;

pub(crate) use span::{entries, split};
pub use transcode::{TranscodeError, transcode};
pub(crate) use wide::Wide;

use crate::id::Kind;
use crate::tick::Tick;

/// Why bytes are not a tick.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Not MessagePack, or not a tick of the expected kind.
    #[error("tick in MessagePack: {0}")]
    MessagePack(#[from] rmp_serde::decode::Error),
    /// Not JSON, or not a tick of the expected kind.
    #[error("tick in JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A tick that cannot be written.
    #[error("tick to MessagePack: {0}")]
    Encode(#[from] rmp_serde::encode::Error),
    /// Bytes behind the tick.
    #[error("{0} bytes follow the tick")]
    Trailing(usize),
}

#[derive(Deserialize)]
struct Tag {
    k: Kind,
}

/// Writes a tick as a MessagePack map with short keys.
///
/// # Errors
///
/// [`CodecError::Encode`]; no tick that the types allow causes it.
pub fn to_msgpack(tick: &Tick) -> Result<Vec<u8>, CodecError> {
    let mut bytes = Vec::with_capacity(160);
    tick_into_msgpack(tick, &mut bytes)?;
    Ok(bytes)
}

fn tick_into_msgpack(tick: &Tick, bytes: &mut Vec<u8>) -> Result<(), CodecError> {
    use serde::Serialize;
    tick.serialize(&mut rmp_serde::Serializer::new(bytes).with_struct_map())?;
    Ok(())
}

/// Writes a tick as a JSON object with the same keys.
///
/// # Errors
///
/// [`CodecError::Json`]; no tick that the types allow causes it.
pub fn to_json(tick: &Tick) -> Result<Vec<u8>, CodecError> {
    Ok(serde_json::to_vec(tick)?)
}

/// Reads a tick of any kind from MessagePack.
///
/// # Errors
///
/// [`CodecError`] names the field that is missing or wrong, or the number of surplus bytes.
pub fn from_msgpack(bytes: &[u8]) -> Result<Tick, CodecError> {
    let Tag { k } = rmp_serde::from_slice(bytes)?;
    let mut rest = bytes;
    let tick = Tick::deserialize_as(k, &mut rmp_serde::Deserializer::new(&mut rest))?;
    if rest.is_empty() {
        Ok(tick)
    } else {
        Err(CodecError::Trailing(rest.len()))
    }
}

/// Reads a tick of any kind from JSON.
///
/// # Errors
///
/// [`CodecError::Json`] names the field that is missing or wrong.
pub fn from_json(bytes: &[u8]) -> Result<Tick, CodecError> {
    let Tag { k } = serde_json::from_slice(bytes)?;
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let tick = Tick::deserialize_as(k, &mut deserializer)?;
    deserializer.end()?;
    Ok(tick)
}
