//! Which tokens end a generation.
//!
//! Files name one or two by id; others are only known by their text. The rule and the texts are llama.cpp's
//! (`llama_vocab`, "tokens that cause end-of-generation").

use super::vocabulary::Vocabulary;

/// Ends of a turn, a text or a message, in the spelling of the models that have them.
const ENDS: [&str; 22] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Marks of code completion after which a model would start on another file.
const FILE_MARKS: [&str; 11] = [
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// Whether a token of this text ends a generation in every model that has it.
pub(super) fn is_end(text: &str) -> bool {
    ENDS.contains(&text)
}

/// Ids that end a generation, ascending.
pub(super) fn ids(vocabulary: &Vocabulary) -> Vec<u32> {
    let mut ids: Vec<u32> = vocabulary
        .tokens()
        .filter(|(_, text, _)| is_end(text) || FILE_MARKS.contains(text))
        .map(|(id, _, _)| id)
        .collect();
    drop_what_goes_on(vocabulary, &mut ids);
    ids.extend(
        [vocabulary.eos, vocabulary.eot, vocabulary.eom]
            .into_iter()
            .flatten(),
    );
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Where a model has finer marks, `<|end|>` only ends one message of several.
fn drop_what_goes_on(vocabulary: &Vocabulary, ids: &mut Vec<u32>) {
    let is = |id: u32, text: &str| vocabulary.text(Some(id)) == Some(text);
    let has = |text: &str| ids.iter().any(|id| is(*id, text));
    let calls = has("<|call|>") || has("<|calls|>");
    if calls && (has("<|return|>") || has("<|flush|>")) {
        ids.retain(|id| !is(*id, "<|end|>"));
    }
}
