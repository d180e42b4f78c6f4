//! Models: denoisers, backbones and encoders, their parameters and their files.
//!
//! - A model ([`Dit`], [`UNet`], [`ResNet`], [`ConvNext`], [`AutoencoderKl`], …) is a structure that *declares* parameters and computes with whatever [`Weights`] it is handed, so
//!   one structure serves many sets of weights.
//! - [`Denoiser`], [`Backbone`] and [`Encoder`] are what the engine sees, and say what a model can do; [`Models`] makes them from files, by a table to
//!   which an embedder adds its own [`Architecture`].
//! - [`Lora`] puts factors of low rank beside matrices of any of them, and reads and writes them as peft does.
//! - [`NoiseSchedule`] says how image and noise mix at each time, and what the network answers with.
//!
//! ```
//! use dtta_models::{Denoiser, Dit, DitConfig, Weights};
//! use dtta_tensor::{Device, Named, Tensor};
//! # fn main() -> Result<(), dtta_models::ModelError> {
//! let config: DitConfig = serde_json::from_str(
//!     r#"{ "image": [1, 8, 8], "patch_size": 2, "hidden_size": 16, "depth": 1, "num_heads": 2, "num_classes": 10 }"#,
//! ).expect("a valid configuration");
//! let (dit, device) = (Dit::new(config)?, Device::cpu());
//! let weights = Weights::initialise(dit.parameters(), 0, &device)?;
//! let condition = Tensor::full(&[1, 16], 0.1, &device)?.to_leaf()?;
//! let noisy = Tensor::full(&[2, 1, 8, 8], 0.5, &device)?;
//! let noise = dit.predict(&weights, &noisy, &[10.0, 500.0], &Named::one("class-embedding", condition))?;
//! assert_eq!(*noise.shape(), [2, 1, 8, 8]);
//! # Ok(())
//! # }
//! ```

mod autoencoder;
mod backbone;
mod behind;
mod bert;
mod checkpoint;
mod clip;
mod clip_text;
mod composed;
mod convnext;
mod convolution;
mod denoiser;
mod dense_depth;
mod densenet;
mod dit;
mod dpt;
mod efficientnet;
mod encoder;
mod encoder_decoder;
mod error;
mod fault;
mod file;
mod format;
mod glpn;
mod label_space;
mod label_table;
mod layers;
mod lora;
mod mix_transformer;
mod patches;
mod prompted;
mod published;
mod residual;
mod resnet;
mod schedule;
mod segformer;
mod siglip;
mod spatial;
mod table;
mod text;
mod text_classes;
mod tokenizer;
mod transformer;
mod transformer2d;
mod unet;
mod uvit;
mod vit;
mod weights;

pub use dtta_base::Issue;
pub use dtta_tensor::Precision;

pub use autoencoder::{AutoencoderKl, AutoencoderKlConfig, EncoderBlock};
pub use backbone::{
    Backbone, BackboneSpec, BatchNormStatistics, FEATURES, LOGIT_SCALE, LOGITS, Reconstruction,
};
pub use bert::{Bert, BertConfig, BertPooling};
pub use checkpoint::{Fit, Format, HubCache, HubModel, ModelFiles, locate};
pub use clip::{ClipVision, ClipVisionConfig};
pub use clip_text::{ClipText, ClipTextConfig};
pub use composed::unet_of;
pub use convnext::{ConvNext, ConvNextConfig};
pub use convolution::Padding;
pub use denoiser::{
    CLASS_EMBEDDING, CLASS_EMBEDDINGS, ClassCondition, Denoiser, Slot, expect_slots,
};
pub use dense_depth::{DenseDepth, DenseDepthConfig};
pub use densenet::DenseNetConfig;
pub use dit::{Dit, DitConfig, Positions};
pub use dpt::{
    Dpt, DptConfig, DptEncoderConfig, DptEnlarged, DptHeadActivation, DptHeadConfig,
    DptHeadExtents, DptReadout, PositionInterpolation, VisionFeed,
};
pub use efficientnet::{EfficientNet, EfficientNetConfig, InvertedStage};
pub use encoder::Encoder;
pub use encoder_decoder::{EncoderDecoder, EncoderDecoderConfig};
pub use error::{Called, Mismatches, ModelError, Result};
pub use file::{read_tensors, write_tensors};
pub use glpn::{Glpn, GlpnConfig};
pub use label_space::{SomeClasses, SomeEmbeddings};
pub use layers::Activation;
pub use lora::{Lora, LoraConfig, LoraTargets};
pub use mix_transformer::MixLevel;
pub use prompted::Prompted;
pub use published::{Interpolation, Preprocessing, Resized};
pub use residual::{BlockKind, Norm};
pub use resnet::{ResNet, ResNetConfig, Stem};
pub use schedule::{
    Betas, DiscretePrediction, End, FlowPrediction, MAX_TIMESTEPS, Mixed, NoiseSchedule,
    ScheduleConfig, Space, TimeRange,
};
pub use segformer::{Segformer, SegformerConfig};
pub use siglip::{SiglipText, SiglipTextConfig, SiglipVision, SiglipVisionConfig};
pub use spatial::{SPATIAL, SpatialConfig};
pub use table::{Architecture, Description, FoundWeights, Listed, Model, Models, weights_beside};
pub use text::{EncodedTexts, TextEncoder, TextSpec};
pub use text_classes::TextClasses;
pub use tokenizer::{Tokenizer, Tokens};
pub use transformer2d::{TOKENS, TokensConfig};
pub use unet::{
    ChannelOrder, ControlConfig, ControlNet, ControlNetConfig, PerLevel, UNet, UNetBlock,
    UNetClassEmbedding, UNetConfig, UNetMidBlock, UNetResample, UNetTimeShift, UNetUpBlock,
};
pub use uvit::{UVit, UVitConfig};
pub use vit::{DecoderConfig, Pool, Vit, VitConfig};
pub use weights::{Declaration, Group, Init, ParameterId, ParameterSpec, Part, Weights};
