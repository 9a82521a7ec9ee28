//! Seeded text of about the length asked for, out of common words: one short common word is one token in the
//! vocabularies of today's models, so N tokens are made as N words. The chat template comes on top. What the server
//! counted is in the report; this is only what was asked.

use crate::rng::SplitMix64;

/// Common words that are one token each, with the space before them, in byte-pair vocabularies. 128, so that seven
/// random bits pick one.
const WORDS: [&str; 128] = [
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world",
    "school", "state", "family", "student", "group", "country", "problem", "hand", "part", "place",
    "case", "week", "company", "system", "program", "question", "work", "road", "number", "night",
    "point", "home", "water", "room", "mother", "area", "money", "story", "fact", "month", "lot",
    "right", "study", "book", "eye", "job", "word", "business", "issue", "side", "kind", "head",
    "house", "service", "friend", "father", "power", "hour", "game", "line", "end", "member",
    "law", "car", "city", "table", "name", "land", "team", "minute", "idea", "kid", "body", "sea",
    "back", "parent", "face", "others", "level", "office", "door", "health", "person", "art",
    "war", "history", "party", "result", "change", "morning", "reason", "research", "girl", "guy",
    "moment", "air", "teacher", "force", "king", "foot", "boy", "age", "policy", "music", "market",
    "sense", "nation", "plan", "college", "interest", "death", "song", "effect", "use", "class",
    "control", "field", "tree", "role", "effort", "rate", "heart", "drug", "show", "leader",
    "light", "voice",
];

/// Closes longer prompts, so that an instructed model goes on for as long as it may.
const TASK: &str = " tell a long story with all these words";

/// Words of [`TASK`].
const TASK_WORDS: u32 = 8;

/// Appends `count` words; the first `n` of them are the same for every `count` of at least `n`.
pub fn push_words(text: &mut String, rng: &mut SplitMix64, count: u32) {
    text.reserve(count as usize * 7);
    for _ in 0..count {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(WORDS[(rng.next_u64() >> 57) as usize]);
    }
}

/// A prompt of `count` words. Longer ones end with a task, so that an instructed model goes on for as long as it may.
pub fn prompt(rng: &mut SplitMix64, count: u32) -> String {
    let mut text = String::new();
    let own = if count >= 2 * TASK_WORDS {
        count - TASK_WORDS
    } else {
        count
    };
    push_words(&mut text, rng, own);
    if own < count {
        text.push_str(TASK);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_have_the_length_asked_for_and_differ_from_the_first_words_on() {
        for length in [1, 5, 15, 16, 17, 128] {
            let text = prompt(&mut SplitMix64::for_item(1, 3), length);
            assert_eq!(text.split(' ').count() as u32, length);
        }
        let start = |index| prompt(&mut SplitMix64::for_item(1, index), 8);
        let starts: std::collections::HashSet<String> = (0..1_000).map(start).collect();
        assert_eq!(starts.len(), 1_000);
        assert_eq!(start(5), start(5));
    }

    #[test]
    fn longer_text_of_one_seed_begins_with_the_shorter() {
        let words = |count| {
            let mut text = String::new();
            push_words(&mut text, &mut SplitMix64::new(4), count);
            text
        };
        assert!(words(50).starts_with(&words(20)));
    }
}
