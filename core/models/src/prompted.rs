//! Denoisers that attend to the tokens of a text encoder and are told the same with every image.

use std::borrow::Cow;

use dtta_tensor::{Named, Tensor};

use crate::behind::{Behind, Between};
use crate::denoiser::{Denoiser, Slot};
use crate::error::{ModelError, Result};
use crate::transformer2d::TOKENS;

/// A denoiser whose slot [`TOKENS`] is filled: it publishes the others alone.
pub struct Prompted {
    tokens: Tensor,
    slots: Vec<Slot>,
}

impl Prompted {
    /// Fills the slot with tokens `[1, L, D]`.
    ///
    /// # Errors
    /// [`ModelError::Input`] for a denoiser that attends to no tokens or has no other slot, and for tokens of another shape.
    pub fn of(denoiser: Box<dyn Denoiser>, tokens: Tensor) -> Result<Box<dyn Denoiser>> {
        let (filled, slots): (Vec<Slot>, Vec<Slot>) = denoiser
            .slots()
            .iter()
            .cloned()
            .partition(|slot| slot.name == TOKENS);
        let refuse = |found: String, expected: &str| {
            Err(ModelError::input("the prompt's denoiser", found, expected))
        };
        let Some(slot) = filled.first() else {
            return refuse("attends to no tokens".into(), "one that does");
        };
        if slots.is_empty() {
            let expected = "one with a further slot, which tells it of the prediction";
            return refuse("attends to tokens alone".into(), expected);
        }
        let shape = tokens.shape();
        if shape[0] != 1 || shape[1..] != *slot.shape {
            let expected = format!("[1, {}, {}]", slot.shape[0], slot.shape[1]);
            let found = format!("has shape {shape}");
            return Err(ModelError::input("the prompt", found, expected));
        }
        Ok(Box::new(Behind::new(denoiser, Self { tokens, slots })))
    }
}

impl Between for Prompted {
    fn slots<'a>(&'a self, _own: &'a [Slot]) -> &'a [Slot] {
        &self.slots
    }

    fn conditioning<'a>(&self, given: &'a Named, noisy: &Tensor) -> Result<Cow<'a, Named>> {
        let tokens = self.tokens.to_precision(noisy.device().precision())?;
        Ok(Cow::Owned(given.clone().with(TOKENS, tokens)))
    }

    /// Where training left the condition out, the text was left out too.
    fn unconditional(&self, _own: Option<Named>) -> Option<Named> {
        None
    }
}
