//! Structured output: grammars compiled off the engine's thread, and the masks that hold a choice to one.
//!
//! [`Grammars`] belongs to one model and compiles what clients send; a [`Grammar`] belongs to one submission; a [`Guide`]
//! follows one choice token by token. The work is llguidance's; ours are the bounds around it, because a grammar is a
//! program that a client wrote. It fails closed: what cannot be compiled is refused, and a choice whose grammar fails on
//! the way fails too, alone. Nothing here knows OpenAI's field names.

mod cache;
mod calls;
mod guide;
mod tokens;
mod vet;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use hansa_models::text::TextCodec;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{Matcher, ParserFactory};

use crate::limits;
use cache::Cache;
pub use calls::{CallShape, CallSpec, Otherwise};
pub use guide::{Guide, GuideFault};

/// What a completion must look like.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum GrammarSpec {
    /// A JSON value that this schema allows.
    JsonSchema(Arc<str>),
    /// A text that this regular expression matches as a whole.
    Regex(Arc<str>),
    /// A text of this Lark grammar, in llguidance's dialect.
    Lark(Arc<str>),
    /// Calls of functions, alone or beside other text.
    Calls(Arc<CallSpec>),
}

/// Why a grammar was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrammarError {
    /// It is not one, asks for what is not supported, or allows nothing; the text says where.
    #[error("the grammar cannot be used: {0}")]
    Invalid(String),
    /// It is beyond a bound.
    #[error("the grammar is too large: it has {size} {unit}, at most {size_max} are taken")]
    TooLarge {
        /// What was counted.
        size: usize,
        /// In which unit.
        unit: &'static str,
        /// How many are taken.
        size_max: usize,
    },
    /// The model cannot follow one.
    #[error("this model cannot follow a grammar: {0}")]
    Unsupported(&'static str),
    /// It broke the compiler, which is our fault.
    #[error("the grammar broke its compiler; please report it")]
    Broke,
}

/// A compiled grammar for one submission; its choices share what they learn of it.
#[derive(Clone)]
pub struct Grammar {
    matcher: Arc<Mutex<Matcher>>,
}

/// The grammars of one model.
pub struct Grammars {
    text: Arc<dyn TextCodec>,
    /// Tokens of the model, which is the width of its logits.
    vocab_size: u32,
    /// Made aside while the model warms up; a grammar that comes earlier waits for it.
    factory: OnceLock<Result<ParserFactory, GrammarError>>,
    cache: Mutex<Cache>,
}

impl Grammars {
    /// Grammars over the tokens of `text`, for logits of `vocab_size` tokens.
    pub(crate) fn new(text: Arc<dyn TextCodec>, vocab_size: u32) -> Self {
        Self {
            text,
            vocab_size,
            factory: OnceLock::new(),
            cache: Mutex::default(),
        }
    }

    /// Prepares for the first grammar on a thread of its own, since the tokens of a large vocabulary take some hundred
    /// milliseconds. Without a thread the first grammar does it.
    pub(crate) fn prepare_aside(self: &Arc<Self>) {
        let grammars = Arc::clone(self);
        let thread = thread::Builder::new().name("hansa-grammar".to_owned());
        let spawned = thread.spawn(move || {
            let prepare = || {
                grammars
                    .factory
                    .get_or_init(|| grammars.make_factory())
                    .is_ok()
            };
            let prepared = catch_unwind(AssertUnwindSafe(prepare));
            tracing::debug!(prepared = prepared.unwrap_or(false), "grammars");
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread to prepare for grammars: the first one takes longer");
        }
    }

    /// Compiles a grammar, or takes it from the cache. Pure computation for some milliseconds, at worst some hundred: not
    /// for an event loop.
    ///
    /// # Errors
    /// [`GrammarError`]: what is wrong with it.
    pub fn compile(&self, spec: &GrammarSpec) -> Result<Grammar, GrammarError> {
        vet::check(spec)?;
        let known = self.cached(|cache| cache.get(spec));
        let fresh = match known {
            Some(matcher) => matcher,
            None => self.compile_apart(spec)?,
        };
        Ok(Grammar {
            matcher: Arc::new(Mutex::new(fresh)),
        })
    }

    /// Compiles on a thread of its own: the compiler recurses as deep as a grammar is long, which the stack of a pool's
    /// thread does not hold, and a stack that overflows takes the process with it.
    fn compile_apart(&self, spec: &GrammarSpec) -> Result<Matcher, GrammarError> {
        let compiled = thread::scope(|scope| {
            let compiler = thread::Builder::new()
                .name("hansa-grammar".to_owned())
                .stack_size(limits::GRAMMAR_STACK_BYTES)
                .spawn_scoped(scope, || {
                    let compile = || self.compile_here(spec);
                    catch_unwind(AssertUnwindSafe(compile)).unwrap_or(Err(GrammarError::Broke))
                });
            compiler.map(thread::ScopedJoinHandle::join)
        });
        let Ok(Ok(compiled)) = compiled else {
            return Err(GrammarError::Broke);
        };
        let (pristine, mine) = compiled?;
        self.cached(|cache| cache.put(spec.clone(), pristine));
        Ok(mine)
    }

    /// The compiled grammar twice: one to keep as it is, and one to use, which grows with what it is asked.
    fn compile_here(&self, spec: &GrammarSpec) -> Result<(Matcher, Matcher), GrammarError> {
        let factory = self.factory.get_or_init(|| self.make_factory());
        let factory = factory.as_ref().map_err(Clone::clone)?;
        let mut matcher = Matcher::new(factory.create_parser(vet::parse(spec)?));
        if let Some(reason) = matcher.get_error() {
            return Err(GrammarError::Invalid(one_line(&reason)));
        }
        let pristine = matcher.deep_clone();
        try_out(&mut matcher).map_err(|reason| GrammarError::Invalid(one_line(&reason)))?;
        Ok((pristine.deep_clone(), pristine))
    }

    fn make_factory(&self) -> Result<ParserFactory, GrammarError> {
        let tokens = tokens::Tokens::new(Arc::clone(&self.text), self.vocab_size)?;
        let capabilities = InferenceCapabilities {
            ff_tokens: tokens.can_force(),
            ..InferenceCapabilities::default()
        };
        let slices = SlicedBiasComputer::json_slices();
        let mut factory = ParserFactory::new(&tokens.into_env(), capabilities, &slices)
            .map_err(|_| GrammarError::Unsupported("its tokens are not usable"))?;
        factory.quiet();
        let bounds = factory.limits_mut();
        bounds.initial_lexer_fuel = limits::GRAMMAR_COMPILE_FUEL;
        bounds.step_lexer_fuel = limits::GRAMMAR_STEP_FUEL;
        bounds.max_lexer_states = limits::GRAMMAR_STATES_MAX;
        bounds.max_grammar_size = limits::GRAMMAR_SYMBOLS_MAX;
        bounds.max_items_in_row = limits::GRAMMAR_ROW_MAX;
        bounds.step_max_items = limits::GRAMMAR_STEP_ITEMS;
        // Errors would hold the whole grammar and what was said by it.
        bounds.verbose_errors = false;
        Ok(factory)
    }

    fn cached<T>(&self, f: impl FnOnce(&mut Cache) -> T) -> T {
        f(&mut self.cache.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Grammar {
    /// A guide for a choice that has said nothing yet.
    pub(crate) fn guide(&self) -> Guide {
        let matcher = self.matcher.lock().unwrap_or_else(PoisonError::into_inner);
        Guide::new(matcher.clone())
    }
}

/// Says the first tokens that a grammar allows. What allows nothing, or is too complex, is best known before it has a seat.
fn try_out(matcher: &mut Matcher) -> Result<(), String> {
    for _ in 0..limits::GRAMMAR_TRIAL_TOKENS {
        if matcher.is_stopped() {
            break;
        }
        let allowed = matcher.compute_mask().map_err(|error| error.to_string())?;
        let first = allowed
            .first_bit_set()
            .and_then(|token| u32::try_from(token).ok());
        let Some(token) = first else { break };
        matcher
            .consume_token(token)
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The compiler's own words on one line, without what it adds for its developers.
fn one_line(reason: &str) -> String {
    let words = reason.split_whitespace();
    let words: Vec<&str> = words.filter(|word| *word != "<non-verbose/>").collect();
    let line = words.join(" ");
    line.chars()
        .take(limits::GRAMMAR_REASON_CHARS_MAX)
        .collect()
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").finish_non_exhaustive()
    }
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars")
            .field("vocab_size", &self.vocab_size)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests;
