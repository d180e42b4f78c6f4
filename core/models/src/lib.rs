//! Models: denoisers and backbones, their parameters and their files.
//!
//! - A model ([`Dit`], [`UNet`], [`ResNet`], [`EncoderDecoder`]) is a structure that *declares* parameters and computes with whatever [`Weights`] it is handed, so
//!   one structure serves many sets of weights.
//! - [`Denoiser`] and [`Backbone`] are what the engine sees; [`load_denoiser`] and [`load_backbone`] make them from files.
//! - [`NoiseSchedule`] says how much of an image is left at each timestep.
//!
//! ```
//! use dtta_models::{Conditioning, Denoiser, Dit, DitConfig, Weights};
//! use dtta_tensor::{Device, Tensor};
//! # fn main() -> Result<(), dtta_models::ModelError> {
//! let config: DitConfig = serde_json::from_str(
//!     r#"{ "image": [1, 8, 8], "patch_size": 2, "hidden_size": 16, "depth": 1, "num_heads": 2, "num_classes": 10 }"#,
//! ).expect("a valid configuration");
//! let (dit, device) = (Dit::new(config)?, Device::cpu());
//! let weights = Weights::initialise(dit.parameters(), 0, &device)?;
//! let condition = Tensor::full(&[1, 16], 0.1, &device)?.to_leaf()?;
//! let noisy = Tensor::full(&[2, 1, 8, 8], 0.5, &device)?;
//! let noise = dit.predict_noise(&weights, &noisy, &[10, 500], &Conditioning::one("class-embedding", condition))?;
//! assert_eq!(*noise.shape(), [2, 1, 8, 8]);
//! # Ok(())
//! # }
//! ```

mod backbone;
mod config;
mod denoiser;
mod dit;
mod encoder_decoder;
mod error;
mod file;
mod layers;
mod residual;
mod resnet;
mod schedule;
mod spatial;
mod transformer2d;
mod unet;
mod weights;

pub use backbone::{Backbone, Outputs, Statistics};
pub use config::{ModelConfig, load_backbone, load_denoiser, schema, weights_beside};
pub use denoiser::{CLASS_EMBEDDING, CLASS_EMBEDDINGS, Conditioning, Denoiser, Slot};
pub use dit::{Dit, DitConfig, Positions};
pub use encoder_decoder::{EncoderDecoder, EncoderDecoderConfig};
pub use error::{Mismatches, ModelError, Result};
pub use file::{Precision, read_tensors, write_tensors};
pub use residual::{BlockKind, Norm};
pub use resnet::{ResNet, ResNetConfig, Stem};
pub use schedule::{Betas, NoiseSchedule, ScheduleConfig};
pub use spatial::{SPATIAL, SpatialConfig};
pub use transformer2d::{TOKENS, TokensConfig};
pub use unet::{UNet, UNetBlock, UNetConfig};
pub use weights::{Declaration, Group, Init, ParameterId, ParameterSpec, Weights};
