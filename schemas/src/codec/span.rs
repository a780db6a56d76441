//! How far a MessagePack value reaches, found without building it.

use rmp::Marker;
use rmp::decode;

use super::TranscodeError;

/// What a value holds behind its marker.
enum Holds {
    /// So many bytes.
    Bytes(usize),
    /// Text of so many bytes.
    Text(usize),
    /// So many values.
    Values(u64),
}

/// Splits the first value off; its text is UTF-8, and nothing of it is missing.
///
/// # Errors
///
/// [`TranscodeError`] says what no reader could make sense of.
pub(crate) fn split(bytes: &[u8]) -> Result<(&[u8], &[u8]), TranscodeError> {
    let mut rest = bytes;
    let mut missing = 1_u64;
    while missing > 0 {
        missing -= 1;
        match holds(&mut rest)? {
            Holds::Bytes(length) => {
                take(&mut rest, length)?;
            }
            Holds::Text(length) => {
                let text = take(&mut rest, length)?;
                std::str::from_utf8(text).map_err(|_| TranscodeError::Utf8)?;
            }
            Holds::Values(count) => missing = missing.saturating_add(count),
        }
    }
    bytes
        .split_at_checked(bytes.len() - rest.len())
        .ok_or(TranscodeError::Truncated)
}

/// A key and the bytes of its value.
type Entry<'a> = (&'a str, &'a [u8]);

/// The entries of a map whose keys are text, each as key and the bytes of the value, and the number of
/// bytes before the first one.
///
/// # Errors
///
/// [`TranscodeError`]; bytes that are no map hold something foreign.
pub(crate) fn entries(map: &[u8]) -> Result<(usize, Vec<Entry<'_>>), TranscodeError> {
    let (value, surplus) = split(map)?;
    if !surplus.is_empty() {
        return Err(TranscodeError::Trailing(surplus.len()));
    }
    let mut input = decode::Bytes::new(value);
    let count = decode::read_map_len(&mut input).map_err(|_| TranscodeError::Foreign("value"))?;
    let mut rest = input.remaining_slice();
    let start = value.len() - rest.len();
    let mut entries = Vec::new();
    for _ in 0..count {
        let (key, behind) = decode::read_str_from_slice(rest)
            .map_err(|_| TranscodeError::Foreign("key that is not text"))?;
        let (value, behind) = split(behind)?;
        entries.push((key, value));
        rest = behind;
    }
    Ok((start, entries))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], TranscodeError> {
    let (taken, behind) = rest
        .split_at_checked(length)
        .ok_or(TranscodeError::Truncated)?;
    *rest = behind;
    Ok(taken)
}

/// Reads a length of so many bytes.
fn length(rest: &mut &[u8], width: usize) -> Result<usize, TranscodeError> {
    let bytes = take(rest, width)?;
    let length = bytes
        .iter()
        .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    usize::try_from(length).map_err(|_| TranscodeError::Truncated)
}

fn values(rest: &mut &[u8], width: usize, each: u64) -> Result<Holds, TranscodeError> {
    let count = u64::try_from(length(rest, width)?).map_err(|_| TranscodeError::Truncated)?;
    Ok(Holds::Values(count * each))
}

fn holds(rest: &mut &[u8]) -> Result<Holds, TranscodeError> {
    let marker = take(rest, 1)?.first().copied().unwrap_or_default();
    Ok(match Marker::from_u8(marker) {
        Marker::FixPos(_) | Marker::FixNeg(_) | Marker::Null | Marker::True | Marker::False => {
            Holds::Bytes(0)
        }
        Marker::U8 | Marker::I8 => Holds::Bytes(1),
        Marker::U16 | Marker::I16 | Marker::FixExt1 => Holds::Bytes(2),
        Marker::FixExt2 => Holds::Bytes(3),
        Marker::U32 | Marker::I32 | Marker::F32 => Holds::Bytes(4),
        Marker::FixExt4 => Holds::Bytes(5),
        Marker::U64 | Marker::I64 | Marker::F64 => Holds::Bytes(8),
        Marker::FixExt8 => Holds::Bytes(9),
        Marker::FixExt16 => Holds::Bytes(17),
        Marker::FixStr(count) => Holds::Text(usize::from(count)),
        Marker::Str8 => Holds::Text(length(rest, 1)?),
        Marker::Str16 => Holds::Text(length(rest, 2)?),
        Marker::Str32 => Holds::Text(length(rest, 4)?),
        Marker::Bin8 => Holds::Bytes(length(rest, 1)?),
        Marker::Bin16 => Holds::Bytes(length(rest, 2)?),
        Marker::Bin32 => Holds::Bytes(length(rest, 4)?),
        Marker::Ext8 => Holds::Bytes(length(rest, 1)?.saturating_add(1)),
        Marker::Ext16 => Holds::Bytes(length(rest, 2)?.saturating_add(1)),
        Marker::Ext32 => Holds::Bytes(length(rest, 4)?.saturating_add(1)),
        Marker::FixArray(count) => Holds::Values(u64::from(count)),
        Marker::Array16 => values(rest, 2, 1)?,
        Marker::Array32 => values(rest, 4, 1)?,
        Marker::FixMap(count) => Holds::Values(u64::from(count) * 2),
        Marker::Map16 => values(rest, 2, 2)?,
        Marker::Map32 => values(rest, 4, 2)?,
        Marker::Reserved => return Err(TranscodeError::Foreign("reserved byte")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_ends_where_its_last_part_does() {
        for value in [
            &[0x07][..],
            &[0xC0],
            &[0xCD, 1, 2],
            &[0xD3, 0, 0, 0, 0, 0, 0, 0, 1],
            &[0xA2, b'a', b'b'],
            &[0xD9, 1, b'a'],
            &[0xC4, 2, 0xFF, 0xFF],
            &[0xD4, 1, 2],
            &[0xC7, 1, 9, 9],
            &[0x92, 0x81, 0xA1, b'k', 0x90, 0xC3],
            &[0xDC, 0, 1, 0xDE, 0, 1, 1, 2],
        ] {
            let mut bytes = value.to_vec();
            bytes.push(0x2A);
            assert_eq!(split(&bytes), Ok((value, &[0x2A][..])));
            for end in 0..value.len() {
                let cut = split(value.get(..end).unwrap());
                assert_eq!(cut, Err(TranscodeError::Truncated), "{value:?} to {end}");
            }
        }
        assert_eq!(split(&[0xA1, 0xFF]), Err(TranscodeError::Utf8));
        assert!(split(&[0xC1]).is_err());
        assert_eq!(
            split(&[0xDF, 0xFF, 0xFF, 0xFF, 0xFF]),
            Err(TranscodeError::Truncated)
        );
    }

    #[test]
    fn entries_are_keys_and_values() {
        let map = [0x82, 0xA1, b'a', 0x91, 7, 0xA1, b'b', 0xC0];
        let (start, found) = entries(&map).unwrap();
        assert_eq!(start, 1);
        assert_eq!(found, [("a", &[0x91, 7][..]), ("b", &[0xC0][..])]);
        assert!(entries(&[0x91, 7]).is_err());
        assert!(entries(&[0x81, 7, 7]).is_err());
        assert_eq!(entries(&[0x80, 7]), Err(TranscodeError::Trailing(1)));
    }
}
