//! The interface of a text encoder: tokens in, a vector for each of them and one for the whole text out.

use std::sync::Arc;

use dtta_tensor::Tensor;

use crate::error::Result;
use crate::weights::{ParameterSpec, Weights};

/// What a text encoder takes and answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextSpec {
    /// Tokens that it knows, from 0.
    pub vocabulary: usize,
    /// The most tokens of a text.
    pub length: usize,
    /// Width of the vector of a token.
    pub width: usize,
    /// Width of the vector of a text.
    pub pooled: usize,
    /// Whether that is projected into the space which images share.
    pub projected: bool,
}

/// What a text encoder makes of texts.
#[derive(Debug, Clone)]
pub struct EncodedTexts {
    /// A vector for each token, normalised: what denoisers attend to, `[B, L, width]`.
    pub tokens: Tensor,
    /// A vector for each text, `[B, pooled]`, not normalised.
    pub pooled: Tensor,
}

/// From tokens to vectors. It holds no parameters: they come with every call.
pub trait TextEncoder: Send + Sync {
    /// What it declares.
    fn parameters(&self) -> &Arc<[ParameterSpec]>;

    /// What it takes and answers with.
    fn spec(&self) -> TextSpec;

    /// Texts of one length, each with the tokens that a [`Tokenizer`](crate::Tokenizer) gives, padding included.
    ///
    /// # Errors
    /// [`ModelError::Input`](crate::ModelError::Input) for no texts, texts of different lengths or of more tokens than there may be, and
    /// tokens that it does not know.
    fn encode(&self, weights: &Weights, texts: &[Vec<u32>]) -> Result<EncodedTexts>;
}
