//! MessagePack tick to JSON without building the tick: fields that this build does not know pass
//! through, so an older replica carries newer ticks unharmed.

use rmp::Marker;
use rmp::decode::{self, Bytes, RmpRead};

/// Keys whose integers may exceed 2^53, times and the venue's sequence: strings in JSON.
const WIDE: [&str; 7] = ["te", "tr", "q", "t0", "ex", "from", "to"];

/// The deepest nesting that is followed.
const MAX_DEPTH: u8 = 8;

/// Why bytes cannot be written as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TranscodeError {
    /// The bytes end within a value.
    #[error("MessagePack ends within a value")]
    Truncated,
    /// Maps or arrays nested deeper than the limit.
    #[error("MessagePack is nested deeper than the limit of {MAX_DEPTH}")]
    Depth,
    /// Text that is not UTF-8.
    #[error("MessagePack holds text that is not UTF-8")]
    Utf8,
    /// A map key that is not text, a float that is not finite, binary or an extension.
    #[error("MessagePack holds a {0} where JSON has no such thing")]
    Foreign(&'static str),
    /// Bytes behind the value.
    #[error("{0} bytes follow the MessagePack value")]
    Trailing(usize),
}

/// Appends the JSON form of one MessagePack value to `json`.
///
/// The result equals what [`super::to_json`] writes for the same tick.
///
/// # Errors
///
/// [`TranscodeError`] says what JSON cannot carry; `json` then holds a partial value.
pub fn transcode(msgpack: &[u8], json: &mut Vec<u8>) -> Result<(), TranscodeError> {
    let mut input = Bytes::new(msgpack);
    value(&mut input, json, false, 0)?;
    match input.remaining_slice().len() {
        0 => Ok(()),
        surplus => Err(TranscodeError::Trailing(surplus)),
    }
}

fn value(
    input: &mut Bytes<'_>,
    json: &mut Vec<u8>,
    is_wide: bool,
    depth: u8,
) -> Result<(), TranscodeError> {
    let peeked = input
        .remaining_slice()
        .first()
        .copied()
        .ok_or(TranscodeError::Truncated)?;
    match Marker::from_u8(peeked) {
        Marker::FixPos(_)
        | Marker::FixNeg(_)
        | Marker::U8
        | Marker::U16
        | Marker::U32
        | Marker::U64
        | Marker::I8
        | Marker::I16
        | Marker::I32
        | Marker::I64 => integer(input, json, is_wide),
        Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => {
            let text = string(input)?;
            quote(text, json)
        }
        Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => array(input, json, depth),
        Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => map(input, json, depth),
        Marker::Null => literal(input, json, b"null"),
        Marker::True => literal(input, json, b"true"),
        Marker::False => literal(input, json, b"false"),
        Marker::F32 | Marker::F64 => Err(TranscodeError::Foreign("binary float")),
        Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => Err(TranscodeError::Foreign("byte string")),
        Marker::FixExt1
        | Marker::FixExt2
        | Marker::FixExt4
        | Marker::FixExt8
        | Marker::FixExt16
        | Marker::Ext8
        | Marker::Ext16
        | Marker::Ext32
        | Marker::Reserved => Err(TranscodeError::Foreign("extension")),
    }
}

fn literal(input: &mut Bytes<'_>, json: &mut Vec<u8>, text: &[u8]) -> Result<(), TranscodeError> {
    input.read_u8().map_err(|_| TranscodeError::Truncated)?;
    json.extend_from_slice(text);
    Ok(())
}

fn integer(input: &mut Bytes<'_>, json: &mut Vec<u8>, is_wide: bool) -> Result<(), TranscodeError> {
    let number: i128 = {
        let before = *input;
        if let Ok(signed) = decode::read_int::<i64, _>(input) {
            i128::from(signed)
        } else {
            *input = before;
            i128::from(decode::read_int::<u64, _>(input).map_err(|_| TranscodeError::Truncated)?)
        }
    };
    let quotes: &[u8] = if is_wide { b"\"" } else { b"" };
    json.extend_from_slice(quotes);
    json.extend_from_slice(number.to_string().as_bytes());
    json.extend_from_slice(quotes);
    Ok(())
}

fn string<'a>(input: &mut Bytes<'a>) -> Result<&'a str, TranscodeError> {
    let (text, rest) = decode::read_str_from_slice(input.remaining_slice()).map_err(|error| {
        if matches!(error, decode::DecodeStringError::InvalidUtf8(..)) {
            TranscodeError::Utf8
        } else {
            TranscodeError::Truncated
        }
    })?;
    *input = Bytes::new(rest);
    Ok(text)
}

fn quote(text: &str, json: &mut Vec<u8>) -> Result<(), TranscodeError> {
    serde_json::to_writer(json, text).map_err(|_| TranscodeError::Utf8)
}

fn deeper(depth: u8) -> Result<u8, TranscodeError> {
    if depth >= MAX_DEPTH {
        Err(TranscodeError::Depth)
    } else {
        Ok(depth + 1)
    }
}

fn array(input: &mut Bytes<'_>, json: &mut Vec<u8>, depth: u8) -> Result<(), TranscodeError> {
    let depth = deeper(depth)?;
    let length = decode::read_array_len(input).map_err(|_| TranscodeError::Truncated)?;
    json.push(b'[');
    for index in 0..length {
        if index > 0 {
            json.push(b',');
        }
        value(input, json, false, depth)?;
    }
    json.push(b']');
    Ok(())
}

fn map(input: &mut Bytes<'_>, json: &mut Vec<u8>, depth: u8) -> Result<(), TranscodeError> {
    let depth = deeper(depth)?;
    let length = decode::read_map_len(input).map_err(|_| TranscodeError::Truncated)?;
    json.push(b'{');
    for index in 0..length {
        if index > 0 {
            json.push(b',');
        }
        let key = string(input)?;
        quote(key, json)?;
        json.push(b':');
        value(input, json, WIDE.contains(&key), depth)?;
    }
    json.push(b'}');
    Ok(())
}
