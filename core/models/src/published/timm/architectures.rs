//! The architectures of timm's ResNets, ConvNeXts, vision transformers and EfficientNet-Lites, as its functions of these names make them.

/// What timm calls architectures, and what they are made of (its functions of these names).
const ARCHITECTURES: &[(&str, Structure)] = &[
    ("resnet18", resnet("basic", [2, 2, 2, 2])),
    ("resnet26", resnet("bottleneck", [2, 2, 2, 2])),
    ("resnet34", resnet("basic", [3, 4, 6, 3])),
    ("resnet50", resnet("bottleneck", [3, 4, 6, 3])),
    ("resnet50_gn", GROUPED),
    ("resnet101", resnet("bottleneck", [3, 4, 23, 3])),
    ("resnet152", resnet("bottleneck", [3, 8, 36, 3])),
    ("convnext_atto", windowed([2, 2, 6, 2], 40)),
    ("convnext_femto", windowed([2, 2, 6, 2], 48)),
    ("convnext_pico", windowed([2, 2, 6, 2], 64)),
    ("convnext_nano", windowed([2, 2, 8, 2], 80)),
    ("convnext_tiny", convnext([3, 3, 9, 3], 96)),
    ("convnext_tiny_hnf", NORM_FIRST),
    ("convnext_small", convnext([3, 3, 27, 3], 96)),
    ("convnext_base", convnext([3, 3, 27, 3], 128)),
    ("convnext_large", convnext([3, 3, 27, 3], 192)),
    ("convnext_large_mlp", HIDDEN),
    ("convnext_xlarge", convnext([3, 3, 27, 3], 256)),
    ("convnext_xxlarge", XXLARGE),
    (
        "test_convnext",
        test([1, 2, 4, 2], [24, 32, 48, 64], "gelu_tanh", [7; 4]),
    ),
    (
        "test_convnext2",
        test([1; 4], [32, 64, 96, 128], "gelu_tanh", [7; 4]),
    ),
    (
        "test_convnext3",
        test([1; 4], [32, 64, 96, 128], "silu", [7, 5, 5, 3]),
    ),
    ("vit_tiny_patch16_224", vit(16, 192, 12, 3)),
    ("vit_tiny_patch16_384", vit(16, 192, 12, 3)),
    ("vit_small_patch8_224", vit(8, 384, 12, 6)),
    ("vit_small_patch16_224", vit(16, 384, 12, 6)),
    ("vit_small_patch16_384", vit(16, 384, 12, 6)),
    ("vit_small_patch32_224", vit(32, 384, 12, 6)),
    ("vit_small_patch32_384", vit(32, 384, 12, 6)),
    ("vit_base_patch8_224", vit(8, 768, 12, 12)),
    ("vit_base_patch16_224", vit(16, 768, 12, 12)),
    ("vit_base_patch16_384", vit(16, 768, 12, 12)),
    ("vit_base_patch32_224", vit(32, 768, 12, 12)),
    ("vit_base_patch32_384", vit(32, 768, 12, 12)),
    ("vit_large_patch14_224", vit(14, 1024, 24, 16)),
    ("vit_large_patch16_224", vit(16, 1024, 24, 16)),
    ("vit_large_patch16_384", vit(16, 1024, 24, 16)),
    ("vit_large_patch32_224", vit(32, 1024, 24, 16)),
    ("vit_large_patch32_384", vit(32, 1024, 24, 16)),
    ("vit_huge_patch14_224", vit(14, 1280, 32, 16)),
    ("deit_tiny_patch16_224", vit(16, 192, 12, 3)),
    ("deit_small_patch16_224", vit(16, 384, 12, 6)),
    ("deit_base_patch16_224", vit(16, 768, 12, 12)),
    ("deit_base_patch16_384", vit(16, 768, 12, 12)),
    ("deit3_small_patch16_224", deit3(16, 384, 12, 6)),
    ("deit3_small_patch16_384", deit3(16, 384, 12, 6)),
    ("deit3_medium_patch16_224", deit3(16, 512, 12, 8)),
    ("deit3_base_patch16_224", deit3(16, 768, 12, 12)),
    ("deit3_base_patch16_384", deit3(16, 768, 12, 12)),
    ("deit3_large_patch16_224", deit3(16, 1024, 24, 16)),
    ("deit3_large_patch16_384", deit3(16, 1024, 24, 16)),
    ("deit3_huge_patch14_224", deit3(14, 1280, 32, 16)),
    ("efficientnet_lite0", lite(1.0, 1.0, false)),
    ("efficientnet_lite1", lite(1.0, 1.1, false)),
    ("efficientnet_lite2", lite(1.1, 1.2, false)),
    ("efficientnet_lite3", lite(1.2, 1.4, false)),
    ("efficientnet_lite4", lite(1.4, 1.8, false)),
    ("tf_efficientnet_lite0", lite(1.0, 1.0, true)),
    ("tf_efficientnet_lite1", lite(1.0, 1.1, true)),
    ("tf_efficientnet_lite2", lite(1.1, 1.2, true)),
    ("tf_efficientnet_lite3", lite(1.2, 1.4, true)),
    ("tf_efficientnet_lite4", lite(1.4, 1.8, true)),
];

/// Their names alone.
pub(super) const NAMES: [&str; ARCHITECTURES.len()] = {
    let mut names = [""; ARCHITECTURES.len()];
    let mut n = 0;
    while n < names.len() {
        names[n] = ARCHITECTURES[n].0;
        n += 1;
    }
    names
};

/// What an architecture's arguments are by default.
#[derive(Clone, Copy)]
pub(super) enum Structure {
    ResNet {
        block: &'static str,
        blocks: [usize; 4],
        grouped: bool,
    },
    ConvNext(ConvNext),
    Vit {
        patch: usize,
        width: usize,
        depth: usize,
        heads: usize,
        /// The third DeiT: no position of the class token, and LayerScale.
        third: bool,
    },
    Lite {
        width: f64,
        depth: f64,
        /// Of TensorFlow: its padding, its epsilon.
        tensorflow: bool,
    },
}

/// Those of a ConvNeXt.
#[derive(Clone, Copy)]
pub(super) struct ConvNext {
    pub blocks: [usize; 4],
    pub widths: [usize; 4],
    pub windows: [usize; 4],
    pub conv_mlp: bool,
    pub head_norm_first: bool,
    pub hidden: Option<usize>,
    pub epsilon: f64,
    pub activation: &'static str,
}

const fn resnet(block: &'static str, blocks: [usize; 4]) -> Structure {
    Structure::ResNet {
        block,
        blocks,
        grouped: false,
    }
}

const GROUPED: Structure = Structure::ResNet {
    block: "bottleneck",
    blocks: [3, 4, 6, 3],
    grouped: true,
};

/// Widths double from stage to stage.
const fn plain(blocks: [usize; 4], width: usize) -> ConvNext {
    ConvNext {
        blocks,
        widths: [width, 2 * width, 4 * width, 8 * width],
        windows: [7; 4],
        conv_mlp: false,
        head_norm_first: false,
        hidden: None,
        epsilon: 1e-6,
        activation: "gelu",
    }
}

const fn convnext(blocks: [usize; 4], width: usize) -> Structure {
    Structure::ConvNext(plain(blocks, width))
}

const fn windowed(blocks: [usize; 4], width: usize) -> Structure {
    Structure::ConvNext(ConvNext {
        conv_mlp: true,
        ..plain(blocks, width)
    })
}

const NORM_FIRST: Structure = Structure::ConvNext(ConvNext {
    conv_mlp: true,
    head_norm_first: true,
    ..plain([3, 3, 9, 3], 96)
});

const HIDDEN: Structure = Structure::ConvNext(ConvNext {
    hidden: Some(1536),
    ..plain([3, 3, 27, 3], 192)
});

const XXLARGE: Structure = Structure::ConvNext(ConvNext {
    epsilon: 1e-5,
    ..plain([3, 4, 30, 3], 384)
});

const fn test(
    blocks: [usize; 4],
    widths: [usize; 4],
    activation: &'static str,
    windows: [usize; 4],
) -> Structure {
    Structure::ConvNext(ConvNext {
        widths,
        windows,
        activation,
        epsilon: 1e-5,
        ..plain(blocks, 0)
    })
}

const fn vit(patch: usize, width: usize, depth: usize, heads: usize) -> Structure {
    Structure::Vit {
        patch,
        width,
        depth,
        heads,
        third: false,
    }
}

const fn deit3(patch: usize, width: usize, depth: usize, heads: usize) -> Structure {
    Structure::Vit {
        patch,
        width,
        depth,
        heads,
        third: true,
    }
}

const fn lite(width: f64, depth: f64, tensorflow: bool) -> Structure {
    Structure::Lite {
        width,
        depth,
        tensorflow,
    }
}

/// The structure of a name, which a tag may follow as in `resnet50.a1_in1k`.
pub(super) fn structure(name: &str) -> Option<Structure> {
    let name = name.split('.').next().unwrap_or_default();
    let row = ARCHITECTURES.iter().find(|(known, _)| *known == name)?;
    Some(row.1)
}
