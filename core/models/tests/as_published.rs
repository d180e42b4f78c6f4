//! Configurations of models as their authors published them on the Hugging Face Hub, as far as they are known here (no network is at hand):
//! they are understood as they are, and describe as many parameters as the library's class has with them.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

use std::fs;
use std::path::Path;

use dtta_models::{
    Interpolation, Model, ModelError, Models, ParameterSpec, Preprocessing, Resized,
};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// A repository: the folder of a model with its files.
fn repository(files: &[(&str, &Value)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, document) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, document.to_string()).unwrap();
    }
    folder
}

/// Numbers that training moves; PyTorch does not count the statistics of normalisation among them.
fn elements(specs: &[ParameterSpec]) -> usize {
    let counted = specs.iter().filter(|spec| !spec.name.contains(".running_"));
    counted.map(ParameterSpec::elements).sum()
}

/// The backbone of a model, images of chosen extents for one that leaves them open: how it takes them, and its parameters.
fn backbone(
    [config, processor]: [&Value; 2],
    extents: Option<[usize; 2]>,
) -> Result<(Preprocessing, usize), ModelError> {
    let files = [
        ("config.json", config),
        ("preprocessor_config.json", processor),
    ];
    let folder = repository(&files);
    let models = match extents {
        Some(extents) => Models::standard().with_extents(extents),
        None => Models::standard(),
    };
    let described = models.describe(folder.path(), None)?;
    let Model::Backbone(backbone) = &described.model else {
        panic!("no backbone")
    };
    let preprocessing = described.preprocessing.unwrap();
    assert_eq!(backbone.spec().image, preprocessing.image);
    Ok((preprocessing, elements(backbone.parameters())))
}

/// `depth-anything/Depth-Anything-V2-Small-hf`.
fn depth_anything() -> [Value; 2] {
    let config = json!({
        "_commit_hash": null,
        "architectures": ["DepthAnythingForDepthEstimation"],
        "backbone": null,
        "backbone_config": {
            "architectures": ["Dinov2Model"], "hidden_size": 384, "image_size": 518, "model_type": "dinov2", "num_attention_heads": 6,
            "out_features": ["stage3", "stage6", "stage9", "stage12"], "out_indices": [3, 6, 9, 12], "patch_size": 14,
            "reshape_hidden_states": false, "torch_dtype": "float32"
        },
        "fusion_hidden_size": 64, "head_hidden_size": 32, "head_in_index": -1, "initializer_range": 0.02, "model_type": "depth_anything",
        "neck_hidden_sizes": [48, 96, 192, 384], "patch_size": 14, "reassemble_factors": [4, 2, 1, 0.5], "reassemble_hidden_size": 384,
        "torch_dtype": "float32", "transformers_version": null, "use_pretrained_backbone": false
    });
    let processor = json!({
        "_valid_processor_keys": ["images", "do_resize", "size", "keep_aspect_ratio", "ensure_multiple_of", "resample"],
        "do_normalize": true, "do_pad": false, "do_rescale": true, "do_resize": true, "ensure_multiple_of": 14,
        "image_mean": [0.485, 0.456, 0.406], "image_processor_type": "DPTImageProcessor", "image_std": [0.229, 0.224, 0.225],
        "keep_aspect_ratio": true, "resample": 3, "rescale_factor": 0.003_921_568_627_450_98,
        "size": {"height": 518, "width": 518}, "size_divisor": null
    });
    [config, processor]
}

/// `vinvino02/glpn-nyu`.
fn glpn() -> [Value; 2] {
    let config = json!({
        "architectures": ["GLPNForDepthEstimation"], "attention_probs_dropout_prob": 0.0, "decoder_hidden_size": 64, "depths": [3, 8, 27, 3],
        "downsampling_rates": [1, 4, 8, 16], "drop_path_rate": 0.1, "head_in_index": -1, "hidden_act": "gelu", "hidden_dropout_prob": 0.0,
        "hidden_sizes": [64, 128, 320, 512], "image_size": 224, "initializer_range": 0.02, "layer_norm_eps": 1e-6, "max_depth": 10,
        "mlp_ratios": [4, 4, 4, 4], "model_type": "glpn", "num_attention_heads": [1, 2, 5, 8], "num_channels": 3, "num_encoder_blocks": 4,
        "patch_sizes": [7, 3, 3, 3], "sr_ratios": [8, 4, 2, 1], "strides": [4, 2, 2, 2], "torch_dtype": "float32",
        "transformers_version": "4.18.0.dev0"
    });
    let processor = json!({
        "do_rescale": true, "do_resize": true, "feature_extractor_type": "GLPNFeatureExtractor", "resample": 2, "size_divisor": 32
    });
    [config, processor]
}

/// `Intel/dpt-large`.
fn dpt() -> [Value; 2] {
    let config = json!({
        "architectures": ["DPTForDepthEstimation"], "attention_probs_dropout_prob": 0.0, "auxiliary_loss_weight": 0.4,
        "backbone_out_indices": [5, 11, 17, 23], "expand_channels": false, "fusion_hidden_size": 256, "head_in_index": -1,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "hidden_size": 1024, "image_size": 384, "initializer_range": 0.02,
        "intermediate_size": 4096, "layer_norm_eps": 1e-12, "model_type": "dpt", "neck_hidden_sizes": [256, 512, 1024, 1024],
        "num_attention_heads": 16, "num_channels": 3, "num_hidden_layers": 24, "patch_size": 16, "qkv_bias": true,
        "readout_type": "project", "reassemble_factors": [4, 2, 1, 0.5], "semantic_classifier_dropout": 0.1,
        "semantic_loss_ignore_index": 255, "torch_dtype": "float32", "transformers_version": "4.18.0.dev0", "use_auxiliary_head": true,
        "use_batch_norm_in_fusion_residual": false
    });
    let processor = json!({
        "do_normalize": true, "do_resize": true, "ensure_multiple_of": 1, "feature_extractor_type": "DPTFeatureExtractor",
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "keep_aspect_ratio": false, "resample": 2, "size": 384
    });
    [config, processor]
}

/// Of transformers' classes less what depth does not use: the mask's token, the first fusion's joining block, and DPT's last normalisation.
const DEPTH_ANYTHING_V2_SMALL: usize = 24_710_849;
const DPT_LARGE: usize = 341_848_257;
const GLPN: usize = 61_220_903;
/// Of the 83,653,863 of diffusers' class those of the encoder and `quant_conv`: the decoder is left out here.
const AUTOENCODER: usize = 34_163_664;

#[test]
fn images_get_chosen_extents_where_the_published_processor_keeps_their_shape() {
    // What the library makes of the 480 × 640 of NYU Depth v2.
    let [config, processor] = depth_anything();
    let (found, count) = backbone([&config, &processor], Some([518, 686])).unwrap();
    let expected = Preprocessing {
        image: [3, 518, 686],
        interpolation: Interpolation::Bicubic,
        resized: Resized::Chosen([518, 686]),
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
    };
    assert_eq!((found, count), (expected, DEPTH_ANYTHING_V2_SMALL));
    let [config, processor] = glpn();
    let (found, count) = backbone([&config, &processor], Some([480, 640])).unwrap();
    let expected = Preprocessing {
        image: [3, 480, 640],
        interpolation: Interpolation::Bilinear,
        resized: Resized::Chosen([480, 640]),
        mean: [0.0; 3],
        std: [1.0; 3],
    };
    assert_eq!((found, count), (expected, GLPN));
    // DPT-Large says its own.
    let [config, processor] = dpt();
    let (found, count) = backbone([&config, &processor], None).unwrap();
    assert_eq!(found.resized, Resized::To([384, 384]));
    assert_eq!(count, DPT_LARGE);
}

#[test]
fn extents_that_are_missing_not_open_or_no_multiples_are_refused_by_name() {
    let refused = |[config, processor]: [Value; 2], extents: Option<[usize; 2]>| {
        backbone([&config, &processor], extents).unwrap_err()
    };
    for (model, field, multiple) in [
        (depth_anything(), "/preprocessor/keep_aspect_ratio", "of 14"),
        (glpn(), "/preprocessor/size", "of 32"),
    ] {
        let told = dtta_base::told(&refused(model.clone(), None));
        for part in [field, multiple, "/models/backbone/extents", "`--extents`"] {
            assert!(told.contains(part), "{part}: {told}");
        }
        let error = refused(model, Some([500, 640]));
        assert!(matches!(
            &error,
            ModelError::Extents {
                extents: [500, 640],
                ..
            }
        ));
        let told = error.to_string();
        assert!(
            told.contains("500 × 640") && told.contains(multiple),
            "{told}"
        );
    }
    // A model that says its extents itself; one of this program's own; one of another library.
    let error = refused(dpt(), Some([384, 512]));
    let told = error.to_string();
    assert!(matches!(error, ModelError::Extents { .. }));
    assert!(told.contains("does not leave them open"), "{told}");
    let [_, processor] = dpt();
    for other in [
        json!({"kind": "encoder_decoder", "image": [3, 8, 8], "classes": 2, "widths": [8]}),
        json!({"torchvision": "resnet18", "weights": "IMAGENET1K_V1"}),
    ] {
        let error = refused([other.clone(), processor.clone()], Some([480, 640]));
        assert!(
            matches!(error, ModelError::Extents { .. }),
            "{other}: {error}"
        );
    }
    // Zero divides nothing and is no extent.
    assert!(matches!(
        refused(glpn(), Some([0, 32])),
        ModelError::Extents { .. }
    ));
}

#[test]
fn segformer_b0_for_ade20k_and_vit_mae_base_are_understood_as_published() {
    let names = (0..150).map(|n| (n.to_string(), json!(format!("LABEL_{n}"))));
    let numbers = (0..150).map(|n| (format!("LABEL_{n}"), json!(n)));
    let config = json!({
        "architectures": ["SegformerForSemanticSegmentation"], "attention_probs_dropout_prob": 0.0, "classifier_dropout_prob": 0.1,
        "decoder_hidden_size": 256, "depths": [2, 2, 2, 2], "downsampling_rates": [1, 4, 8, 16], "drop_path_rate": 0.1,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "hidden_sizes": [32, 64, 160, 256],
        "id2label": names.collect::<Map<_, _>>(), "image_size": 224, "initializer_range": 0.02,
        "label2id": numbers.collect::<Map<_, _>>(), "layer_norm_eps": 1e-6, "mlp_ratios": [4, 4, 4, 4], "model_type": "segformer",
        "num_attention_heads": [1, 2, 5, 8], "num_channels": 3, "num_encoder_blocks": 4, "patch_sizes": [7, 3, 3, 3],
        "reshape_last_stage": true, "sr_ratios": [8, 4, 2, 1], "strides": [4, 2, 2, 2], "torch_dtype": "float32",
        "transformers_version": "4.12.0.dev0"
    });
    let processor = json!({
        "do_normalize": true, "do_resize": true, "feature_extractor_type": "SegformerFeatureExtractor",
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "reduce_labels": true, "resample": 2, "size": 512
    });
    let (found, count) = backbone([&config, &processor], None).unwrap();
    assert_eq!(found.resized, Resized::To([512, 512]));
    assert_eq!(count, 3_752_694);

    let config = json!({
        "architectures": ["ViTMAEForPreTraining"], "attention_probs_dropout_prob": 0.0, "decoder_hidden_size": 512,
        "decoder_intermediate_size": 2048, "decoder_num_attention_heads": 16, "decoder_num_hidden_layers": 8, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0, "hidden_size": 768, "image_size": 224, "initializer_range": 0.02, "intermediate_size": 3072,
        "layer_norm_eps": 1e-12, "mask_ratio": 0.75, "model_type": "vit_mae", "norm_pix_loss": false, "num_attention_heads": 12,
        "num_channels": 3, "num_hidden_layers": 12, "patch_size": 16, "qkv_bias": true, "torch_dtype": "float32",
        "transformers_version": "4.16.0.dev0"
    });
    let processor = json!({
        "do_normalize": true, "do_resize": true, "feature_extractor_type": "ViTFeatureExtractor", "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225], "resample": 3, "size": 224
    });
    let (found, count) = backbone([&config, &processor], None).unwrap();
    assert_eq!(found.resized, Resized::To([224, 224]));
    assert_eq!(found.interpolation, Interpolation::Bicubic);
    assert_eq!(count, 111_907_840);
}

#[test]
fn stable_diffusion_1_5_with_its_controlnet_is_understood_as_published() {
    let cross = "CrossAttnDownBlock2D";
    let unet = json!({
        "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.6.0", "act_fn": "silu", "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": false, "cross_attention_dim": 768,
        "down_block_types": [cross, cross, cross, "DownBlock2D"], "downsample_padding": 1, "flip_sin_to_cos": true, "freq_shift": 0,
        "in_channels": 4, "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-5, "norm_num_groups": 32, "out_channels": 4,
        "sample_size": 64,
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]
    });
    let scheduler = json!({
        "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "beta_start": 0.000_85, "num_train_timesteps": 1000, "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1,
        "trained_betas": null, "clip_sample": false
    });
    let control = json!({
        "_class_name": "ControlNetModel", "_diffusers_version": "0.14.0.dev0", "act_fn": "silu", "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280], "class_embed_type": null,
        "conditioning_embedding_out_channels": [16, 32, 96, 256], "controlnet_conditioning_channel_order": "rgb",
        "cross_attention_dim": 768, "down_block_types": [cross, cross, cross, "DownBlock2D"], "downsample_padding": 1,
        "flip_sin_to_cos": true, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-5,
        "norm_num_groups": 32, "num_class_embeds": null, "only_cross_attention": false, "projection_class_embeddings_input_dim": null,
        "resnet_time_scale_shift": "default", "upcast_attention": false, "use_linear_projection": false
    });
    let both = json!({"kind": "controlnet", "unet": "sd/unet", "controlnet": "seg"});
    let folder = repository(&[
        ("sd/unet/config.json", &unet),
        ("sd/scheduler/scheduler_config.json", &scheduler),
        ("seg/config.json", &control),
        ("both.json", &both),
    ]);
    let count = |path: &Path| elements(Models::standard().denoiser(path).unwrap().parameters());
    assert_eq!(count(&folder.path().join("sd/unet")), 859_520_964);
    let denoiser = Models::standard()
        .denoiser(&folder.path().join("both.json"))
        .unwrap();
    assert_eq!(elements(denoiser.parameters()), 859_520_964 + 361_279_120);
    assert_eq!(denoiser.image_shape(), [4, 64, 64]);
    let slots = denoiser.slots().iter();
    let slots: Vec<_> = slots
        .map(|slot| (slot.name.as_str(), slot.shape.clone()))
        .collect();
    assert_eq!(slots.len(), 2, "{slots:?}");
}

#[test]
fn the_configurations_beside_the_papers_experiments_describe_what_is_published() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let models = Models::standard();
    for (folder, expected) in [
        ("imagenet/weights/clip-vit-base-patch32", 87_849_217),
        ("imagenet/weights/stable-diffusion-2-base/unet", 865_910_724),
        ("imagenet/weights/stable-diffusion-2-base/vae", AUTOENCODER),
        (
            "dense/weights/segformer-b0-finetuned-ade-512-512",
            3_752_694,
        ),
        ("dense/weights/stable-diffusion-v1-5/unet", 859_520_964),
        ("dense/weights/stable-diffusion-v1-5/vae", AUTOENCODER),
        (
            "dense/models/controlnet-seg.json",
            859_520_964 + 361_279_120,
        ),
        (
            "dense/models/controlnet-depth.json",
            859_520_964 + 361_279_120,
        ),
    ] {
        let described = models.describe(&examples.join(folder), None).unwrap();
        let found = elements(described.model.parameters());
        assert_eq!(found, expected, "{folder}");
    }
    let models = models.with_extents([480, 640]);
    let glpn = examples.join("dense/weights/glpn-nyu");
    let described = models.describe(&glpn, None).unwrap();
    assert_eq!(elements(described.model.parameters()), GLPN);
}
