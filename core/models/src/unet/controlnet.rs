//! A U-Net that a ControlNet steers (Zhang et al., Adding Conditional Control to Text-to-Image Diffusion Models, ICCV 2023), with the
//! structure and parameter names of diffusers' `ControlNetModel` beside a `UNet2DConditionModel`: a second way down sees the image that is
//! the condition, and what it finds is added to what the U-Net's own way down leaves to its way up.

use std::path::PathBuf;
use std::sync::Arc;

use dtta_base::Issue;
use dtta_tensor::{Named, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Half, Maps, Net, UNetConfig};
use crate::denoiser::{Denoiser, Slot, expect_images, expect_slots, network_times};
use crate::error::Result;
use crate::fault::{Faults, MAX_EXTENT, list};
use crate::layers::BiasedConv;
use crate::schedule::{NoiseSchedule, ScheduleConfig};
use crate::spatial::SPATIAL;
use crate::table::Architecture;
use crate::transformer2d::{TOKENS, TokensConfig};
use crate::weights::{Declaration, Group, Init, ParameterId, ParameterSpec, Weights};

/// The most levels of the embedding of the condition: every one but the first halves the extents.
const MAX_WIDTHS: usize = 8;

/// A U-Net with a ControlNet: a denoiser whose condition is an image, through the slot `spatial` `[channels, H, W]` of numbers from 0 to 1.
/// `unet` and `controlnet` are paths of models, from the folder of this file on, or `hf:OWNER/REPOSITORY/FOLDER`, and their weights are
/// found as those of any model; or they are objects, and the weights of both are in one file beside this one, under the prefixes `unet.`
/// and `controlnet.`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ControlNetConfig {
    /// The U-Net: the folder of a `UNet2DConditionModel`, or a configuration of kind `unet`. It has neither a spatial slot nor classes.
    #[schemars(transform = or_a_path)]
    pub unet: UNetConfig,
    /// The ControlNet: the folder of a `ControlNetModel`.
    #[schemars(transform = or_a_path)]
    pub controlnet: ControlConfig,
    /// What the ControlNet's answer is multiplied with before it is added.
    #[serde(default = "one")]
    pub conditioning_scale: f64,
    /// A file with the tokens of a prompt, one tensor `[L, D]` or `[1, L, D]`, the same for all images, such as a text encoder's answer to
    /// the empty text; without, they are a slot of their own, `tokens`. Where the weights are one file, they hold it as `prompt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PathBuf>,
}

fn one() -> f64 {
    1.0
}

/// Lets a schema of an object take a path in its place.
fn or_a_path(schema: &mut schemars::Schema) {
    let fields = schema.ensure_object();
    let description = fields.remove("description");
    let whole = std::mem::take(fields);
    fields.extend(description.map(|text| ("description".to_owned(), text)));
    fields.insert("if".into(), json!({ "type": "string" }));
    fields.insert("then".into(), json!({ "type": "string", "minLength": 1 }));
    fields.insert("else".into(), Value::Object(whole));
}

/// The order of a condition's channels in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChannelOrder {
    /// As they come.
    #[default]
    Rgb,
    /// From the last to the first.
    Bgr,
}

/// A ControlNet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ControlConfig {
    /// Its way down and its bottom, in the fields of a U-Net. `up_block_types`, `learn_sigma`, `conv_out_kernel` and `schedule` say nothing of
    /// these, so they are left out; `image`, `block_out_channels`, `layers_per_block` and how extents are halved are the U-Net's.
    pub encoder: UNetConfig,
    /// Channels of the condition.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub channels: usize,
    /// Channels of the levels through which the condition comes to the extents of what is denoised: every one but the first halves its
    /// own, so it is larger than that by 2 to their number less 1. diffusers' `conditioning_embedding_out_channels`.
    #[schemars(length(min = 1, max = MAX_WIDTHS), inner(range(min = 1, max = MAX_EXTENT)))]
    pub widths: Vec<usize>,
    /// The order of the condition's channels in training.
    #[serde(default)]
    pub channel_order: ChannelOrder,
    /// Whether the mean over all pixels of each map is added, and not the map.
    #[serde(default)]
    pub global_pool: bool,
}

fn three() -> usize {
    3
}

impl ControlNetConfig {
    fn check(&self) -> Faults {
        let mut faults = Faults::default();
        let (unet, control) = (&self.unet, &self.controlnet);
        faults.part("/unet", unet.check());
        faults.part("/controlnet/encoder", control.encoder.check());
        faults.count("/controlnet/channels", control.channels, MAX_EXTENT);
        let levels = control.widths.len();
        if !(1..=MAX_WIDTHS).contains(&levels) {
            let expected = format!("1 to {MAX_WIDTHS} widths");
            faults.add(
                "/controlnet/widths",
                format_args!("{levels} widths"),
                expected,
            );
        }
        for &width in &control.widths {
            faults.count("/controlnet/widths", width, MAX_EXTENT);
        }
        if !self.conditioning_scale.is_finite() {
            let scale = self.conditioning_scale;
            faults.add("/conditioning_scale", scale, "a finite number");
        }
        if self.prompt.is_some() && unet.tokens.is_none() {
            let expected = "absent, since the U-Net attends to no tokens";
            faults.add("/prompt", "a file", expected);
        }
        self.check_pair(&mut faults);
        faults
    }

    /// What both must have in common, and what neither has.
    fn check_pair(&self, faults: &mut Faults) {
        let (unet, encoder) = (&self.unet, &self.controlnet.encoder);
        for (pointer, config) in [("/unet", unet), ("/controlnet/encoder", encoder)] {
            if config.spatial.is_some() {
                let expected = "absent, since the condition enters through the ControlNet";
                faults.add(&format!("{pointer}/spatial"), "a map", expected);
            }
            if let Some(classes) = config.num_class_embeds {
                let expected = "absent: a ControlNet for classes is not supported";
                faults.add(&format!("{pointer}/num_class_embeds"), classes, expected);
            }
            if config.class_embed_type.is_some() {
                let expected = "absent: a ControlNet for classes is not supported";
                faults.add(&format!("{pointer}/class_embed_type"), "identity", expected);
            }
        }
        let without_meaning = [
            ("up_block_types", encoder.up_block_types.is_some()),
            ("learn_sigma", encoder.learn_sigma),
            ("conv_out_kernel", encoder.conv_out_kernel != 3),
            ("schedule", encoder.schedule != ScheduleConfig::default()),
        ];
        for (field, said) in without_meaning {
            if said {
                let pointer = format!("/controlnet/encoder/{field}");
                faults.add(&pointer, "said", "absent, since a ControlNet has no way up");
            }
        }
        if encoder.image != unet.image {
            let expected = format!("that of the U-Net, {:?}", unet.image);
            let found = format!("{:?}", encoder.image);
            faults.add("/controlnet/encoder/image", found, expected);
        }
        let of_levels = [
            (
                "block_out_channels",
                encoder.block_out_channels == unet.block_out_channels,
            ),
            (
                "layers_per_block",
                encoder.levels() != unet.levels()
                    || [encoder, unet].iter().any(|config| !config.layers_known())
                    || (0..unet.levels()).all(|level| {
                        encoder.layers_per_block.at(level) == unet.layers_per_block.at(level)
                    }),
            ),
            (
                "downsample_padding",
                encoder.downsample_padding == unet.downsample_padding,
            ),
            (
                "downsample_type",
                encoder.downsample_type == unet.downsample_type,
            ),
        ];
        for (field, same) in of_levels {
            if !same {
                let pointer = format!("/controlnet/encoder/{field}");
                faults.add(&pointer, "another", "that of the U-Net");
            }
        }
        let sizes = |tokens: &Option<TokensConfig>| {
            let tokens = tokens.as_ref()?;
            Some([tokens.length, tokens.width])
        };
        if let (Some(found), expected) = (sizes(&encoder.tokens), sizes(&unet.tokens))
            && expected != Some(found)
        {
            let expected = match expected {
                Some(expected) => format!("those of the U-Net, {}", list(&expected)),
                None => "absent, since the U-Net attends to none".into(),
            };
            faults.add("/controlnet/encoder/tokens", list(&found), expected);
        }
    }

    /// The condition's height and width.
    fn condition(&self) -> [usize; 3] {
        let [_, height, width] = self.unet.image;
        let larger = 1usize << self.controlnet.widths.len().saturating_sub(1);
        [self.controlnet.channels, height * larger, width * larger]
    }
}

impl Architecture for ControlNetConfig {
    type Model = dyn Denoiser;
    const KIND: &'static str = "controlnet";

    fn contradictions(&self) -> Vec<Issue> {
        self.check().issues()
    }

    fn build(self) -> Result<Box<dyn Denoiser>> {
        Ok(Box::new(ControlNet::new(self)?))
    }
}

/// The structure of a U-Net with a ControlNet.
pub struct ControlNet {
    config: ControlNetConfig,
    schedule: NoiseSchedule,
    slots: Vec<Slot>,
    specs: Arc<[ParameterSpec]>,
    unet: Net,
    control: Control,
    prompt: Option<ParameterId>,
}

/// The ControlNet's own part.
struct Control {
    half: Half,
    embedding: Embedding,
    /// What each map that the way down leaves passes through before it is added.
    down: Vec<BiasedConv>,
    bottom: BiasedConv,
}

/// The condition at the extents of what is denoised.
struct Embedding {
    first: BiasedConv,
    blocks: Vec<BiasedConv>,
    last: BiasedConv,
}

impl ControlNet {
    /// The structure that `config` describes. Allocates no parameter.
    ///
    /// # Errors
    /// [`ModelError::Config`](crate::ModelError::Config) with every contradiction.
    pub fn new(config: ControlNetConfig) -> Result<Self> {
        config.check().finish()?;
        let schedule = NoiseSchedule::new(&config.unet.schedule)?;
        let mut d = Declaration::new();
        let unet = d.within("unet", |d| Net::declare(d, config.unet.clone()));
        let control = d.within("controlnet", |d| Control::declare(d, &config.controlnet));
        let tokens = config.unet.tokens.as_ref();
        let prompt = tokens.filter(|_| config.prompt.is_some()).map(|tokens| {
            let shape = [1, tokens.length, tokens.width];
            d.declare("prompt", &shape, Group::Buffer, Init::Normal(1.0))
        });
        let mut slots = vec![Slot {
            name: SPATIAL.into(),
            shape: config.condition().into(),
            meaning: "the ControlNet's image, of numbers from 0 to 1".into(),
        }];
        if prompt.is_none() {
            slots.extend(tokens.map(TokensConfig::publish));
        }
        Ok(Self {
            specs: d.finish(),
            config,
            schedule,
            slots,
            unet,
            control,
            prompt,
        })
    }

    /// What the structure was made from.
    pub fn config(&self) -> &ControlNetConfig {
        &self.config
    }
}

impl Denoiser for ControlNet {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        &self.specs
    }

    fn image_shape(&self) -> [usize; 3] {
        self.config.unet.image
    }

    fn slots(&self) -> &[Slot] {
        &self.slots
    }

    fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    fn predict(
        &self,
        weights: &Weights,
        noisy: &Tensor,
        times: &[f64],
        conditioning: &Named,
    ) -> Result<Tensor> {
        let batch = expect_images("the noisy batch", noisy, self.config.unet.image)?;
        expect_slots(conditioning, &self.slots, batch)?;
        let times = network_times(times, batch, &self.schedule)?;
        let prompt = self.prompt.map(|prompt| weights.get(prompt));
        let tokens = prompt.or_else(|| conditioning.get(TOKENS));
        let told = match tokens {
            Some(tokens) => Named::one(TOKENS, tokens.clone()),
            None => Named::new(),
        };
        let image = conditioning
            .get(SPATIAL)
            .expect("every slot was looked for");
        let beside = self
            .control
            .embed(weights, image, &self.config.controlnet)?;
        let seen = &self.control.half;
        let seen = seen.forward(weights, noisy, &times, &told, Some(&beside))?;
        let own = &self.unet.half;
        let own = own.forward(weights, noisy, &times, &told, None)?;
        let maps = self.control.steer(weights, own, &seen, &self.config)?;
        self.unet.answer(weights, maps, tokens)
    }

    fn constants(&self, _weights: &Weights) -> Result<Named> {
        Ok(Named::new())
    }

    fn unconditional(&self, _weights: &Weights) -> Result<Option<Named>> {
        Ok(None)
    }
}

impl Control {
    fn declare(d: &mut Declaration, config: &ControlConfig) -> Self {
        let half = Half::declare(d, config.encoder.clone());
        let channels = &config.encoder.block_out_channels;
        let embedding = d.within("controlnet_cond_embedding", |d| {
            Embedding::declare(d, config, channels[0])
        });
        let kept = Half::kept(&config.encoder).into_iter().enumerate();
        let through = |d: &mut Declaration, name: &str, channels: usize| {
            BiasedConv::declare(d, name, channels, channels, 1, 1)
        };
        let down = kept
            .map(|(n, channels)| through(d, &format!("controlnet_down_blocks.{n}"), channels))
            .collect();
        let last = channels[channels.len() - 1];
        Self {
            half,
            embedding,
            down,
            bottom: through(d, "controlnet_mid_block", last),
        }
    }

    /// The condition `[B or 1, channels, H, W]` as a map beside the first one.
    fn embed(&self, weights: &Weights, image: &Tensor, config: &ControlConfig) -> Result<Tensor> {
        let image = match config.channel_order {
            ChannelOrder::Rgb => image.clone(),
            ChannelOrder::Bgr => image.flip(1)?,
        };
        let mut x = self.embedding.first.forward(weights, &image)?.silu()?;
        for block in &self.embedding.blocks {
            x = block.forward(weights, &x)?.silu()?;
        }
        self.embedding.last.forward(weights, &x)
    }

    /// The U-Net's own maps, with what the ControlNet has `seen` added to them.
    fn steer(
        &self,
        weights: &Weights,
        own: Maps,
        seen: &Maps,
        config: &ControlNetConfig,
    ) -> Result<Maps> {
        let added = |own: &Tensor, conv: &BiasedConv, seen: &Tensor| -> Result<Tensor> {
            let mut more = conv.forward(weights, seen)?;
            if config.controlnet.global_pool {
                more = more.mean(&[2, 3], true)?;
            }
            Ok(own.add(&more.affine(config.conditioning_scale, 0.0)?)?)
        };
        let pairs = own.kept.iter().zip(&seen.kept).zip(&self.down);
        let kept = pairs
            .map(|((own, seen), conv)| added(own, conv, seen))
            .collect::<Result<_>>()?;
        Ok(Maps {
            kept,
            bottom: added(&own.bottom, &self.bottom, &seen.bottom)?,
            time: own.time,
        })
    }
}

impl Embedding {
    fn declare(d: &mut Declaration, config: &ControlConfig, outputs: usize) -> Self {
        let widths = &config.widths;
        let first = BiasedConv::declare(d, "conv_in", config.channels, widths[0], 3, 1);
        let mut blocks = Vec::new();
        for pair in widths.windows(2) {
            for (to, stride) in [(pair[0], 1), (pair[1], 2)] {
                let name = format!("blocks.{}", blocks.len());
                blocks.push(BiasedConv::declare(d, &name, pair[0], to, 3, stride));
            }
        }
        let last = BiasedConv::declare(d, "conv_out", widths[widths.len() - 1], outputs, 3, 1);
        Self {
            first,
            blocks,
            last,
        }
    }
}
