//! WebSocket as the measuring client speaks it: whole frames out of one buffer, without copying.

/// The longest frame that is believed: a server that claims more is out of step.
const LONGEST: usize = 64 << 20;

/// One frame of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    /// Whether the message ends with it.
    pub(super) last: bool,
    pub(super) opcode: u8,
    pub(super) payload: &'a [u8],
}

/// Opcodes of RFC 6455.
pub(super) const CONTINUATION: u8 = 0;
pub(super) const TEXT: u8 = 1;
pub(super) const BINARY: u8 = 2;
pub(super) const CLOSE: u8 = 8;
pub(super) const PING: u8 = 9;
pub(super) const PONG: u8 = 10;

/// A server that breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame has reserved bits set, though no extension was agreed on")]
    Reserved,
    #[error("a server's frame is masked")]
    Masked,
    #[error("a frame claims to be longer than {LONGEST} bytes")]
    TooLong,
}

/// Takes the first frame, if it is whole: the frame, and what follows.
pub(super) fn take(bytes: &[u8]) -> Result<Option<(Frame<'_>, &[u8])>, FrameError> {
    let Some(([first, second], rest)) = bytes.split_first_chunk() else {
        return Ok(None);
    };
    if first & 0x70 != 0 {
        return Err(FrameError::Reserved);
    }
    if second & 0x80 != 0 {
        return Err(FrameError::Masked);
    }
    let (length, rest) = match second & 0x7F {
        126 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from_be_bytes(*length), rest),
            None => return Ok(None),
        },
        short => (u64::from(short), rest),
    };
    let length = usize::try_from(length).map_err(|_| FrameError::TooLong)?;
    if length > LONGEST {
        return Err(FrameError::TooLong);
    }
    let Some((payload, rest)) = rest.split_at_checked(length) else {
        return Ok(None);
    };
    let frame = Frame {
        last: first & 0x80 != 0,
        opcode: first & 0x0F,
        payload,
    };
    Ok(Some((frame, rest)))
}

/// Writes a client's frame. The mask is all zeros: legal, and free.
pub(super) fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 14);
    frame.push(0x80 | opcode);
    if let Ok(length) = u8::try_from(payload.len())
        && length < 126
    {
        frame.push(0x80 | length);
    } else if let Ok(length) = u16::try_from(payload.len()) {
        frame.push(0xFE);
        frame.extend_from_slice(&length.to_be_bytes());
    } else {
        frame.push(0xFF);
        let length = u64::try_from(payload.len()).unwrap_or(u64::MAX);
        frame.extend_from_slice(&length.to_be_bytes());
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::{Frame, FrameError, TEXT, masked, take};

    /// A server's frame around a payload.
    fn unmasked(payload: &[u8]) -> Vec<u8> {
        let mut frame = masked(TEXT, payload);
        frame[1] &= 0x7F;
        let at = frame.len() - payload.len();
        frame.drain(at - 4..at);
        frame
    }

    #[test]
    fn frames_of_every_length_are_taken_whole_or_not_at_all() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
            let payload = vec![7; length];
            let mut bytes = unmasked(&payload);
            let whole = bytes.len();
            bytes.extend_from_slice(b"rest");
            let (frame, rest) = take(&bytes).unwrap().unwrap();
            assert!(frame.payload == payload && frame.last && frame.opcode == TEXT);
            assert_eq!(rest, b"rest", "{length}");
            for cut in [0, 1, whole.saturating_sub(1)] {
                assert_eq!(take(&bytes[..cut]), Ok(None), "{length} {cut}");
            }
        }
    }

    #[test]
    fn a_server_out_of_step_is_noticed() {
        assert_eq!(take(&[0xC1, 0]), Err(FrameError::Reserved));
        assert_eq!(take(&[0x81, 0x80]), Err(FrameError::Masked));
        let absurd = [0x81, 127, 255, 255, 255, 255, 255, 255, 255, 255];
        assert_eq!(take(&absurd), Err(FrameError::TooLong));
        let fragment = take(&[0x01, 1, b'x']).unwrap().unwrap().0;
        let expected = Frame {
            last: false,
            opcode: TEXT,
            payload: b"x",
        };
        assert_eq!(fragment, expected);
    }
}
