"""Writes core/data/tests/fixtures/corruptions.safetensors: what the deterministic corruptions and the resize should give.

    python tests/reference/corruptions.py        # from the repository root; needs numpy, scipy, pillow, safetensors

Each value comes from a library where one computes the same thing (scipy's filters, convolution and cosine transform, Pillow's
resize and JPEG codec), and otherwise from numpy by another route than the Rust code takes. Pictures are in [0, 1]; the inputs
are multiples of 1/255, made here, so that nothing but this script is needed.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file
from scipy import fft, ndimage

OUTPUT = Path(__file__).parents[2] / "core/data/tests/fixtures/corruptions.safetensors"
SEVERITIES = (1, 3, 5)
STRENGTHS = {
    "gaussian_blur": [0.6, 0.9, 1.2, 1.6, 2.0],
    "defocus_blur": [1.0, 1.5, 2.0, 2.5, 3.0],
    "brightness": [0.10, 0.20, 0.30, 0.40, 0.50],
    "contrast": [0.60, 0.45, 0.30, 0.20, 0.12],
    "darkness": [1.4, 1.8, 2.4, 3.2, 4.5],
    "pixelate": [18, 14, 11, 9, 7],
    "jpeg": [25, 15, 10, 7, 4],
}
# ITU-T T.81, table K.1
LUMA = np.array(
    [[16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55], [14, 13, 16, 24, 40, 57, 69, 56],
     [14, 17, 22, 29, 51, 87, 80, 62], [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
     [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99]])


def picture(side):
    """A striped disk on a slope: edges, texture and smooth parts."""
    rows, columns = np.mgrid[:side, :side]
    inside = np.hypot(rows - 0.45 * side, columns - 0.5 * side) < 0.33 * side
    stripes = 0.55 + 0.3 * np.sin(rows * 0.9 + columns * 0.4)
    return np.round(np.where(inside, stripes, 0.006 * columns) * 255) / 255


def to_bytes(x):
    return np.round(x * 255).astype(np.uint8)


def defocus_blur(x, radius):
    reach = int(np.ceil(radius))
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    kernel = np.clip(radius + 0.5 - np.hypot(rows, columns), 0, 1)
    return ndimage.convolve(x, kernel / kernel.sum(), mode="nearest")


def pixelate(x, cells):
    side = len(x)
    fine = np.repeat(np.repeat(x, cells, 0), cells, 1)  # side * cells pixels, so that cells are whole numbers of them
    means = fine.reshape(cells, side, cells, side).mean((1, 3))
    shown = np.floor((np.arange(side) + 0.5) * cells / side).astype(int)
    return means[np.ix_(shown, shown)]


def jpeg(x, quality):
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps = np.clip((LUMA * scale + 50) // 100, 1, 255)
    side = len(x)
    padded = np.pad(np.round(x * 255), (0, -side % 8), mode="edge") - 128
    blocks = padded.reshape(len(padded) // 8, 8, -1, 8).swapaxes(1, 2)
    levels = fft.dctn(blocks, axes=(2, 3), norm="ortho") / steps
    levels = np.sign(levels) * np.floor(np.abs(levels) + 0.5 + 1e-9)  # exact halves are common; see the Rust code
    restored = fft.idctn(levels * steps, axes=(2, 3), norm="ortho").swapaxes(1, 2).reshape(padded.shape)
    return np.clip(np.floor(restored[:side, :side] + 128 + 0.5 + 1e-9), 0, 255) / 255


def pillow_jpeg(x, quality):
    """The real codec, on [H, W] or [H, W, 3], without chroma subsampling."""
    buffer = io.BytesIO()
    Image.fromarray(to_bytes(x)).save(buffer, "JPEG", quality=quality, subsampling=0)
    return np.asarray(Image.open(buffer), dtype=np.float64) / 255


def corrupt(x, name, strength):
    if name == "gaussian_blur":
        y = ndimage.gaussian_filter(x, strength, mode="nearest", radius=int(np.ceil(3 * strength)))
    elif name == "defocus_blur":
        y = defocus_blur(x, strength)
    elif name == "brightness":
        y = x + strength
    elif name == "contrast":
        y = x.mean() + (x - x.mean()) * strength
    elif name == "darkness":
        y = x**strength
    elif name == "pixelate":
        y = pixelate(x, strength)
    else:
        y = jpeg(x, strength)
    return np.clip(y, 0, 1)


def main():
    x = picture(28)
    # Three different planes that are still related, as in a photograph.
    colour = np.stack([picture(16), picture(16)[::-1] * 0.7, picture(16).T * 0.5 + 0.2], -1)
    colour = np.round(colour * 255) / 255
    tensors = {"grey": x, "colour": colour.transpose(2, 0, 1)}
    for name, strengths in STRENGTHS.items():
        for severity in SEVERITIES:
            tensors[f"{name}/{severity}"] = corrupt(x, name, strengths[severity - 1])
    for severity in SEVERITIES:
        quality = STRENGTHS["jpeg"][severity - 1]
        tensors[f"pillow_jpeg/{severity}"] = pillow_jpeg(x, quality)
        tensors[f"pillow_jpeg_colour/{severity}"] = pillow_jpeg(colour, quality).transpose(2, 0, 1)
    for height, width in [(13, 17), (40, 31), (28, 9)]:
        resized = Image.fromarray(x.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
        tensors[f"resize/{height}x{width}"] = np.asarray(resized)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(value, dtype=np.float32) for name, value in tensors.items()}, OUTPUT)
    print(f"{OUTPUT}: {len(tensors)} tensors, {OUTPUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
