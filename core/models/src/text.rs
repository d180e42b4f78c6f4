//! The interface of a text encoder: tokens in, a vector for each of them and one for the whole text out.

use std::sync::Arc;

use dtta_tensor::Tensor;

use crate::error::{ModelError, Result};
use crate::weights::{ParameterSpec, Weights};

/// The most tokens that a vocabulary may have.
pub(crate) const MAX_VOCABULARY: usize = 1 << 20;

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
    /// The token that fills up a text and that it does not see; none where it sees all.
    pub padding: Option<u32>,
}

/// What a text encoder makes of texts.
#[derive(Debug, Clone)]
pub struct EncodedTexts {
    /// A vector for each token, normalised: what denoisers attend to, `[B, L, width]`.
    pub tokens: Tensor,
    /// A vector for each text, `[B, pooled]`, not normalised unless the model's configuration says so.
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

/// How many tokens each of the texts has, if they are such as [`TextEncoder::encode`] takes.
pub(crate) fn expect_texts(texts: &[Vec<u32>], spec: &TextSpec) -> Result<usize> {
    let length = texts.first().map_or(0, Vec::len);
    if length == 0 || length > spec.length || texts.iter().any(|text| text.len() != length) {
        let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
        let found = format!("have {} tokens", crate::fault::list(&lengths));
        let expected = format!("texts of one length, from 1 to {}", spec.length);
        return Err(ModelError::input("the texts", found, expected));
    }
    let known = spec.vocabulary;
    if let Some(token) = texts
        .iter()
        .flatten()
        .find(|&&token| token as usize >= known)
    {
        let found = format!("has token {token}");
        let expected = format!("tokens below {known}");
        return Err(ModelError::input("a text", found, expected));
    }
    Ok(length)
}

/// The rows of a table `[vocabulary, width]` for texts of one length, `[B, L, width]`.
pub(crate) fn look_up(table: &Tensor, texts: &[Vec<u32>]) -> Result<Tensor> {
    let ids: Vec<i64> = texts.iter().flatten().map(|&token| token.into()).collect();
    let ids = Tensor::from_ints(&ids, &[ids.len()], table.device())?;
    let rows = table.index_select(0, &ids)?;
    Ok(rows.reshape(&[texts.len() as i64, -1, table.shape()[1] as i64])?)
}
