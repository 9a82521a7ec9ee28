//! candle-transformers' own quantised llama, used as its example uses it.

use std::fs::File;
use std::path::Path;

use anyhow::Result;
use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights;

pub struct Theirs {
    model: ModelWeights,
    len: usize,
}

impl Theirs {
    pub fn load(path: &Path) -> Result<Self> {
        let mut file = File::open(path)?;
        let content = Content::read(&mut file)?;
        let model = ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;
        Ok(Self { model, len: 0 })
    }

    pub fn prefill(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        self.len = 0;
        self.forward(tokens)
    }

    pub fn decode(&mut self, token: u32) -> Result<Vec<f32>> {
        self.forward(&[token])
    }

    fn forward(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let input = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
        let logits = self.model.forward(&input, self.len)?;
        self.len += tokens.len();
        Ok(logits.squeeze(0)?.to_vec1()?)
    }
}
