//! Tensor names: Hugging Face's on one side, GGUF's on the other.

/// Parts of a layer that have the same name in every architecture.
const PARTS: [(&str, &str); 10] = [
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("input_layernorm", "attn_norm"),
];
/// With a norm before each block only.
const PRE_NORMS: [(&str, &str); 1] = [("post_attention_layernorm", "ffn_norm")];
/// With norms before and after.
const POST_NORMS: [(&str, &str); 3] = [
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

/// The names of one architecture.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names {
    norms: &'static [(&'static str, &'static str)],
}

impl Names {
    pub(crate) fn new(post_norms: bool) -> Self {
        Self {
            norms: if post_norms { &POST_NORMS } else { &PRE_NORMS },
        }
    }

    /// The GGUF name of a tensor. A part of a layer that has none keeps its own behind `blk.`, so that somebody notices that
    /// nobody reads it; tensors that are no weights have none.
    pub(crate) fn gguf(self, name: &str) -> Option<String> {
        let layer = match name {
            "model.embed_tokens.weight" => return Some("token_embd.weight".to_owned()),
            "model.norm.weight" => return Some("output_norm.weight".to_owned()),
            "lm_head.weight" => return Some("output.weight".to_owned()),
            // Angles that old files carry along and that follow from the configuration.
            _ if name.ends_with("rotary_emb.inv_freq") => return None,
            _ => name.strip_prefix("model.layers.")?,
        };
        let (index, rest) = layer.split_once('.')?;
        let (part, kind) = rest.rsplit_once('.')?;
        let known = PARTS.iter().chain(self.norms).find(|(own, _)| *own == part);
        let part = known.map_or(part, |(_, gguf)| gguf);
        Some(format!("blk.{index}.{part}.{kind}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_norms_of_a_layer_move_with_the_architecture() {
        let gguf = |post_norms, name: &str| Names::new(post_norms).gguf(name).unwrap();
        let norm = "model.layers.11.post_attention_layernorm.weight";
        assert_eq!(gguf(false, norm), "blk.11.ffn_norm.weight");
        assert_eq!(gguf(true, norm), "blk.11.post_attention_norm.weight");
        let bias = "model.layers.0.self_attn.q_proj.bias";
        assert_eq!(gguf(false, bias), "blk.0.attn_q.bias");
        let foreign = "model.layers.0.self_attn.sinks.weight";
        assert_eq!(gguf(false, foreign), "blk.0.self_attn.sinks.weight");
        let angles = "model.layers.0.self_attn.rotary_emb.inv_freq";
        assert_eq!(Names::new(false).gguf(angles), None);
    }
}
