//! The grammar that a request's choices follow: what its client asked for, calls of its tools, or both.

use std::sync::Arc;

use hansa_engine::grammar::{
    CallShape, CallSpec, Grammar, GrammarError, GrammarSpec, Grammars, Otherwise,
};
use hansa_models::text;

use super::invalid;
use crate::upstream::tools::{CallForm, Function, ToolSyntax, Tools};
use crate::upstream::{self, GenerateRequest, Structure, UpstreamError, UpstreamErrorKind};

/// What holds the choices of a request, and how its model writes calls.
#[derive(Debug, Default)]
pub(super) struct Guidance {
    /// The grammar, compiled.
    pub(super) grammar: Option<Grammar>,
    /// Where there are tools.
    pub(super) syntax: Option<ToolSyntax>,
    /// The parameter that the grammar came in.
    pub(super) param: Option<&'static str>,
}

impl Guidance {
    /// The guidance of `request` for a model that writes calls as `form`. Pure computation for some milliseconds.
    ///
    /// # Errors
    /// [`UpstreamErrorKind::InvalidRequest`] names the parameter whose grammar cannot be used.
    pub(super) fn of(
        request: &GenerateRequest,
        form: CallForm,
        grammars: &Grammars,
    ) -> Result<Self, UpstreamError> {
        let structure = request.structure.as_ref();
        match (&request.tools, structure) {
            (None, None) => Ok(Self::default()),
            (None, Some(structure)) => Self::structured(structure, grammars),
            (Some(tools), structure) => {
                let otherwise = otherwise(tools, structure, form);
                match otherwise.filter(|otherwise| ends_by_itself(request, otherwise)) {
                    Some(otherwise) => Self::calling(tools, structure, form, otherwise, grammars),
                    None => Ok(Self::free(form)),
                }
            }
        }
    }

    fn structured(structure: &Structure, grammars: &Grammars) -> Result<Self, UpstreamError> {
        let compiled = grammars.compile(&spec(&structure.grammar));
        let grammar = compiled.map_err(|error| refused(structure.param, &error))?;
        Ok(Self {
            grammar: Some(grammar),
            syntax: None,
            param: Some(structure.param),
        })
    }

    fn calling(
        tools: &Tools,
        structure: Option<&Structure>,
        form: CallForm,
        otherwise: Otherwise,
        grammars: &Grammars,
    ) -> Result<Self, UpstreamError> {
        // What cannot go without a grammar, by the name of who wants it.
        let must_hold = match (tools.must_call, structure) {
            (true, _) => Some("tool_choice"),
            (false, structure) => structure.map(|structure| structure.param),
        };
        let spec = GrammarSpec::Calls(Arc::new(calls(tools, form, otherwise)));
        match (grammars.compile(&spec), must_hold) {
            (Ok(grammar), _) => Ok(Self {
                grammar: Some(grammar),
                syntax: Some(ToolSyntax {
                    form,
                    is_guided: true,
                }),
                param: Some("tools"),
            }),
            // Whoever may as well answer in words is no worse off without a grammar.
            (Err(GrammarError::Unsupported(_)), None) => Ok(Self::free(form)),
            (Err(error @ GrammarError::Unsupported(_)), Some(param)) => Err(refused(param, &error)),
            (Err(error), _) => Err(blame(tools, structure, &error, grammars)),
        }
    }

    /// Tools without a grammar.
    fn free(form: CallForm) -> Self {
        let syntax = ToolSyntax {
            form,
            is_guided: false,
        };
        Self {
            syntax: Some(syntax),
            ..Self::default()
        }
    }
}

/// What may be said beside calls; `None` where no grammar can tell, since the model begins calls with a control token or
/// with what other text begins with too.
fn otherwise(tools: &Tools, structure: Option<&Structure>, form: CallForm) -> Option<Otherwise> {
    let other = structure.map(|structure| &structure.grammar);
    match (tools.must_call, other, form) {
        (true, _, _) => Some(Otherwise::Nothing),
        (false, Some(upstream::Grammar::JsonSchema(schema)), _) => {
            Some(Otherwise::Json(Arc::clone(schema)))
        }
        (false, _, CallForm::Tagged) => Some(Otherwise::TextBefore(form.tag().into())),
        (false, _, CallForm::Object | CallForm::List) => None,
    }
}

/// A grammar says when an answer ends; words that must not end yet are better off without one.
fn ends_by_itself(request: &GenerateRequest, otherwise: &Otherwise) -> bool {
    let is_forced_on = request.sampling.ignore_eos || request.min_tokens > 0;
    !(is_forced_on && matches!(otherwise, Otherwise::TextBefore(_)))
}

fn calls(tools: &Tools, form: CallForm, otherwise: Otherwise) -> CallSpec {
    let shape = |function: &Function| CallShape {
        head: form.head(&function.name).into(),
        schema: Arc::clone(&function.parameters),
        tail: "}".into(),
    };
    let between = form.between().filter(|_| tools.parallel);
    CallSpec {
        otherwise,
        open: form.open().into(),
        between: between.map(Into::into),
        close: form.close().into(),
        functions: tools.callable.iter().map(shape).collect(),
    }
}

/// The refusal with the name of whose schema is at fault, where one alone is.
fn blame(
    tools: &Tools,
    structure: Option<&Structure>,
    error: &GrammarError,
    grammars: &Grammars,
) -> UpstreamError {
    let fault = |schema: &Arc<str>| {
        let spec = GrammarSpec::JsonSchema(Arc::clone(schema));
        grammars.compile(&spec).err()
    };
    for function in &tools.callable {
        if let Some(error) = fault(&function.parameters) {
            let message = format!("The parameters of function '{}': {error}", function.name);
            return invalid("tools", message);
        }
    }
    if let Some((structure, error)) =
        structure.and_then(|s| grammars.compile(&spec(&s.grammar)).err().map(|e| (s, e)))
    {
        return refused(structure.param, &error);
    }
    refused("tools", error)
}

fn refused(param: &'static str, error: &GrammarError) -> UpstreamError {
    match error {
        GrammarError::Broke => UpstreamErrorKind::Internal.into(),
        _ => invalid(param, error.to_string()),
    }
}

/// The grammar as the engine takes it.
fn spec(grammar: &upstream::Grammar) -> GrammarSpec {
    match grammar {
        upstream::Grammar::JsonSchema(text) => GrammarSpec::JsonSchema(Arc::clone(text)),
        upstream::Grammar::Regex(text) => GrammarSpec::Regex(Arc::clone(text)),
        upstream::Grammar::Lark(text) => GrammarSpec::Lark(Arc::clone(text)),
    }
}

/// The form in which a model is shown calls.
pub(super) const fn form(syntax: text::ToolSyntax) -> CallForm {
    match syntax {
        text::ToolSyntax::Tagged => CallForm::Tagged,
        text::ToolSyntax::Object => CallForm::Object,
        text::ToolSyntax::List => CallForm::List,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Grammar;

    fn tools(must_call: bool, parallel: bool) -> Tools {
        Tools {
            definitions: Arc::new([]),
            callable: vec![Function {
                name: "f".into(),
                parameters: "{}".into(),
            }],
            must_call,
            parallel,
        }
    }

    #[test]
    fn calls_are_held_to_a_grammar_wherever_one_can_tell_them_from_words() {
        let schema = Structure {
            grammar: Grammar::JsonSchema("{}".into()),
            param: "response_format",
        };
        let all = [CallForm::Tagged, CallForm::Object, CallForm::List];
        for form in all {
            let must = otherwise(&tools(true, true), Some(&schema), form);
            assert_eq!(must, Some(Otherwise::Nothing));
            let json = otherwise(&tools(false, true), Some(&schema), form);
            assert_eq!(json, Some(Otherwise::Json("{}".into())));
        }
        let free = all.map(|form| otherwise(&tools(false, true), None, form));
        let tag = Otherwise::TextBefore("<tool_call>".into());
        assert_eq!(free, [Some(tag), None, None]);
    }

    #[test]
    fn a_grammar_lets_several_calls_through_where_the_client_and_the_form_do() {
        let between =
            |form, parallel| calls(&tools(true, parallel), form, Otherwise::Nothing).between;
        assert_eq!(between(CallForm::List, true).as_deref(), Some(", "));
        assert_eq!(between(CallForm::List, false), None);
        assert_eq!(between(CallForm::Object, true), None);
        let spec = calls(&tools(true, true), CallForm::Object, Otherwise::Nothing);
        assert_eq!(&*spec.functions[0].head, r#"{"name": "f", "parameters": "#);
    }
}
