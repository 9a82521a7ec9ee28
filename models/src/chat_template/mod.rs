//! Renders a conversation through the chat template that travels in a model file.
//!
//! Templates are written for Jinja2 as Hugging Face sets it up (`apply_chat_template`), so this module sets minijinja up
//! the same way. A template is a stranger's program: it runs on fuel, prints into a capped buffer and can load nothing.
//! It must not know tokens or HTTP.

mod methods;
mod strftime;
mod tojson;
mod tools;

use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value, ValueKind};
use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, Output, State, UndefinedBehavior, context,
};

use crate::limits;
use crate::text::{ChatInput, TextError, ToolSyntax};
use tools::ToolSupport;

const NAME: &str = "chat_template";

/// A chat template, parsed once and rendered many times.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special: SpecialTexts,
    /// Only a namespace lets values grow from one turn of a loop to the next, list in list without end; dropping such a
    /// value recurses, and the stack has to be deep enough for all that the fuel can build.
    can_nest_deeply: bool,
    tools: ToolSupport,
}

/// The texts of control tokens that templates print by name.
#[derive(Debug, Clone, Default)]
pub struct SpecialTexts {
    /// `bos_token`: undefined in the template where the model has none.
    pub bos: Option<String>,
    /// `eos_token`: undefined in the template where the model has none.
    pub eos: Option<String>,
}

impl ChatTemplate {
    /// Parses a template.
    ///
    /// # Errors
    /// [`TextError::Template`] where it is no template or longer than [`limits::TEMPLATE_BYTES_MAX`].
    pub fn parse(source: &str, special: SpecialTexts) -> Result<Self, TextError> {
        if source.len() > limits::TEMPLATE_BYTES_MAX {
            return Err(TextError::Template(format!(
                "the template has {} bytes, more than the {} that are read",
                source.len(),
                limits::TEMPLATE_BYTES_MAX
            )));
        }
        let mut environment = environment().map_err(|error| refusal(&error))?;
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|error| refusal(&error))?;
        Ok(Self {
            environment,
            special,
            can_nest_deeply: source.contains("namespace"),
            tools: ToolSupport::of(source),
        })
    }

    /// The form in which a model that reads this template is shown calls.
    #[must_use]
    pub fn tool_syntax(&self) -> ToolSyntax {
        self.tools.syntax()
    }

    /// Renders `chat` into the text of a prompt.
    ///
    /// # Errors
    /// [`TextError::Template`] where the template refuses the messages, fails, runs out of fuel or prints more than
    /// [`limits::CHAT_PROMPT_BYTES_MAX`].
    pub fn render(&self, chat: &ChatInput<'_>) -> Result<String, TextError> {
        if !self.can_nest_deeply {
            return self.render_here(chat);
        }
        let failed = || TextError::Template("it could not be run".to_owned());
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .stack_size(limits::TEMPLATE_STACK_BYTES)
                .spawn_scoped(scope, || self.render_here(chat))
                .map_err(|_| failed())?
                .join()
                .map_err(|_| failed())?
        })
    }

    fn render_here(&self, chat: &ChatInput<'_>) -> Result<String, TextError> {
        let mut prompt = CappedBuffer::default();
        let result = self
            .environment
            .get_template(NAME)
            .and_then(|template| template.render_captured_to(self.context(chat), &mut prompt))
            .map(|_| ());
        match result {
            Err(_) if prompt.overflowed => Err(TextError::Template(format!(
                "it printed more than {} bytes",
                limits::CHAT_PROMPT_BYTES_MAX
            ))),
            Err(error) => Err(refusal(&error)),
            Ok(()) => String::from_utf8(prompt.bytes)
                .map_err(|_| TextError::Template("it printed bytes that are no text".to_owned())),
        }
    }

    /// The names that Hugging Face puts before a template; absent tools and documents are `none`, not undefined.
    fn context(&self, chat: &ChatInput<'_>) -> Value {
        let has_tools = self.tools.is_own() && !chat.tools.is_empty();
        let tools = has_tools.then(|| Value::from(Serde(chat.tools)));
        let messages = self.tools.messages(chat);
        let time_s = chat.template_time_s;
        let fixed = context! {
            messages => Value::from(Serde(&*messages)),
            tools => tools,
            documents => Value::from(()),
            add_generation_prompt => chat.add_generation_prompt,
            strftime_now => Value::from_function(move |format: &str| strftime::format(format, time_s)),
        };
        let named = [
            ("bos_token", self.special.bos.as_deref()),
            ("eos_token", self.special.eos.as_deref()),
        ];
        let present = named
            .into_iter()
            .filter_map(|(name, text)| text.map(|text| (name, text)));
        let special = Value::from_pairs(present);
        context! { ..fixed, ..special }
    }
}

/// Jinja2 as Hugging Face configures it, minus everything that reaches outside of the template.
fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_formatter(print_like_python);
    environment.set_unknown_method_callback(methods::call);
    environment.set_recursion_limit(limits::TEMPLATE_DEPTH_MAX);
    environment.set_fuel(Some(limits::TEMPLATE_FUEL));
    environment.add_filter("tojson", tojson::tojson);
    // Python cannot go through `None`, and templates ask so before they take its length.
    environment.add_test("iterable", |value: &Value| {
        !value.is_none() && value.try_iter().is_ok()
    });
    environment.add_function(
        "raise_exception",
        |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        },
    );
    Ok(environment)
}

/// Prints what Python would: `True`, `False` and `None` where minijinja follows Rust.
fn print_like_python(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Bool => Ok(out.write_str(if value.is_true() { "True" } else { "False" })?),
        ValueKind::None => Ok(out.write_str("None")?),
        _ => minijinja::escape_formatter(out, state, value),
    }
}

/// The template's own words, cut to a bound; never its source or its values.
fn refusal(error: &Error) -> TextError {
    let mut message = match error.detail() {
        Some(detail) => detail.to_owned(),
        None => error.kind().to_string(),
    };
    if let Some(line) = error.line() {
        message = format!("line {line}: {message}");
    }
    if let Some((end, _)) = message.char_indices().nth(limits::TEMPLATE_ERROR_CHARS_MAX) {
        message.truncate(end);
        message.push('…');
    }
    TextError::Template(message)
}

/// Bytes that a template printed, up to the bound.
#[derive(Debug, Default)]
struct CappedBuffer {
    bytes: Vec<u8>,
    overflowed: bool,
}

impl io::Write for CappedBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > limits::CHAT_PROMPT_BYTES_MAX - self.bytes.len() {
            self.overflowed = true;
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
