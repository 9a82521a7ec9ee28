//! Every bound of this crate, each with its unit and reason.

use std::time::Duration;

/// Choices of one submission; more multiplies the work of one request beyond what a fair share can even out.
pub const CHOICES_MAX: u32 = 128; // sequences; OpenAI's own bound

/// Sequences that may wait in line, whatever the options say; the channel to the engine has a slot for each.
pub const QUEUE_MAX: u32 = 65_536; // sequences; hours of work, so more would only time out

/// Stop strings of one submission; each costs a step of its automaton for every byte of output.
pub const STOP_STRINGS_MAX: usize = 32; // strings; OpenAI allows 4, vLLM's users ask for more

/// Length of one stop string; its automaton and the text it holds back are as long.
pub const STOP_STRING_BYTES_MAX: usize = 1024; // bytes; no known client needs a tenth of it

/// Token ids that end a choice beside the model's own; each is looked for at every token.
pub const STOP_TOKENS_MAX: usize = 256; // tokens; models have a handful

/// Tokens whose logits one submission shifts; each is touched at every draw.
pub const LOGIT_BIAS_MAX: usize = 300; // tokens; OpenAI's own bound

/// Largest shift of a logit.
pub const LOGIT_BIAS_ABS_MAX: f32 = 100.0; // OpenAI's bound; forbids or forces a token already

/// Largest frequency or presence penalty.
pub const PENALTY_ABS_MAX: f32 = 2.0; // OpenAI's bound

/// Largest repetition penalty, and the inverse of the smallest: beyond it logits would overflow.
pub const REPETITION_PENALTY_MAX: f32 = 100.0; // users stay below 2

/// Best tokens whose log-probabilities come with each token.
pub const TOP_LOGPROBS_MAX: u32 = 20; // tokens; OpenAI's bound

/// Log-probability that stands for anything below it, minus infinity included.
pub const LOGPROB_MIN: f32 = -9999.0; // OpenAI's value; JSON knows no infinity

/// Weights that a sampler sums at a time.
pub const SAMPLER_BLOCK: usize = 64; // logits; four cache lines, skipped as one where nothing in them can be drawn

/// Text of one schema; what it forces to be said is looked at in each step.
pub const SCHEMA_BYTES_MAX: usize = 64 << 10; // bytes; schemas of whole APIs have half of it

/// Functions that one grammar may let a choice call.
pub const CALLS_FUNCTIONS_MAX: usize = 128; // functions; OpenAI's own bound

/// Texts of all the schemas of such functions.
pub const CALLS_BYTES_MAX: usize = 256 << 10; // bytes; the tools of large agents have a third, most of it words

/// Text of one Lark grammar.
pub const LARK_BYTES_MAX: usize = 4 << 10; // bytes; one mask takes up to its square, here 25 ms

/// Text of one regular expression, in a schema too.
pub const REGEX_BYTES_MAX: usize = 2 << 10; // bytes; compiling takes up to its square, here 50 ms

/// Nested brackets in a regular expression or a Lark grammar, whose parsers recurse.
pub const GRAMMAR_DEPTH_MAX: usize = 100; // levels; people write ten

/// JSON values in one schema.
pub const SCHEMA_NODES_MAX: usize = 10_000; // values; counting is all that more of them cost

/// Sum over the objects of a schema of their fields' number squared, which is what optional properties cost.
pub const SCHEMA_SQUARES_MAX: usize = 90_000; // fields squared; an object of 300, or 9 of 100; 20 to 60 ms

/// Objects of a schema that bound a number or name a format.
pub const SCHEMA_RANGES_MAX: usize = 100; // objects; each costs about a millisecond

/// Patterns, and references that may lead to one, under one `allOf` of a schema.
pub const SCHEMA_PATTERNS_MET_MAX: usize = 8; // patterns; time doubles with each of them

/// Sum of the digits that count in every `multipleOf` of a schema, which costs a state for every remainder: without a bound
/// one number of eight digits computes for minutes.
pub const SCHEMA_DIVISORS_MAX: usize = 4_096; // remainders; about 50 ms

/// Text that a schema or a regular expression may force at once, to be looked for.
pub const FORCED_TEXT_BYTES_MAX: usize = 1 << 10; // bytes; about 4 ms when it is met first

/// The longest of many texts that a grammar may force one after another.
pub const FORCED_LEXEME_BYTES_MAX: usize = 64; // bytes; 60 ms with as many as a mask may see

/// Text that must come of which tokens are made at a time.
pub const FORCED_TOKENISED_BYTES_MAX: usize = 512; // bytes; more than the tokens that are taken

/// Stack of the thread that compiles a grammar, which recurses along chains of rules; only what is touched takes memory.
pub const GRAMMAR_STACK_BYTES: usize = 64 << 20; // bytes; the longest chain that a text can hold, several times

/// Work that compiling the regular expressions of a grammar may cost.
pub const GRAMMAR_COMPILE_FUEL: u64 = 500_000; // units of llguidance; up to 90 ms, and the largest published schemas need so much

/// Work that the regular expressions of a grammar may cost in one mask; all sequences of a step wait for it.
pub const GRAMMAR_STEP_FUEL: u64 = 40_000; // units of llguidance; 3 to 25 ms

/// States that the regular expressions of one grammar may grow to.
pub const GRAMMAR_STATES_MAX: usize = 16_000; // states of 1 to 2 kB; 32 MB for one submission at worst

/// Spaces and line ends in a row between the parts of a JSON value.
pub const JSON_SPACE_MAX: usize = 32; // characters; a line end and the indentation of 15 levels

/// Symbols of one compiled grammar; what multiplies its parts out is stopped here.
pub const GRAMMAR_SYMBOLS_MAX: usize = 30_000; // symbols; schemas that people write have a tenth

/// Places in a grammar where a text may be at once.
pub const GRAMMAR_ROW_MAX: usize = 2_000; // items; an object of 400 optional properties

/// Items of the parser that one mask may cost; all sequences of a step wait for it.
pub const GRAMMAR_STEP_ITEMS: usize = 10_000; // items; 1 to 20 ms

/// Tokens that a grammar is tried on before it is taken, since what is too complex is mostly so from the start.
pub const GRAMMAR_TRIAL_TOKENS: usize = 4; // tokens; past the opening of an object and into its first name

/// Tokens of a model that can follow a grammar; each takes some dozen bytes, ten times over.
pub const GRAMMAR_VOCABULARY_MAX: u32 = 1 << 20; // tokens; four times the largest vocabulary

/// Compiled grammars that one model keeps.
pub const GRAMMAR_CACHE_BYTES_MAX: usize = 32 << 20; // bytes, estimated; some hundred schemas of usual size

/// What a compiled grammar takes whatever its text.
pub const GRAMMAR_BASE_BYTES: usize = 256 << 10; // bytes; 20 to 100 kB of usual ones and 700 kB at worst, measured over 50 of them

/// What it takes for each byte of its text.
pub const GRAMMAR_BYTES_PER_BYTE: usize = 32; // bytes; 10 to 30, measured over schemas of 4 to 50 kB

/// The compiler's words that a refusal repeats.
pub const GRAMMAR_REASON_CHARS_MAX: usize = 300; // characters; a sentence

/// Tokens that a grammar may force after one that was drawn; what must follow them waits for the next draw.
pub const FORCED_TOKENS_MAX: usize = 32; // tokens; more would stand in the way of the others in a step

/// Tokens of one sequence that are guessed ahead in one step, whatever the options say.
pub const DRAFT_TOKENS_MAX: u32 = 64; // tokens; a hundred rows of logits are as much as a prompt's chunk may cost

/// Slots of the table in which a sequence looks up what followed its latest tokens.
pub const DRAFT_SLOTS_MAX: usize = 1 << 16; // slots of 4 bytes; 10,000 tokens are all known, of longer texts the latest

/// Guesses that do not pay before one is made after all, to see whether they do by now.
pub const DRAFT_PROBE_EVERY: u32 = 32; // guesses; a probe costs a few per cent of so many steps

/// Tokens of such a guess.
pub const DRAFT_PROBE_TOKENS: u32 = 2; // tokens; one would not show that long guesses pay

/// Rows of a step whose logits say how likely tokens of prompts were; each is as wide as the vocabulary.
pub const PROMPT_ROWS_MAX: u32 = 64; // rows; 13 MB for 50,000 tokens, 67 MB for the largest vocabularies

/// Events that wait for the reader of one submission before its sequences pause.
pub const EVENTS_MAX: usize = 64; // events; a second of fast decoding, a few kilobytes

/// How long a paused sequence keeps its KV blocks and seat while others wait for them.
pub const PAUSE_KEEPS_BLOCKS: Duration = Duration::from_secs(1); // longer than a hiccup of a network

/// Longest sleep of the step loop while it holds sequences, all of them paused.
pub const PARK_MAX: Duration = Duration::from_millis(50); // how late a deadline may be noticed then

/// Slots of a KV cache: a slot is a `u32`, and kernels multiply it by strides.
pub const KV_SLOTS_MAX: u64 = 1 << 31; // tokens; far beyond any memory

/// Tokens among which a top-p draw sorts; of more, those are looked for that matter.
pub const SAMPLER_SORT_MAX: usize = 128; // tokens; about what finding them costs

/// Vocabulary of the simulated model.
pub const SIM_VOCAB_SIZE: u32 = 1 << 31; // tokens; above any index of a completion

/// Text that the simulated codec tokenises.
pub const SIM_TEXT_BYTES_MAX: usize = 64 << 20; // bytes; above any body a gateway takes

/// Weight of a produced token in fair shares; a prompt token weighs 1.
pub const FLOW_OUTPUT_WEIGHT: u64 = 2; // ratio; a decode reads all weights for one token, a prefill for many

/// How much prompts may stretch a step beyond what its decodes take alone, where those take the target time already.
pub const DECODE_STRETCH_MAX: f64 = 1.5; // ratio; prompts go on, and also where a machine stutters a gap stays near twice the usual one

/// Steps in a row in which decodes have prompts beside them; the next one shows what they take alone.
pub const STEPS_WITH_PROMPTS_MAX: u32 = 11; // steps; some three of those that count, for a twelfth of the prompts' time

/// Prompt tokens of a step that has any, however slow the machine is.
pub const PREFILL_CHUNK_MIN: u32 = 8; // tokens; a row of packed weights is read once for so many

/// How long a sequence waits for its prefill before its age counts more than its class and its flow.
pub const AGES_AFTER: Duration = Duration::from_secs(5); // longer than most prompts take

/// Steps with prefills in which class and flow decide before the oldest sequence has the first pick.
pub const PASSED_OVER_MAX: u32 = 7; // steps; so age gets an eighth of the time of prompts

/// Steps that fail wholly one after another, each with a harmless one behind it that fails as well, before the engine
/// gives up: one may be a hiccup of a driver.
pub const FAILED_STEPS_MAX: u32 = 3; // steps

/// How often the watchdog looks at most.
pub const WATCH_PERIOD_MAX: Duration = Duration::from_millis(500); // a stall is noticed that late

/// Time that prompts may take in a step in which nobody decodes.
pub const STEP_WITHOUT_DECODES: Duration = Duration::from_millis(500); // how long a newcomer, an abort or a deadline waits

/// Models that wait until their device's thread takes them in.
pub const DEVICE_ARRIVALS_MAX: usize = 64; // models; as many as a config lists, beyond it the loading threads wait

/// A KV cache takes at most one part in so many of the memory that is free when its model has been loaded.
pub const KV_OF_FREE_MEMORY: u64 = 2; // ratio; the other half is for activations, other models and the system

/// Texts of one request to an embedder.
pub const EMBED_INPUTS_MAX: usize = 2048; // texts; OpenAI's own bound
