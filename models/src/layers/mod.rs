//! Layers that architectures are made of. They know tensors and the shape of a step, no file and no architecture.

pub(crate) mod attention;
pub(crate) mod embedding;
pub(crate) mod linear;
pub(crate) mod mlp;
pub(crate) mod norm;
pub(crate) mod qk_norm;
pub(crate) mod rope;
