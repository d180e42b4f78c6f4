"""Makes what `tests/real_denoiser.sh` holds the U-Net to: the conditional denoiser of the package adaptive-terrain-diffusion 0.4.1 as a model
file with weights of ours, heights that it makes itself at known difficulties, and its answers by ONNX Runtime.

    python tests/reference/terrain.py PACKAGE OUT

Needs numpy, onnx, onnxruntime, safetensors. PACKAGE is the unpacked wheel.

The graph is guided-diffusion's U-Net (Dhariwal and Nichol 2021) between the coefficients of consistency models (Song et al. 2023): c_in as
Karras et al. (2022) have it with σ_data = 0.5, a time code of 250 ln σ, c_skip and c_out with σ - 0.002 in the place of σ, and clipped to [-1, 1]. Groups of 32, one
head of attention for 32 channels, scale and shift, and residual blocks that change extents: diffusers' `ResnetDownsampleBlock2D` and
`AttnDownBlock2D`, whose names the weights are given. Its difficulty, a number from 0 to 1, enters through two linear layers; of their answers
at the 100 difficulties that the package has, the table of classes is made.
"""

import json
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from safetensors.numpy import save_file

PACKAGE, OUT = map(pathlib.Path, sys.argv[1:])
MODEL = PACKAGE / "terrain_diffusion/weights/terrain_consistency_unet_difficulty100.onnx"
CLASSES, LEVELS, BLOCKS, ATTENDS = 100, 5, 4, (False, False, True, True, True)
SIGMA_MIN, SIGMA_MAX, DATA = 0.002, 80.0, 0.5


def of_graph(graph):
    """Weights by guided-diffusion's names. Those of normalisation layers have lost theirs; the nodes that read them have not."""
    found = {t.name.removeprefix("model."): numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:
        kind = {"Mul": "weight", "Add": "bias"}.get(node.op_type)
        if kind and len(node.input) == 2 and node.input[1].startswith("onnx::"):
            # Such as /model/input_blocks.1/input_blocks.1.0/in_layers/in_layers.0/Mul.
            parts = []
            for part in node.name.split("/")[2:-1]:
                if parts and part.startswith(f"{parts[-1]}."):
                    parts.pop()
                parts.append(part)
            name = ".".join(parts)
            found[f"{name}.{kind}"] = found.pop(node.input[1]).reshape(-1)
    return found


def names():
    """Ours and guided-diffusion's, of layers."""
    yield from (("time_embedding.linear_1", "time_embed.0"), ("time_embedding.linear_2", "time_embed.2"), ("conv_in", "input_blocks.0.0"),
                ("conv_norm_out", "out.0"), ("conv_out", "out.2"))

    def residual(ours, theirs):
        pairs = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
                 "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
        yield from ((f"{ours}.{a}", f"{theirs}.{b}") for a, b in pairs.items())

    def attention(ours, theirs):
        yield from ((f"{ours}.{a}", f"{theirs}.{b}") for a, b in {"group_norm": "norm", "to_qkv": "qkv", "to_out.0": "proj_out"}.items())

    place = 1
    for level in range(LEVELS):
        for n in range(BLOCKS):
            yield from residual(f"down_blocks.{level}.resnets.{n}", f"input_blocks.{place}.0")
            if ATTENDS[level]:
                yield from attention(f"down_blocks.{level}.attentions.{n}", f"input_blocks.{place}.1")
            place += 1
        if level + 1 < LEVELS:
            yield from residual(f"down_blocks.{level}.downsamplers.0", f"input_blocks.{place}.0")
            place += 1
    for n, part in ((0, 0), (1, 2)):
        yield from residual(f"mid_block.resnets.{n}", f"middle_block.{part}")
    yield from attention("mid_block.attentions.0", "middle_block.1")
    place = 0
    for above in range(LEVELS):
        attends = ATTENDS[LEVELS - 1 - above]
        for n in range(BLOCKS + 1):
            yield from residual(f"up_blocks.{above}.resnets.{n}", f"output_blocks.{place}.0")
            if attends:
                yield from attention(f"up_blocks.{above}.attentions.{n}", f"output_blocks.{place}.1")
            if n == BLOCKS and above + 1 < LEVELS:
                yield from residual(f"up_blocks.{above}.upsamplers.0", f"output_blocks.{place}.{2 if attends else 1}")
            place += 1


def converted(theirs):
    ours = {}
    for layer, old in names():
        if layer.endswith("conv_shortcut") and f"{old}.weight" not in theirs:
            continue
        for kind in ("weight", "bias"):
            value = theirs.pop(f"{old}.{kind}")
            if layer.endswith("to_qkv"):
                for part, third in zip("qkv", np.split(value.reshape(value.shape[0], -1) if kind == "weight" else value, 3)):
                    ours[f"{layer[:-3]}{part}.{kind}"] = third
            else:
                ours[f"{layer}.{kind}"] = value.reshape(value.shape[:2]) if layer.endswith("to_out.0") and kind == "weight" else value
    silu = lambda x: x / (1 + np.exp(-x))  # noqa: E731
    labels = (np.arange(CLASSES) / (CLASSES - 1)).astype(np.float32)[:, None]
    first, second = ([theirs.pop(f"label_emb.{n}.{kind}") for kind in ("weight", "bias")] for n in (0, 2))
    ours["class_embedding.weight"] = silu(labels @ first[0].T + first[1]) @ second[0].T + second[1]
    assert not theirs, sorted(theirs)
    return {name: np.ascontiguousarray(value, np.float32) for name, value in ours.items()}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    save_file(converted(of_graph(onnx.load(MODEL).graph)), OUT / "terrain.safetensors")
    (OUT / "terrain.json").write_text(json.dumps({
        "kind": "unet", "image": [1, 128, 128], "block_out_channels": [32, 32, 64, 96, 128], "layers_per_block": BLOCKS,
        "down_block_types": ["AttnDownBlock2D" if attends else "ResnetDownsampleBlock2D" for attends in ATTENDS],
        "up_block_types": ["AttnUpBlock2D" if attends else "ResnetUpsampleBlock2D" for attends in reversed(ATTENDS)],
        "downsample_type": "resnet", "upsample_type": "resnet", "attention_head_dim": 32, "attn_norm_num_groups": 32,
        "resnet_time_scale_shift": "scale_shift", "num_class_embeds": CLASSES,
        "schedule": {"kind": "edm", "sigma_data": DATA, "sigma_min": SIGMA_MIN, "sigma_max": SIGMA_MAX, "time_scale": 1000},
    }, indent=2))

    # Its answer is clipped to [-1, 1]; that of the network within is asked for beside it.
    graph = onnx.load(MODEL)
    within = "/model/out/out.2/Conv_output_0"
    graph.graph.output.append(onnx.helper.make_tensor_value_info(within, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def denoise(x, sigma, label, output="denoised"):
        return session.run([output], {"noisy": x, "sigma": sigma, "difficulty": label})[0]

    # Made as the package makes them: in one step from noise, at difficulties spread over the range.
    rng = np.random.default_rng(20)
    classes = np.round(np.linspace(2, 97, 20)).astype(np.int64)
    labels = (classes / (CLASSES - 1)).astype(np.float32)
    noise = rng.standard_normal((20, 1, 128, 128)).astype(np.float32)
    heights = np.concatenate([denoise(SIGMA_MAX * noise[n : n + 1], np.full(1, SIGMA_MAX, np.float32), labels[n : n + 1]) for n in range(20)])

    # What the network itself answers, without the coefficients around it.
    sigma = np.float32([0.05, 0.3, 1, 3, 10, 60])
    noisy = heights[:6] + sigma[:, None, None, None] * rng.standard_normal((6, 1, 128, 128)).astype(np.float32)
    others = np.int64([0, 99, 40, 10, 71, 25])
    answer = denoise(noisy, sigma, (others / (CLASSES - 1)).astype(np.float32), within)
    total = np.hypot(sigma.astype(np.float64), DATA)[:, None, None, None]
    save_file({
        "heights": heights, "classes": classes.astype(np.float32), "input.shown": (noisy / total).astype(np.float32),
        "input.times": (np.log(sigma.astype(np.float64)) / 4).astype(np.float32), "input.classes": others.astype(np.float32), "output.answer": answer,
    }, OUT / "expected.safetensors")
    print("heights", heights.min(), heights.max(), "answers", np.abs(answer).max(axis=(1, 2, 3)))


main()
