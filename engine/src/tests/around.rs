//! The tests' model with something of a test's own around each of its steps: a gate, a fault, a look.

use std::sync::Arc;

use hansa_models::Batch;
use hansa_models::text::TextCodec;

use super::model::HashModel;
use crate::runner::{RowOutcome, Runner, RunnerError, RunnerProfile, SampleRow};

/// How a step went.
pub(super) type Stepped = Result<(), RunnerError>;

/// The model, and what is called in place of its step and gets the step to call.
pub(super) struct Around<F> {
    model: HashModel,
    around: F,
    warm_up: Box<dyn FnMut() -> Stepped + Send>,
}

impl<F> Around<F>
where
    F: FnMut(&mut dyn FnMut() -> Stepped) -> Stepped + Send + 'static,
{
    /// A model of 1,600 tokens in blocks of 16.
    pub(super) fn boxed(around: F) -> Box<dyn Runner> {
        Self::warming(around, || Ok(()))
    }

    /// The same with a warm-up of the test's own.
    pub(super) fn warming(
        around: F,
        warm_up: impl FnMut() -> Stepped + Send + 'static,
    ) -> Box<dyn Runner> {
        Box::new(Self {
            model: HashModel::new(100, 16, 1600),
            around,
            warm_up: Box::new(warm_up),
        })
    }
}

impl<F> Runner for Around<F>
where
    F: FnMut(&mut dyn FnMut() -> Stepped) -> Stepped + Send,
{
    fn profile(&self) -> RunnerProfile {
        self.model.profile()
    }

    fn text(&self) -> Arc<dyn TextCodec> {
        self.model.text()
    }

    fn warm_up(&mut self) -> Stepped {
        (self.warm_up)()
    }

    fn step(
        &mut self,
        batch: &Batch,
        rows: &[SampleRow<'_>],
        outcomes: &mut Vec<RowOutcome>,
    ) -> Stepped {
        let Self { model, around, .. } = self;
        around(&mut || model.step(batch, rows, outcomes))
    }
}
