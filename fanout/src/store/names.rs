//! The names of streams and topics within this process, and whose topics a stream carries.

use std::collections::BTreeSet;

use schemas::subject;

/// Bits of a topic's id that count the topics of a stream; those above name the stream.
const TOPIC_BITS: u32 = 24;

/// The place of a stream among those of this replica: what `x` is on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct StreamNo(u8);

impl StreamNo {
    #[cfg(test)]
    pub(crate) const FIRST: Self = Self(0);
    /// The most streams that one replica reads.
    pub(crate) const MAX: usize = 16;

    /// All of the first `count` places.
    pub(crate) fn all(count: usize) -> impl Iterator<Item = Self> {
        (0..u8::try_from(count).unwrap_or(u8::MAX)).map(Self)
    }

    pub(crate) fn index(self) -> usize {
        self.0.into()
    }

    /// As the wire has it.
    pub(crate) fn x(self) -> u32 {
        self.0.into()
    }
}

/// Identifies a topic within this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TopicId(u32);

impl TopicId {
    /// `None` if there are more topics than can be told apart.
    pub(super) fn new(stream: StreamNo, index: usize) -> Option<Self> {
        let index = u32::try_from(index).ok()?;
        (index < 1 << TOPIC_BITS).then_some(Self(u32::from(stream.0) << TOPIC_BITS | index))
    }

    /// The stream that carries it.
    pub(crate) fn stream(self) -> StreamNo {
        StreamNo(u8::try_from(self.0 >> TOPIC_BITS).unwrap_or(u8::MAX))
    }

    /// Its place among the topics of its stream, in order of birth.
    pub(crate) fn index(self) -> usize {
        usize::try_from(self.0 & ((1 << TOPIC_BITS) - 1)).unwrap_or(usize::MAX)
    }
}

/// Whose topics a stream carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Venues {
    /// Everybody's.
    #[default]
    All,
    /// Only theirs.
    Of(BTreeSet<Box<str>>),
}

impl Venues {
    /// Reads the subjects that a stream takes: a split stream has `tick.*.<venue>.>` for each of its
    /// venues.
    pub(crate) fn of<'a>(subjects: impl IntoIterator<Item = &'a str>) -> Self {
        let mut venues = BTreeSet::new();
        for subject in subjects {
            match subject::venue_of(subject) {
                Some(venue) => {
                    venues.insert(venue.as_str().into());
                }
                None if subject::is_fence(subject) => {}
                None => return Self::All,
            }
        }
        Self::Of(venues)
    }

    /// Whether a topic can be among them, or, of a pattern, any topic of it.
    pub(crate) fn may_have(&self, text: &str) -> bool {
        match (self, text.split('.').nth(1)) {
            (Self::All, _) | (_, None | Some("*" | ">")) => true,
            (Self::Of(venues), Some(venue)) => venues.contains(venue),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_id_names_its_stream() {
        for (stream, index) in [(0, 0), (3, 7), (15, (1 << TOPIC_BITS) - 1)] {
            let stream = StreamNo(stream);
            let id = TopicId::new(stream, index).unwrap();
            assert_eq!((id.stream(), id.index()), (stream, index));
        }
        assert_eq!(TopicId::new(StreamNo::FIRST, 1 << TOPIC_BITS), None);
    }
}
