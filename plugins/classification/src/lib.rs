//! Classification: logits to classes, and class probabilities to the denoiser's class embedding
//! (Diffusion-TTA, section 3.2 (a)).

mod class_mix;
mod softmax_head;

pub use class_mix::{ClassMix, ClassMixConfig};
pub use softmax_head::{SoftmaxHead, SoftmaxHeadConfig};

dtta_sdk::export_plugin! { head: SoftmaxHead, mapper: ClassMix }
