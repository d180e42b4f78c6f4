"""Writes the fixtures that hold core/models to segmenters and depth predictors as transformers saves them, and to U-Nets with a ControlNet as
diffusers does: run by hand, results are committed.

    python tests/reference/dense.py [core/models/tests/fixtures/dense]

Needs torch, transformers, diffusers, safetensors. Each segmenter or depth predictor is a folder NAME/ with config.json and its weights as
`save_pretrained` writes them, with random values, and preprocessor_config.json; each ControlNet is NAME/{unet,controlnet,scheduler}/, with
NAME/model.json that names them and NAME/prompt.safetensors. NAME/expected.safetensors holds inputs, outputs and gradients, those of
parameters under the names that core/models has for them. `fields.json` holds the fields of each class with their defaults.
"""

import json
import pathlib
import shutil
import sys

import torch
import torch.nn.functional as F
import transformers
from diffusers import ControlNetModel, DDPMScheduler, UNet2DConditionModel
from safetensors.torch import save_file

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "core/models/tests/fixtures/dense")


def randomise(model, seed):
    """Values under which every path matters, and outputs are of the size of 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        draw = torch.randn(p.shape, generator=generator)
        if "position_embeddings" in name or "token" in name:
            p.data = draw
        elif "lambda1" in name:
            p.data = 0.5 + 0.2 * draw
        elif p.dim() > 1:
            p.data = draw * 1.2 * p[0].numel() ** -0.5
        else:
            norm = "norm" in name and name.endswith("weight")
            p.data = draw * 0.3 + (1.0 if norm else 0.0)
    for name, b in model.named_buffers():
        if name.endswith("running_mean"):
            b.data = 0.3 * torch.randn(b.shape, generator=generator)
        if name.endswith("running_var"):
            b.data = 0.5 + torch.rand(b.shape, generator=generator)
    return model.eval()


def clean(folder):
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)


def dense(name, seed, model, processor, extents, answer, parameters, lift=1.0):
    """`answer(outputs)` is `[B, outputs, H, W]`; `parameters` are theirs by ours."""
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    randomise(model, seed)
    for n, p in model.named_parameters():  # A ReLU ends the head: half of what is before it is above 0.
        if n in ("head.head.4.bias", "head.conv3.bias"):
            p.data += 0.0 if getattr(model.config, "depth_estimation_type", "") == "metric" else lift
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    generator = torch.Generator().manual_seed(seed + 100)
    images = torch.randn(2, 3, *extents, generator=generator).requires_grad_()
    output = answer(model(images))
    assert output.shape[2:] == images.shape[2:], output.shape
    cotangent = torch.randn(output.shape, generator=generator)
    named = dict(model.named_parameters())
    wanted = {"images": images} | {ours: named[theirs] for ours, theirs in parameters.items()}
    gradients = torch.autograd.grad((output * cotangent).sum(), list(wanted.values()))
    tensors = {"input.images": images, "input.cotangent": cotangent, "output.logits": output}
    tensors |= {f"gradient.{n}": g for n, g in zip(wanted, gradients)}
    share = (output > 0).float().mean()
    print(f"{name}: {list(output.shape)} max {output.abs().max():.3g}, above 0: {share:.2f}, ", end="")
    print(", ".join(f"{n} {g.abs().max():.2g}" for n, g in zip(wanted, gradients)))
    save_file({n: v.detach().contiguous() for n, v in tensors.items()}, folder / "expected.safetensors")
    clean(folder)


def enlarged(extents):
    return lambda outputs: F.interpolate(outputs.logits, size=extents, mode="bilinear", align_corners=False)


def depth(outputs):
    return outputs.predicted_depth[:, None]


def processor(kind, size, **other):
    return {"image_processor_type": kind, "size": {"height": size[0], "width": size[1]}, "do_rescale": True, "rescale_factor": 1 / 255} | other


def controlnet(name, seed, unet, control, scale, prompted):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    randomise(unet, seed), randomise(control, seed + 1)
    unet.save_pretrained(folder / "unet")
    control.save_pretrained(folder / "controlnet")
    DDPMScheduler(beta_schedule="scaled_linear", beta_start=8.5e-4, beta_end=0.012).save_pretrained(folder / "scheduler")
    generator = torch.Generator().manual_seed(seed + 100)
    size, width = unet.config.sample_size, unet.config.cross_attention_dim
    factor = 2 ** (len(control.config.conditioning_embedding_out_channels) - 1)
    noisy = torch.randn(3, unet.config.in_channels, *size, generator=generator)
    times = torch.tensor([3, 417, 999])
    image = torch.rand(3, control.config.conditioning_channels, *(factor * e for e in size), generator=generator).requires_grad_()
    tokens = torch.randn(1 if prompted else 3, 77, width, generator=generator).requires_grad_(not prompted)
    every = tokens.expand(3, -1, -1)
    down, mid = control(noisy, times, every, image, scale, return_dict=False)
    output = unet(noisy, times, every, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample
    without = unet(noisy, times, every).sample
    cotangent = torch.randn(output.shape, generator=generator)
    slots = {"spatial": image} | ({} if prompted else {"tokens": tokens})
    gradients = torch.autograd.grad((output * cotangent).sum(), list(slots.values()))
    tensors = {"input.noisy": noisy, "input.times": times.float(), "input.cotangent": cotangent, "output.answer": output}
    tensors |= {f"input.slot.{n}": v for n, v in slots.items()} | {f"gradient.{n}": g for n, g in zip(slots, gradients)}
    print(f"{name}: max {output.abs().max():.3g}, moved by {(output - without).abs().max():.3g}, gradient {gradients[0].abs().max():.2g}")
    model = {"kind": "controlnet", "unet": "unet", "controlnet": "controlnet", "conditioning_scale": scale}
    if prompted:
        save_file({"tokens": tokens[0].contiguous()}, folder / "prompt.safetensors")
        model["prompt"] = "prompt.safetensors"
    (folder / "model.json").write_text(json.dumps(model, indent=2) + "\n")
    save_file({n: v.detach().contiguous() for n, v in tensors.items()}, folder / "expected.safetensors")
    clean(folder)


def fields():
    table = {}
    for model, config in (
        ("SegformerForSemanticSegmentation", transformers.SegformerConfig()),
        ("GLPNForDepthEstimation", transformers.GLPNConfig()),
        ("DPTForDepthEstimation", transformers.DPTConfig()),
        ("DepthAnythingForDepthEstimation", transformers.DepthAnythingConfig()),
    ):
        table[model] = json.loads(config.to_json_string(use_diff=False)) | {"architectures": [model]}
    import inspect

    known = inspect.signature(ControlNetModel.__init__).parameters.values()
    table["ControlNetModel"] = {p.name: p.default for p in known if p.name not in ("self", "kwargs")}
    (OUT / "fields.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    fields()
    # Extents that no stride divides, and more than one block; then other windows, another activation and fewer levels.
    for name, seed, extents, config in (
        ("segformer", 1, [36, 52], dict(
            num_encoder_blocks=3, depths=[1, 2, 1], sr_ratios=[4, 2, 1], hidden_sizes=[4, 8, 12], patch_sizes=[7, 3, 3], strides=[4, 2, 2],
            num_attention_heads=[1, 2, 3], mlp_ratios=[2, 3, 2], decoder_hidden_size=6, num_labels=5)),
        ("segformer_relu", 2, [11, 14], dict(
            num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 3], hidden_sizes=[6, 4], patch_sizes=[3, 5], strides=[2, 2],
            num_attention_heads=[3, 1], mlp_ratios=[2, 4], decoder_hidden_size=4, num_labels=3, hidden_act="relu", layer_norm_eps=0.1,
            drop_path_rate=0.3, classifier_dropout_prob=0.4)),
    ):  # fmt: skip
        model = transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(**config))
        parameters = {
            "encoder.patch_embeddings.0.proj.weight": "segformer.stages.0.patch_embeddings.proj.weight",
            "encoder.block.1.0.attention.self.sr.weight": "segformer.stages.1.blocks.0.attention.sequence_reduction.sequence_reduction.weight",
            "decode_head.batch_norm.weight": "decode_head.batch_norm.weight",
        }
        dense(name, seed, model, processor("SegformerImageProcessor", extents, do_reduce_labels=True), extents, enlarged(extents), parameters)
    # One level has as many channels as the decoder.
    config = transformers.GLPNConfig(
        num_encoder_blocks=3, depths=[1, 1, 1], sr_ratios=[4, 2, 1], hidden_sizes=[4, 6, 8], patch_sizes=[7, 3, 3], strides=[4, 2, 2],
        num_attention_heads=[1, 2, 2], mlp_ratios=[2, 2, 2], decoder_hidden_size=6, max_depth=7,
    )  # fmt: skip
    processed = processor("GLPNImageProcessor", [32, 48], size_divisor=16, resample=2)
    parameters = {"encoder.block.0.0.mlp.dwconv.dwconv.weight": "glpn.encoder.block.0.0.mlp.dwconv.dwconv.weight"}
    parameters["decoder.stages.1.fusion.convolutional_layer2.1.weight"] = "decoder.stages.1.fusion.convolutional_layer2.1.weight"
    dense("glpn", 3, transformers.GLPNForDepthEstimation(config), processed, [32, 48], depth, parameters)
    # Positions for other extents; blocks behind the last that is taken; then another readout, normalisation and activation.
    block = "dpt.encoder.layer.1."
    parameters = {"encoder.pos_embed": "dpt.embeddings.position_embeddings", "encoder.blocks.1.mlp.fc1.weight": block + "intermediate.dense.weight"}
    for name, seed, config in (
        ("dpt", 4, dict(num_hidden_layers=5, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[4, 6, 8, 8], fusion_hidden_size=6)),
        ("dpt_add", 5, dict(
            num_hidden_layers=3, backbone_out_indices=[0, 1, 2], neck_hidden_sizes=[4, 3, 6], fusion_hidden_size=4, readout_type="add",
            reassemble_factors=[2, 1, 0.5], use_batch_norm_in_fusion_residual=True, qkv_bias=False, hidden_act="relu", layer_norm_eps=1e-3)),
    ):  # fmt: skip
        size = dict(hidden_size=8, num_attention_heads=2, intermediate_size=16, image_size=24, patch_size=8)
        model = transformers.DPTForDepthEstimation(transformers.DPTConfig(**size, **config))
        def answer(outputs):
            return F.interpolate(depth(outputs), size=(32, 32), mode="bilinear", align_corners=False)

        dense(name, seed, model, processor("DPTImageProcessor", [32, 32], keep_aspect_ratio=False, resample=3), [32, 32], answer, parameters)
    # The library's projection has 256 channels whatever the configuration says; here it has those of the fused maps, to be small.
    config = transformers.DPTConfig(**size, num_hidden_layers=2, backbone_out_indices=[0, 1], neck_hidden_sizes=[4, 6], fusion_hidden_size=6,
                                    reassemble_factors=[2, 1], add_projection=True)
    model = transformers.DPTForDepthEstimation(config)
    model.head.projection = torch.nn.Conv2d(6, 6, 3, padding=1)

    def answer(outputs):
        return F.interpolate(depth(outputs), size=(24, 24), mode="bilinear", align_corners=False)

    projected = parameters | {"head.projection.weight": "head.projection.weight"}
    dense("dpt_projection", 11, model, processor("DPTImageProcessor", [24, 24]), [24, 24], answer, projected)
    dino = dict(hidden_size=8, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2, image_size=21, patch_size=7, reshape_hidden_states=False)
    block = "backbone.encoder.layer.1."
    parameters = {"encoder.pos_embed": "backbone.embeddings.position_embeddings", "encoder.blocks.1.ls1.gamma": block + "layer_scale1.lambda1"}
    # Not square; a DPT whose answer is larger than the image.
    extents = [28, 42]
    config = transformers.DPTConfig(
        backbone_config=transformers.Dinov2Config(**dino, out_indices=[1, 2, 3, 4]), neck_hidden_sizes=[4, 6, 8, 8], fusion_hidden_size=6,
        readout_type="ignore", use_bias_in_fusion_residual=False,
    )  # fmt: skip

    def answer(outputs):
        return F.interpolate(depth(outputs), size=tuple(extents), mode="bilinear", align_corners=False)

    model = transformers.DPTForDepthEstimation(config)
    dense("dpt_dinov2", 6, model, processor("DPTImageProcessor", extents, ensure_multiple_of=7), extents, answer, parameters, 1.5)
    anything = dict(patch_size=7, reassemble_hidden_size=8, fusion_hidden_size=6)
    config = transformers.DepthAnythingConfig(
        backbone_config=transformers.Dinov2Config(**dino, out_indices=[1, 2, 3, 4]), neck_hidden_sizes=[4, 6, 8, 8], head_hidden_size=5, **anything
    )
    processed = processor("DPTImageProcessor", extents, ensure_multiple_of=7, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
    dense("anything", 7, transformers.DepthAnythingForDepthEstimation(config), processed, extents, depth, parameters, 3.0)
    config = transformers.DepthAnythingConfig(
        backbone_config=transformers.Dinov2Config(**dino, out_indices=[2, 3], use_swiglu_ffn=True, apply_layernorm=False, layer_norm_eps=1e-3),
        neck_hidden_sizes=[4, 6], reassemble_factors=[2, 0.5], head_hidden_size=4, depth_estimation_type="metric", max_depth=20, **anything,
    )  # fmt: skip
    parameters["encoder.blocks.1.mlp.w3.weight"] = block + "mlp.down_proj.weight"
    dense("anything_metric", 8, transformers.DepthAnythingForDepthEstimation(config), processed, extents, depth, parameters)
    # As Stable Diffusion with a prompt for all images; then everything that may differ.
    cross = ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"]
    up = ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]
    shared = dict(
        in_channels=4, block_out_channels=[8, 12, 12], norm_num_groups=4, down_block_types=cross, attention_head_dim=2, layers_per_block=1,
        cross_attention_dim=6,
    )  # fmt: skip
    unet = UNet2DConditionModel(sample_size=[8, 12], up_block_types=up, out_channels=4, **shared)
    control = ControlNetModel(conditioning_embedding_out_channels=[3, 4, 6], **shared)
    controlnet("controlnet", 9, unet, control, 0.7, True)
    shared = dict(
        in_channels=3, block_out_channels=[8, 12], norm_num_groups=2, down_block_types=cross[1:], attention_head_dim=[2, 3], layers_per_block=2,
        cross_attention_dim=5, act_fn="gelu", norm_eps=1e-4, flip_sin_to_cos=False, freq_shift=1, downsample_padding=0, use_linear_projection=True,
        transformer_layers_per_block=[2, 1], mid_block_scale_factor=1.5, resnet_time_scale_shift="scale_shift",
    )  # fmt: skip
    unet = UNet2DConditionModel(sample_size=[7, 6], up_block_types=up[:2], out_channels=3, mid_block_type="UNetMidBlock2D", **shared)
    control = ControlNetModel(
        conditioning_embedding_out_channels=[4, 5], conditioning_channels=2, controlnet_conditioning_channel_order="bgr",
        mid_block_type="UNetMidBlock2D", global_pool_conditions=True, only_cross_attention=[True, False], upcast_attention=True, **shared,
    )  # fmt: skip
    controlnet("controlnet_pooled", 10, unet, control, 1.3, False)
