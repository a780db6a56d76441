//! Topics, subjects and patterns: one spelling each, and no symbol reaches beyond its own token.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use schemas::id::{Kind, Symbol};
use schemas::subject::{self, LIVE, STORED, kv_token};
use schemas::topic::{Pattern, Selector, Topic};

use super::any::{piece, symbol, topic, venue};

/// Text that looks like a topic; its last tokens are anything.
fn topic_like() -> impl Strategy<Value = String> {
    (select(Kind::ALL), venue(), vec(piece(), 1..12))
        .prop_map(|(kind, venue, pieces)| format!("{kind}.{venue}.{}", pieces.concat()))
}

/// Two topics that differ in few things or in none.
fn neighbours() -> impl Strategy<Value = (Topic, Topic)> {
    let symbols = symbol().prop_flat_map(|one| {
        let longer = piece().prop_filter_map("a symbol", {
            let one = one.clone();
            move |piece| Symbol::new(&format!("{one}{piece}")).ok()
        });
        prop_oneof![(Just(one.clone()), Just(one.clone())), (Just(one), longer)]
    });
    (topic(), topic(), symbols).prop_map(|(one, other, (first, second))| {
        let with = |topic: &Topic, symbol| match (topic.interval(), topic.variant()) {
            (Some(interval), Some(variant)) => {
                Topic::indicator(one.venue().clone(), symbol, interval, variant.clone())
            }
            (Some(interval), None) => {
                Topic::with_interval(topic.kind(), one.venue().clone(), symbol, interval)
            }
            (None, _) => Topic::new(topic.kind(), one.venue().clone(), symbol),
        };
        let same_kind = one.symbol().as_str().len() % 2 == 0;
        let second_like = if same_kind { &one } else { &other };
        (with(&one, first), with(second_like, second))
    })
}

/// A pattern of `topic` with stars in place of some tokens, and whether it should match `other`.
fn starred(topic: &Topic, other: &Topic, stars: [bool; 5]) -> (String, bool) {
    let tokens = |topic: &Topic| {
        [
            Some(topic.kind().to_string()),
            Some(topic.venue().to_string()),
            Some(schemas::topic::escape(topic.symbol().as_str())),
            topic.interval().map(|interval| interval.to_string()),
            topic.variant().map(ToString::to_string),
        ]
    };
    let (mut text, mut matches) = (Vec::new(), true);
    for ((wanted, found), star) in tokens(topic).into_iter().zip(tokens(other)).zip(stars) {
        matches &= if star {
            wanted.is_some() == found.is_some()
        } else {
            wanted == found
        };
        text.extend(wanted.map(|token| if star { "*".to_owned() } else { token }));
    }
    (text.join("."), matches)
}

proptest! {
    #[test]
    fn a_topic_and_its_subjects_lead_back_to_it(topic in topic()) {
        prop_assert_eq!(topic.to_string().parse(), Ok(topic.clone()));
        prop_assert_eq!(subject::parse(&subject::stored(&topic)), Ok(topic.clone()));
        prop_assert_eq!(subject::parse(&subject::live(&topic)), Ok(topic));
    }

    #[test]
    fn whatever_is_read_as_a_topic_is_its_one_spelling(text in topic_like()) {
        if let Ok(topic) = text.parse::<Topic>() {
            prop_assert_eq!(topic.to_string(), text.clone());
        }
        let stored = format!("{STORED}{text}");
        if let Ok(topic) = subject::parse(&stored) {
            prop_assert_eq!(subject::stored(&topic), stored);
        }
        let live = format!("{LIVE}{text}");
        if let Ok(topic) = subject::parse(&live) {
            prop_assert_eq!(subject::live(&topic), live);
        }
    }

    #[test]
    fn different_symbols_have_different_spellings(one in symbol(), other in symbol(), venue in venue()) {
        let topic = |symbol: &Symbol| Topic::new(Kind::Trade, venue.clone(), symbol.clone());
        let (first, second) = (topic(&one), topic(&other));
        prop_assert_eq!(first.to_string() == second.to_string(), one == other);
        prop_assert_eq!(subject::stored(&first) == subject::stored(&second), one == other);
        prop_assert_eq!(kv_token(one.as_str()) == kv_token(other.as_str()), one == other);
    }

    #[test]
    fn a_symbol_never_widens_a_subscription(topic in topic()) {
        let (text, stored) = (topic.to_string(), subject::stored(&topic));
        let tokens = 3 + usize::from(topic.interval().is_some()) + usize::from(topic.variant().is_some());
        prop_assert_eq!(text.split('.').count(), tokens);
        prop_assert_eq!(stored.split('.').count(), tokens + 1);
        prop_assert!(stored.split('.').all(|token| !token.is_empty()));
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-%.".contains(&byte);
        prop_assert!(stored.bytes().all(plain), "{}", stored);
        prop_assert!(!subject::is_fence(&stored));
        let key = kv_token(topic.symbol().as_str());
        prop_assert!(key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-=".contains(&byte)));
        prop_assert_eq!(text.parse(), Ok(Selector::Topic(topic)));
    }

    #[test]
    fn a_pattern_without_wildcards_is_one_topic((one, other) in neighbours()) {
        let pattern: Pattern = one.to_string().parse().unwrap();
        prop_assert!(pattern.matches(&one.to_string()));
        prop_assert_eq!(pattern.matches(&other.to_string()), one == other);
    }

    #[test]
    fn a_star_stands_for_exactly_its_token((one, other) in neighbours(), stars: [bool; 5]) {
        let (text, matches) = starred(&one, &other, stars);
        let pattern: Pattern = text.parse().unwrap();
        prop_assert!(pattern.matches(&one.to_string()));
        prop_assert_eq!(pattern.matches(&other.to_string()), matches, "{} {}", text, other);
    }

    #[test]
    fn a_tail_stands_for_all_of_its_venue(one in topic(), other in topic()) {
        let pattern: Pattern = format!("{}.{}.>", one.kind(), one.venue()).parse().unwrap();
        prop_assert!(pattern.matches(&one.to_string()));
        let same = one.kind() == other.kind() && one.venue() == other.venue();
        prop_assert_eq!(pattern.matches(&other.to_string()), same);
    }

    #[test]
    fn control_characters_and_wrong_lengths_are_no_symbols(pieces in vec(piece(), 0..40)) {
        let text = pieces.concat();
        let legal = (1..=64).contains(&text.len()) && !text.chars().any(char::is_control);
        prop_assert_eq!(Symbol::new(&text).is_ok(), legal);
    }
}
