//! Writes server messages; ticks are embedded as the bytes that they already are.

use std::io::Write as _;

use rmp::encode;
use serde::Serialize;

use super::{Encoding, ServerMessage};
use crate::position::StreamSeq;

/// Appends one message that carries no tick.
///
/// # Errors
///
/// The serializer's; no message that the types allow causes it.
pub fn push_message<D: Serialize>(
    encoding: Encoding,
    out: &mut Vec<u8>,
    message: &ServerMessage<D>,
) -> Result<(), crate::codec::CodecError> {
    match encoding {
        Encoding::Json => serde_json::to_writer(out, message)?,
        Encoding::MessagePack => {
            message.serialize(&mut rmp_serde::Serializer::new(out).with_struct_map())?;
        }
    }
    Ok(())
}

/// Appends a `d` message around a tick that is already in `encoding`.
pub fn push_data(
    encoding: Encoding,
    out: &mut Vec<u8>,
    topic: &str,
    (s, p): (StreamSeq, StreamSeq),
    tick: &[u8],
    stream: u32,
) {
    push(encoding, out, "d", topic, s, Some(p), tick, stream);
}

/// Appends a `snap` message around a tick that is already in `encoding`.
pub fn push_snapshot(
    encoding: Encoding,
    out: &mut Vec<u8>,
    topic: &str,
    s: StreamSeq,
    tick: &[u8],
    stream: u32,
) {
    push(encoding, out, "snap", topic, s, None, tick, stream);
}

#[expect(
    clippy::too_many_arguments,
    reason = "the fields of one message, used by two wrappers"
)]
fn push(
    encoding: Encoding,
    out: &mut Vec<u8>,
    tag: &str,
    topic: &str,
    s: StreamSeq,
    p: Option<StreamSeq>,
    tick: &[u8],
    stream: u32,
) {
    // Writing into a Vec cannot fail.
    let _infallible = match encoding {
        Encoding::Json => push_json(out, tag, topic, s, p, tick, stream),
        Encoding::MessagePack => push_msgpack(out, tag, topic, s, p, tick, stream),
    };
}

fn push_json(
    out: &mut Vec<u8>,
    tag: &str,
    topic: &str,
    s: StreamSeq,
    p: Option<StreamSeq>,
    tick: &[u8],
    stream: u32,
) -> std::io::Result<()> {
    write!(out, "{{\"t\":\"{tag}\",\"c\":")?;
    serde_json::to_writer(&mut *out, topic)?;
    write!(out, ",\"s\":{s}")?;
    if let Some(p) = p {
        write!(out, ",\"p\":{p}")?;
    }
    out.extend_from_slice(b",\"d\":");
    out.extend_from_slice(tick);
    if stream != 0 {
        write!(out, ",\"x\":{stream}")?;
    }
    out.push(b'}');
    Ok(())
}

fn push_msgpack(
    out: &mut Vec<u8>,
    tag: &str,
    topic: &str,
    s: StreamSeq,
    p: Option<StreamSeq>,
    tick: &[u8],
    stream: u32,
) -> std::io::Result<()> {
    let fields = 4 + u32::from(p.is_some()) + u32::from(stream != 0);
    encode::write_map_len(out, fields)?;
    encode::write_str(out, "t")?;
    encode::write_str(out, tag)?;
    encode::write_str(out, "c")?;
    encode::write_str(out, topic)?;
    encode::write_str(out, "s")?;
    encode::write_uint(out, s.get())?;
    if let Some(p) = p {
        encode::write_str(out, "p")?;
        encode::write_uint(out, p.get())?;
    }
    encode::write_str(out, "d")?;
    out.extend_from_slice(tick);
    if stream != 0 {
        encode::write_str(out, "x")?;
        encode::write_uint(out, u64::from(stream))?;
    }
    Ok(())
}
