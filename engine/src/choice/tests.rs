//! What a choice says of its tokens, against what the whole text says.

use std::borrow::Cow;
use std::sync::Arc;

use hansa_models::text::{ChatInput, Detokenizer, SpecialTokens, TextCodec, TextError};
use proptest::prelude::*;

use super::*;
use crate::api::StopParams;
use crate::tests::model::submission;

/// Token `i` reads `PIECES[i]`; the last one ends a generation.
const PIECES: [&str; 7] = ["a", "b", "ab", "", "ba", "abba", ""];
const EOS: u32 = 6;

struct Pieces;

impl TextCodec for Pieces {
    fn encode(&self, _text: &str, _special: SpecialTokens) -> Result<Vec<u32>, TextError> {
        Err(TextError::Tokenizer)
    }

    fn render_chat(&self, _chat: &ChatInput<'_>) -> Result<String, TextError> {
        Err(TextError::NoTemplate)
    }

    fn detokenizer(&self, _seed: u64, _choice: u32) -> Box<dyn Detokenizer> {
        Box::new(Self)
    }

    fn piece(&self, _seed: u64, _choice: u32, id: u32) -> Cow<'_, [u8]> {
        PIECES[id as usize].as_bytes().into()
    }

    fn vocab_size(&self) -> u32 {
        PIECES.len() as u32
    }

    fn end_of_generation(&self) -> &[u32] {
        &[EOS]
    }
}

impl Detokenizer for Pieces {
    fn push(&mut self, id: u32, out: &mut String) {
        out.push_str(PIECES[id as usize]);
    }

    fn finish(&mut self, _out: &mut String) {}
}

/// A choice of up to 100 tokens.
fn choice(change: impl FnOnce(&mut StopParams)) -> Choice {
    let mut submission = submission(1, 3, 100);
    change(&mut submission.stop);
    let stop = StopStrings::new(&submission.stop.strings);
    Choice::new(&submission, 0, stop, &(Arc::new(Pieces) as _), 1000)
}

/// All that it says of `tokens`, and why it ended.
fn said(mut choice: Choice, tokens: &[u32]) -> (String, Vec<TokenLogprob>, Option<FinishReason>) {
    let mut all = Said::default();
    for &token in tokens {
        let scores = Scores {
            logprob: -1.0,
            top: Vec::new(),
        };
        if let Some(reason) = choice.push(token, Some(&scores), &mut all) {
            return (all.text, all.logprobs, Some(reason));
        }
    }
    (all.text, all.logprobs, None)
}

fn text_of(logprobs: &[TokenLogprob]) -> String {
    let bytes = logprobs.iter().flat_map(|l| l.chosen.bytes.clone());
    String::from_utf8(bytes.collect()).unwrap()
}

#[test]
fn a_stop_token_ends_and_is_no_text() {
    let stop = |stop: &mut StopParams| stop.token_ids = Arc::new([1]);
    let (text, logprobs, reason) = said(choice(stop), &[0, 1, 2]);
    assert_eq!((text.as_str(), reason), ("a", Some(FinishReason::Stop)));
    assert_eq!(text_of(&logprobs), "a");
}

#[test]
fn nothing_ends_a_choice_before_its_least_length() {
    let stop = |stop: &mut StopParams| {
        stop.min_tokens = 4;
        stop.strings = vec!["a".to_owned()];
        stop.token_ids = Arc::new([1]);
    };
    let (text, _, reason) = said(choice(stop), &[0, 1, EOS, 3, 1]);
    assert_eq!((text.as_str(), reason), ("ab", Some(FinishReason::Stop)));
}

#[test]
fn ignoring_the_end_of_generation_ignores_no_stop_token() {
    let stop = |stop: &mut StopParams| {
        stop.ignore_eos = true;
        stop.token_ids = Arc::new([1]);
    };
    let (text, _, reason) = said(choice(stop), &[0, EOS, 0, 1]);
    assert_eq!((text.as_str(), reason), ("aa", Some(FinishReason::Stop)));
}

proptest! {
    /// Tokens with log-probabilities spell the text, but for the end of one that a stop string cut in two.
    #[test]
    fn log_probabilities_spell_the_text(
        tokens in prop::collection::vec(0_u32..7, 0..20),
        strings in prop::collection::vec("[ab]{1,4}", 0..3),
    ) {
        let (text, logprobs, reason) = said(choice(|stop| stop.strings = strings), &tokens);
        let spelled = text_of(&logprobs);
        if reason == Some(FinishReason::Stop) {
            prop_assert!(spelled.starts_with(&text));
            let last = logprobs.last().map_or(0, |l| l.chosen.bytes.len());
            prop_assert!(spelled.len() - text.len() < last.max(1));
        } else {
            // What is held back has none yet.
            prop_assert!(text.starts_with(&spelled));
        }
    }
}

/// Token `i` is byte `i`; a character is printed when its last byte is there, as real detokenizers do.
struct Bytes;

#[derive(Default)]
struct OfBytes(Vec<u8>);

impl TextCodec for Bytes {
    fn encode(&self, _text: &str, _special: SpecialTokens) -> Result<Vec<u32>, TextError> {
        Err(TextError::Tokenizer)
    }

    fn render_chat(&self, _chat: &ChatInput<'_>) -> Result<String, TextError> {
        Err(TextError::NoTemplate)
    }

    fn detokenizer(&self, _seed: u64, _choice: u32) -> Box<dyn Detokenizer> {
        Box::<OfBytes>::default()
    }

    fn piece(&self, _seed: u64, _choice: u32, id: u32) -> Cow<'_, [u8]> {
        vec![id as u8].into()
    }

    fn vocab_size(&self) -> u32 {
        256
    }

    fn end_of_generation(&self) -> &[u32] {
        &[]
    }
}

impl Detokenizer for OfBytes {
    fn push(&mut self, id: u32, out: &mut String) {
        self.0.push(id as u8);
        if let Ok(text) = std::str::from_utf8(&self.0) {
            out.push_str(text);
            self.0.clear();
        }
    }

    fn finish(&mut self, out: &mut String) {
        out.push_str(&String::from_utf8_lossy(&self.0));
    }
}

proptest! {
    /// Wherever a choice is cut, in the middle of a character or of what may be a stop string, the one that resumes says
    /// exactly what the whole one said after it.
    #[test]
    fn a_choice_resumes_wherever_it_was_cut(
        text in "[abé😀]{1,12}",
        strings in prop::collection::vec("[abé😀]{1,4}", 0..3),
        min_tokens in 0_u32..6,
        cut in 0_usize..40,
    ) {
        let mut submission = submission(1, 3, 30);
        submission.stop.strings = strings;
        submission.stop.min_tokens = min_tokens;
        let codec: Arc<dyn TextCodec> = Arc::new(Bytes);
        let stop = StopStrings::new(&submission.stop.strings);
        let fresh = || Choice::new(&submission, 0, stop.clone(), &codec, 1000);
        let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
        let cut = cut.min(tokens.len());
        let (whole, _, why) = said(fresh(), &tokens);
        let (before, _, ended) = said(fresh(), &tokens[..cut]);
        let mut resumed = fresh();
        prop_assert_eq!(resumed.replay(&tokens[..cut]), ended.is_none());
        if ended.is_none() {
            let (after, _, why_after) = said(resumed, &tokens[cut..]);
            prop_assert_eq!(before + &after, whole);
            prop_assert_eq!(why_after, why);
        }
    }
}
