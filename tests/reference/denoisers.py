"""Writes the fixtures that hold core/models to models as diffusers saves them: run by hand, results are committed.

    python tests/reference/denoisers.py [core/models/tests/fixtures/diffusers]

Needs torch, diffusers, safetensors. Each model is a pipeline's folder: NAME/{unet,transformer,vae}/config.json and its weights as
`save_pretrained` writes them, with random values, NAME/scheduler/scheduler_config.json, and NAME/expected.safetensors with inputs, outputs
and gradients. `fields.json` holds the fields of each class: their defaults, and for each another value, with what else must be said for the
class to take it.
"""

import inspect
import json
import math
import pathlib
import shutil
import sys

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel
from safetensors.torch import save_file
from torch import nn

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "core/models/tests/fixtures/diffusers")


def randomise(model, generator):
    """Values under which every path matters, and outputs are of the size of 1."""
    for name, p in model.named_parameters():
        draw = torch.randn(p.shape, generator=generator)
        if p.dim() > 1:
            p.data = draw * 1.2 * p[0].numel() ** -0.5
        else:
            norm = "norm" in name and name.endswith("weight") and "norm1.linear" not in name
            p.data = draw * 0.3 + (1.0 if norm else 0.0)


def save(name, part, model, scheduler, tensors):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder / part)
    if scheduler is not None:
        scheduler.save_pretrained(folder / "scheduler")
    for n, value in tensors.items():
        if not n.startswith("input."):
            print(f"{name}: {n} {list(value.shape)} max {value.abs().max():.3g}")
    save_file({n: v.detach().contiguous() for n, v in tensors.items()}, folder / "expected.safetensors")
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)


def check(name, part, seed, model, extents, scheduler, slots, forward, labels=None):
    """`slots` names the shapes of conditions; `forward(noisy, times, conditions)` is the model on vectors instead of labels."""
    generator = torch.Generator().manual_seed(seed)
    randomise(model, generator)
    if isinstance(model, DiTTransformer2DModel):  # As in every published checkpoint.
        for block in model.transformer_blocks[1:]:
            block.norm1.emb.load_state_dict(model.transformer_blocks[0].norm1.emb.state_dict())
    model.eval()
    channels = model.config.in_channels
    noisy = torch.randn(3, channels, *extents, generator=generator)
    times = torch.tensor([3, 417, 999])
    conditions = {n: torch.randn(3, *shape, generator=generator).requires_grad_() for n, shape in slots.items()}
    tensors = {"input.noisy": noisy, "input.times": times.float()}
    if labels is not None:
        tensors["input.labels"] = torch.tensor([2, 0, 4])
        tensors["output.labelled"] = labels(noisy, times, tensors["input.labels"], conditions)[:, :channels]
    saved = {n: p.clone() for n, p in model.state_dict().items()}
    output = forward(noisy, times, conditions)[:, :channels]
    cotangent = torch.randn(output.shape, generator=generator)
    tensors |= {"input.cotangent": cotangent, "output.answer": output}
    for n, condition in conditions.items():
        (gradient,) = torch.autograd.grad((output * cotangent).sum(), condition, retain_graph=True)
        tensors |= {f"input.slot.{n}": condition, f"gradient.{n}": gradient}
    assert all(torch.equal(p, saved[n]) for n, p in model.state_dict().items())
    save(name, part, model, scheduler, tensors)


class Bare:
    """The model with its class table taken out for a moment, so that a vector enters."""

    def __init__(self, model):
        self.holders = [b.norm1.emb for b in model.transformer_blocks] if hasattr(model, "transformer_blocks") else [model]
        self.name = "class_embedder" if hasattr(model, "transformer_blocks") else "class_embedding"

    def __enter__(self):
        self.tables = [getattr(h, self.name) for h in self.holders]
        for h in self.holders:
            setattr(h, self.name, nn.Identity())

    def __exit__(self, *_):
        for h, table in zip(self.holders, self.tables):
            setattr(h, self.name, table)


def unet(name, seed, scheduler=None, extents=None, **config):
    model = UNet2DModel(**config)
    size = config["sample_size"]
    extents = extents or (size if isinstance(size, list) else [size, size])
    table = model.config.num_class_embeds is not None and model.config.class_embed_type is None
    vector = {"class-embedding": [model.time_embedding.linear_2.out_features]} if table or model.config.class_embed_type else {}

    def forward(noisy, times, conditions):
        if not vector:
            return model(noisy, times).sample
        if not table:
            return model(noisy, times, conditions["class-embedding"]).sample
        with Bare(model):
            return model(noisy, times, conditions["class-embedding"]).sample

    labels = (lambda x, t, y, _: model(x, t, y).sample) if table else None
    check(name, "unet", seed, model, extents, scheduler or DDPMScheduler(), vector, forward, labels)


def condition_unet(name, seed, scheduler=None, **config):
    model = UNet2DConditionModel(**config)
    size = config["sample_size"]
    extents = size if isinstance(size, list) else [size, size]
    width = model.config.cross_attention_dim
    width = width[0] if isinstance(width, (list, tuple)) else width
    kinds = [*model.config.down_block_types, *model.config.up_block_types, model.config.mid_block_type or ""]
    table = model.config.num_class_embeds is not None and model.config.class_embed_type is None
    slots = {"class-embedding": [model.time_embedding.linear_2.out_features]} if table or model.config.class_embed_type else {}
    if any("CrossAttn" in kind for kind in kinds):
        slots["tokens"] = [77, width]
    empty = torch.zeros(3, 77, width)

    def forward(noisy, times, conditions):
        tokens = conditions.get("tokens", empty)
        if table:
            with Bare(model):
                return model(noisy, times, tokens, class_labels=conditions["class-embedding"]).sample
        return model(noisy, times, tokens, class_labels=conditions.get("class-embedding")).sample

    labels = (lambda x, t, y, c: model(x, t, c.get("tokens", empty), class_labels=y).sample) if table else None
    check(name, "unet", seed, model, extents, scheduler or DDPMScheduler(), slots, forward, labels)


def dit(name, seed, scheduler=None, **config):
    model = DiTTransformer2DModel(**config)
    size, width = config["sample_size"], model.inner_dim

    def forward(noisy, times, conditions):
        with Bare(model):
            return model(noisy, times, conditions["class-embedding"]).sample

    def labels(noisy, times, y, _):
        return model(noisy, times, y).sample

    check(name, "transformer", seed, model, [size, size], scheduler or DDPMScheduler(), {"class-embedding": [width]}, forward, labels)


def autoencoder(name, seed, extents, **config):
    generator = torch.Generator().manual_seed(seed)
    model = AutoencoderKL(**config).eval()
    randomise(model, generator)
    images = torch.rand(2, model.config.in_channels, *extents, generator=generator) * 2 - 1
    images.requires_grad_()
    latents = model.encode(images).latent_dist.mode()
    if model.config.latents_mean is not None:  # As StableDiffusionXLImg2ImgPipeline.prepare_latents.
        mean, std = (torch.tensor(model.config[f"latents_{n}"]).view(1, -1, 1, 1) for n in ("mean", "std"))
        latents = (latents - mean) * model.config.scaling_factor / std
    else:  # As StableDiffusion3Img2ImgPipeline.prepare_latents.
        latents = (latents - (model.config.shift_factor or 0.0)) * model.config.scaling_factor
    save(name, "vae", model, None, {"input.images": images, "output.latents": latents})


# --- The fields of each class ---------------------------------------------------------------------------------------------------------

THREE = dict(block_out_channels=[32, 32, 64], down_block_types=["DownBlock2D"] * 3, up_block_types=["UpBlock2D"] * 3)
TWO_CROSS = dict(
    block_out_channels=[32, 32], down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"], up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
    layers_per_block=1, attention_head_dim=4, transformer_layers_per_block=1, cross_attention_dim=8, only_cross_attention=False,
)  # fmt: skip

OTHERS = {
    UNet2DModel: dict(
        sample_size=16, in_channels=(1, dict(out_channels=1)), out_channels=6, center_input_sample=True, time_embedding_type="fourier",
        time_embedding_dim=64, freq_shift=1, flip_sin_to_cos=False,
        down_block_types=["DownBlock2D"] * 4, mid_block_type=None, up_block_types=["UpBlock2D"] * 4,
        block_out_channels=[32, 32, 64, 64], layers_per_block=1, mid_block_scale_factor=1.5, downsample_padding=0, downsample_type="resnet",
        upsample_type="resnet", dropout=0.1, act_fn="mish", attention_head_dim=None, norm_num_groups=16, attn_norm_num_groups=16,
        norm_eps=1e-6, resnet_time_scale_shift="scale_shift", add_attention=False, class_embed_type="identity", num_class_embeds=5,
        num_train_timesteps=500,
    ),
    UNet2DConditionModel: dict(
        sample_size=16, in_channels=(3, dict(out_channels=3)), out_channels=8, center_input_sample=True, flip_sin_to_cos=False, freq_shift=1,
        down_block_types=["DownBlock2D"] * 4, mid_block_type="UNetMidBlock2D", up_block_types=["UpBlock2D"] * 4,
        only_cross_attention=[True, True, True, False], block_out_channels=[32, 32, 64, 64], layers_per_block=[1, 2, 1, 1],
        downsample_padding=0, mid_block_scale_factor=1.5, dropout=0.1, act_fn="gelu", norm_num_groups=16, norm_eps=1e-6,
        cross_attention_dim=[8, 8, 8, 8], transformer_layers_per_block=[1, 2, 1, 1],
        reverse_transformer_layers_per_block=([[1], [1, 1]], TWO_CROSS), encoder_hid_dim=(6, dict(encoder_hid_dim_type="text_proj")),
        encoder_hid_dim_type=("text_proj", dict(encoder_hid_dim=6)), attention_head_dim=[1, 2, 4, 4],
        num_attention_heads=4, dual_cross_attention=True, use_linear_projection=True, class_embed_type="identity",
        addition_embed_type="text", addition_time_embed_dim=8, num_class_embeds=5, upcast_attention=True,
        resnet_time_scale_shift="scale_shift", resnet_skip_time_act=True, resnet_out_scale_factor=1.5, time_embedding_type="fourier",
        time_embedding_dim=64, time_embedding_act_fn="silu", timestep_post_act="silu", time_cond_proj_dim=8, conv_in_kernel=5,
        conv_out_kernel=1, projection_class_embeddings_input_dim=8, attention_type="gated", class_embeddings_concat=True,
        mid_block_only_cross_attention=True, cross_attention_norm="layer_norm", addition_embed_type_num_heads=32,
    ),
    DiTTransformer2DModel: dict(
        num_attention_heads=3, attention_head_dim=4, in_channels=3, out_channels=8, num_layers=1, dropout=0.1, norm_num_groups=16,
        attention_bias=False, sample_size=16, patch_size=4, activation_fn="gelu", num_embeds_ada_norm=5, upcast_attention=True,
        norm_type="layer_norm", norm_elementwise_affine=True, norm_eps=1e-3,
    ),
    AutoencoderKL: dict(
        in_channels=1, out_channels=1, down_block_types=["AttnDownEncoderBlock2D"], up_block_types=["AttnUpDecoderBlock2D"],
        block_out_channels=[32], layers_per_block=2, act_fn="mish", latent_channels=2, norm_num_groups=16, sample_size=16,
        scaling_factor=0.5, shift_factor=0.1, latents_mean=([0.1] * 4, dict(latents_std=[2.0] * 4)),
        latents_std=([2.0] * 4, dict(latents_mean=[0.1] * 4)), force_upcast=False, use_quant_conv=False, use_post_quant_conv=False,
        mid_block_add_attention=False,
    ),
}  # fmt: skip

DISCRETE = dict(
    num_train_timesteps=500, beta_start=1e-3, beta_end=0.1, beta_schedule="scaled_linear", trained_betas=[0.1, 0.2], prediction_type="v_prediction",
    timestep_spacing="trailing", steps_offset=1, clip_sample=False, thresholding=True, dynamic_thresholding_ratio=0.9, clip_sample_range=2.0,
    sample_max_value=2.0, rescale_betas_zero_snr=True, variance_type="fixed_large", set_alpha_to_one=None, skip_prk_steps=True,
    interpolation_type="log_linear", use_karras_sigmas=True, use_exponential_sigmas=True, use_beta_sigmas=True, sigma_min=0.1, sigma_max=9.0,
    timestep_type="continuous", final_sigmas_type="sigma_min", solver_order=1, algorithm_type="dpmsolver", solver_type="heun",
    lower_order_final=False, euler_at_final=True, use_lu_lambdas=True, use_flow_sigmas=True, flow_shift=2.0, lambda_min_clipped=-5.0,
    use_dynamic_shifting=True, time_shift_type="linear", sigma_data=1.0, sigma_schedule="exponential", rho=6.0, shift=3.0, base_shift=0.4,
    max_shift=1.0, base_image_seq_len=128, max_image_seq_len=2048, invert_sigmas=True, shift_terminal=0.1, stochastic_sampling=True,
)  # fmt: skip

SCHEDULERS = [
    "DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler",
    "FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler",
]  # fmt: skip


def fields():
    def plain(value):
        return str(value) if isinstance(value, float) and math.isinf(value) else value

    def defaults(made):
        found = inspect.signature(made.__init__).parameters.values()
        return {p.name: plain(p.default) for p in found if p.name not in ("self", "kwargs")}

    table = {}
    for made, others in OTHERS.items():
        known = defaults(made)
        assert list(known) == list(others), (set(known) ^ set(others), made)
        rows = {}
        for name, other in others.items():
            value, more = other if isinstance(other, tuple) else (other, {})
            if name != "num_attention_heads" and name != "norm_type":  # The class itself takes no other value.
                assert value != known[name], name
                with torch.device("meta"):
                    made(**{name: value} | more)
            rows[name] = {name: value} | more
        table[made.__name__] = {"defaults": known, "others": rows}
    for name in SCHEDULERS:
        known = defaults(getattr(diffusers, name))
        rows = {}
        for field, default in known.items():
            value = DISCRETE[field]
            value = not default if value is None else value
            if value == default:
                assert field == "time_shift_type" or isinstance(default, bool), field
                value = not default
            rows[field] = {field: value}
        table[name] = {"defaults": known, "others": rows}
    (OUT / "fields.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    fields()
    # As DDPM-CIFAR-10 in everything that a hand-written configuration gets wrong.
    unet(
        "ddpm", 1, sample_size=8, in_channels=1, out_channels=1, block_out_channels=[4, 8], norm_num_groups=2,
        down_block_types=["DownBlock2D", "AttnDownBlock2D"], up_block_types=["AttnUpBlock2D", "UpBlock2D"], flip_sin_to_cos=False,
        freq_shift=1, downsample_padding=0, attention_head_dim=None, norm_eps=1e-3, layers_per_block=2, act_fn="swish", dropout=0.1,
        center_input_sample=True, mid_block_scale_factor=math.sqrt(2), num_class_embeds=5,
        scheduler=DDPMScheduler(beta_schedule="scaled_linear", beta_start=8.5e-4, beta_end=0.012, num_train_timesteps=1200),
    )  # fmt: skip
    unet(
        "resampled", 2, sample_size=[8, 12], in_channels=2, out_channels=4, block_out_channels=[6, 12, 12], norm_num_groups=3,
        down_block_types=["AttnDownBlock2D", "DownBlock2D", "AttnDownBlock2D"], up_block_types=["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        downsample_type="resnet", upsample_type="resnet", resnet_time_scale_shift="scale_shift", act_fn="mish", attention_head_dim=2,
        class_embed_type="identity", time_embedding_dim=10, num_train_timesteps=500, layers_per_block=1,
    )  # fmt: skip
    unet(
        "one_level", 3, sample_size=[3, 5], in_channels=3, out_channels=3, block_out_channels=[12], norm_num_groups=3, attn_norm_num_groups=4,
        down_block_types=["AttnDownBlock2D"], up_block_types=["UpBlock2D"], attention_head_dim=4, act_fn="relu", layers_per_block=1,
    )  # fmt: skip
    unet(
        "no_attention", 4, sample_size=4, in_channels=1, out_channels=1, block_out_channels=[5, 10], norm_num_groups=5, add_attention=False,
        down_block_types=["DownBlock2D", "DownBlock2D"], up_block_types=["UpBlock2D", "UpBlock2D"], act_fn="gelu", layers_per_block=1,
        resnet_time_scale_shift="scale_shift", attn_norm_num_groups=None, scheduler=DDIMScheduler(beta_schedule="squaredcos_cap_v2"),
    )  # fmt: skip
    unet(
        "no_bottom", 5, sample_size=4, in_channels=1, out_channels=1, block_out_channels=[4, 4], norm_num_groups=2, mid_block_type=None,
        down_block_types=["UNetResDownBlock2D", "DownBlock2D"], up_block_types=["UpBlock2D", "UNetResUpBlock2D"], layers_per_block=1,
    )  # fmt: skip
    # As Stable Diffusion 2.1 in its numbers of heads; odd extents; and what must have no influence has another value.
    condition_unet(
        "heads", 6, sample_size=[7, 5], in_channels=3, out_channels=6, block_out_channels=[8, 12, 12], norm_num_groups=4,
        down_block_types=["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"], attention_head_dim=[2, 3, 6],
        layers_per_block=[1, 2, 1], transformer_layers_per_block=[2, 1, 1], cross_attention_dim=[6, 6, 6],
        only_cross_attention=[True, False, False], use_linear_projection=True, act_fn="gelu", norm_eps=1e-6,
        conv_in_kernel=5, conv_out_kernel=1, num_class_embeds=5, time_embedding_act_fn="mish", timestep_post_act="silu",
        upcast_attention=True, dropout=0.1, mid_block_only_cross_attention=True, resnet_skip_time_act=True, resnet_out_scale_factor=2.0,
        cross_attention_norm="layer_norm", addition_time_embed_dim=4, addition_embed_type_num_heads=2, projection_class_embeddings_input_dim=3,
        scheduler=DDPMScheduler(beta_schedule="scaled_linear", beta_start=8.5e-4, beta_end=0.012, clip_sample=False, steps_offset=1),
    )  # fmt: skip
    condition_unet(
        "mixed", 7, sample_size=8, in_channels=4, out_channels=4, block_out_channels=[4, 8, 8], norm_num_groups=4, mid_block_type="UNetMidBlock2D",
        down_block_types=["AttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D", "AttnUpBlock2D"], attention_head_dim=2, cross_attention_dim=6, layers_per_block=1,
        downsample_padding=0, mid_block_scale_factor=2.0, center_input_sample=True, flip_sin_to_cos=False, freq_shift=1,
        resnet_time_scale_shift="scale_shift", class_embed_type="identity", time_embedding_dim=10,
    )  # fmt: skip
    condition_unet(
        "bottom_only", 8, sample_size=[5, 6], in_channels=1, out_channels=1, block_out_channels=[4, 6], norm_num_groups=2, cross_attention_dim=4,
        down_block_types=["DownBlock2D", "DownBlock2D"], up_block_types=["UpBlock2D", "UpBlock2D"], attention_head_dim=3, layers_per_block=1,
        mid_block_scale_factor=1.5, only_cross_attention=True, transformer_layers_per_block=2,
    )  # fmt: skip
    condition_unet(
        "no_tokens", 9, sample_size=4, in_channels=1, out_channels=1, block_out_channels=[4, 4], norm_num_groups=2, cross_attention_dim=4,
        down_block_types=["DownBlock2D", "DownBlock2D"], up_block_types=["UpBlock2D", "UpBlock2D"], mid_block_type=None, layers_per_block=1,
    )  # fmt: skip
    dit(
        "dit_one", 10, num_attention_heads=3, attention_head_dim=8, in_channels=3, out_channels=6, num_layers=1, sample_size=16, patch_size=8,
        activation_fn="gelu", num_embeds_ada_norm=5, norm_eps=1e-2, dropout=0.1, norm_num_groups=3, upcast_attention=True,
    )  # fmt: skip
    dit("dit_two", 11, num_attention_heads=2, attention_head_dim=6, in_channels=2, num_layers=2, sample_size=6, patch_size=2, num_embeds_ada_norm=7)
    # As guided-diffusion's are laid out: residual blocks change the extents of levels without attention too.
    unet(
        "guided", 14, sample_size=[8, 12], in_channels=1, out_channels=1, freq_shift=0, block_out_channels=[4, 4, 8], layers_per_block=2,
        down_block_types=["ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D", "AttnDownBlock2D"],
        up_block_types=["AttnUpBlock2D", "ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"], downsample_type="resnet",
        upsample_type="resnet", attention_head_dim=2, norm_num_groups=2, attn_norm_num_groups=2, resnet_time_scale_shift="scale_shift",
        num_class_embeds=5,
    )  # fmt: skip
    autoencoder(
        "kl", 12, [9, 12], in_channels=1, out_channels=2, down_block_types=["DownEncoderBlock2D", "AttnDownEncoderBlock2D", "DownEncoderBlock2D"],
        up_block_types=["AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"], block_out_channels=[4, 8, 8], layers_per_block=2,
        norm_num_groups=2, latent_channels=2, scaling_factor=0.7, latents_mean=[0.3, -0.2], latents_std=[1.5, 0.8], act_fn="mish",
        sample_size=[9, 12], force_upcast=False, use_post_quant_conv=False,
    )  # fmt: skip
    autoencoder(
        "kl_shift", 13, [8, 10], down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2, block_out_channels=[4, 6],
        norm_num_groups=2, latent_channels=3, scaling_factor=1.3, shift_factor=0.2, use_quant_conv=False, mid_block_add_attention=False,
    )  # fmt: skip
