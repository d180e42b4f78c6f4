//! The blocks of a vision transformer: attention and two linear layers, each added to what it was given.

use dtta_tensor::Tensor;

use crate::error::Result;
use crate::layers::{Activation, LayerNorm, Linear};
use crate::transformer::{INIT, LayerScale, Mlp};
use crate::weights::{Declaration, Weights};

/// What a block is made for.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockForm {
    /// Width of a token.
    pub width: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width between the two linear layers.
    pub hidden: usize,
    /// Whether each branch has a learned scale for each channel.
    pub layer_scale: bool,
    /// Epsilon of the normalisation layers.
    pub epsilon: f64,
}

pub(super) struct Block {
    attend: Branch<Attention>,
    feed: Branch<Mlp>,
}

/// A function of normalised tokens, which is added to the tokens.
struct Branch<F> {
    norm: LayerNorm,
    function: F,
    scale: Option<LayerScale>,
}

struct Attention {
    qkv: Linear,
    out: Linear,
    heads: usize,
}

impl Attention {
    fn forward(&self, weights: &Weights, x: &Tensor) -> Result<Tensor> {
        let seen = self.qkv.forward(weights, x)?.self_attention(self.heads)?;
        self.out.forward(weights, &seen)
    }
}

impl<F> Branch<F> {
    /// The `n`th of a block.
    fn declare(
        d: &mut Declaration,
        form: BlockForm,
        n: usize,
        function: impl FnOnce(&mut Declaration) -> F,
    ) -> Self {
        let scale = |d: &mut Declaration| {
            d.within(format_args!("ls{n}"), |d| {
                LayerScale::declare(d, "gamma", form.width, false)
            })
        };
        Self {
            norm: LayerNorm::declare(d, &format!("norm{n}"), form.width, form.epsilon),
            function: function(d),
            scale: form.layer_scale.then(|| scale(d)),
        }
    }

    fn add_to(
        &self,
        weights: &Weights,
        x: &Tensor,
        function: impl FnOnce(&F, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let mut y = function(&self.function, &self.norm.forward(weights, x)?)?;
        if let Some(scale) = &self.scale {
            y = scale.forward(weights, &y)?;
        }
        Ok(x.add(&y)?)
    }
}

impl Block {
    pub fn declare(d: &mut Declaration, form: BlockForm) -> Self {
        let BlockForm { width, hidden, .. } = form;
        let attention = |d: &mut Declaration| {
            d.within("attn", |d| Attention {
                qkv: Linear::declare(d, "qkv", width, 3 * width, INIT),
                out: Linear::declare(d, "proj", width, width, INIT),
                heads: form.heads,
            })
        };
        let mlp = |d: &mut Declaration| Mlp::declare(d, [width, hidden], Activation::Gelu, false);
        Self {
            attend: Branch::declare(d, form, 1, attention),
            feed: Branch::declare(d, form, 2, mlp),
        }
    }

    pub fn forward(&self, weights: &Weights, x: &Tensor) -> Result<Tensor> {
        let x = self
            .attend
            .add_to(weights, x, |attention, x| attention.forward(weights, x))?;
        self.feed
            .add_to(weights, &x, |mlp, x| mlp.forward(weights, x))
    }
}
