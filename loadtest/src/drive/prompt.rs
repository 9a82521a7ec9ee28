//! Synthetic requests: seeded text of about the length asked for, different for every request, so that a server's
//! prefix cache holds nothing but the chat template and does not flatter it.
//!
//! One short common word is one token in the vocabularies of today's models, so N tokens are made as N words. The chat
//! template comes on top. What the server counted is in the report; this is only what was asked.

use serde::Serialize;

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

/// Which endpoint is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Endpoint {
    /// `POST /v1/chat/completions`.
    Chat,
    /// `POST /v1/completions`.
    Completions,
}

/// What every request of a run asks for.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The model's id.
    pub model: String,
    /// Length of the prompt in words, about one token each.
    pub prompt_tokens: u32,
    /// Most tokens of the answer.
    pub output_tokens: u32,
    /// Seed of all prompts and of the servers' sampling.
    pub seed: u64,
    /// Sends `ignore_eos`, an extension of vLLM, sglang and others.
    pub ignore_eos: bool,
    /// Sends `seed`, which fixes the text of a simulated model.
    pub send_seed: bool,
}

impl Endpoint {
    /// The path below `/v1`.
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/chat/completions",
            Self::Completions => "/completions",
        }
    }
}

impl Ask {
    /// The JSON body of request `index`; the same for the same index, whatever was asked before.
    pub fn body(&self, index: u64) -> Vec<u8> {
        let prompt = self.prompt(index);
        let chat = self.endpoint == Endpoint::Chat;
        let body = Body {
            model: &self.model,
            messages: chat.then(|| {
                [Message {
                    role: "user",
                    content: &prompt,
                }]
            }),
            prompt: (!chat).then_some(&*prompt),
            max_completion_tokens: chat.then_some(self.output_tokens),
            max_tokens: (!chat).then_some(self.output_tokens),
            temperature: 0.0,
            stream: true,
            stream_options: StreamOptions {
                include_usage: true,
            },
            ignore_eos: self.ignore_eos.then_some(true),
            seed: self.send_seed.then(|| self.sampling_seed(index)),
        };
        // Strings and numbers always serialise; an empty body would be answered with 400 and counted as failed.
        serde_json::to_vec(&body).unwrap_or_default()
    }

    /// The `seed` of request `index`; 31 bits, which every server takes.
    pub fn sampling_seed(&self, index: u64) -> u64 {
        SplitMix64::for_item(!self.seed, index).next_u64() >> 33
    }

    fn prompt(&self, index: u64) -> String {
        let with_task = self.prompt_tokens >= 2 * TASK_WORDS;
        let words = if with_task {
            self.prompt_tokens - TASK_WORDS
        } else {
            self.prompt_tokens
        };
        let mut rng = SplitMix64::for_item(self.seed, index);
        let mut text = String::with_capacity(words as usize * 7 + TASK.len());
        for at in 0..words {
            if at > 0 {
                text.push(' ');
            }
            text.push_str(WORDS[(rng.next_u64() >> 57) as usize]);
        }
        if with_task {
            text.push_str(TASK);
        }
        text
    }
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<[Message<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    temperature: f32,
    stream: bool,
    stream_options: StreamOptions,
    #[serde(skip_serializing_if = "Option::is_none")]
    ignore_eos: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(endpoint: Endpoint, prompt_tokens: u32) -> Ask {
        Ask {
            endpoint,
            model: "m".to_owned(),
            prompt_tokens,
            output_tokens: 9,
            seed: 1,
            ignore_eos: false,
            send_seed: true,
        }
    }

    #[test]
    fn prompts_have_the_length_asked_for_and_differ_from_the_first_words_on() {
        for length in [1, 5, 15, 16, 17, 128] {
            let prompt = ask(Endpoint::Chat, length).prompt(3);
            assert_eq!(prompt.split(' ').count() as u32, length);
        }
        let ask = ask(Endpoint::Chat, 64);
        let starts: std::collections::HashSet<String> = (0..1_000)
            .map(|index| {
                ask.prompt(index)
                    .split(' ')
                    .take(8)
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .collect();
        assert_eq!(starts.len(), 1_000);
        assert_eq!(ask.prompt(5), ask.prompt(5));
    }

    #[test]
    fn bodies_are_what_the_endpoints_take() {
        let chat: serde_json::Value =
            serde_json::from_slice(&ask(Endpoint::Chat, 4).body(0)).unwrap();
        assert_eq!(chat["messages"][0]["role"], "user");
        assert_eq!(chat["max_completion_tokens"], 9);
        assert_eq!(chat["stream_options"]["include_usage"], true);
        assert!(chat.get("prompt").is_none() && chat.get("ignore_eos").is_none());
        assert!(chat["seed"].as_u64().unwrap() < 1 << 31);
        let text: serde_json::Value =
            serde_json::from_slice(&ask(Endpoint::Completions, 4).body(0)).unwrap();
        assert_eq!(text["prompt"].as_str().unwrap().split(' ').count(), 4);
        assert_eq!(text["max_tokens"], 9);
        assert!(text.get("messages").is_none());
    }
}
