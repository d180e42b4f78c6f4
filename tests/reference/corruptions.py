"""Writes core/data/tests/fixtures/imagecorruptions.safetensors: what `imagecorruptions` 1.1.2 makes of a picture of 224 x 224, and
resize_floats.safetensors: what Pillow resizes an image of floats to.

    python tests/reference/corruptions.py            # from the repository root
    python tests/reference/corruptions.py --time     # milliseconds per image of the reference

Needs imagecorruptions (--no-deps; it wants old versions of the others), numpy, scipy, scikit-image, opencv-python-headless, pillow and
safetensors. The package uses names that its dependencies no longer have: they are put back here, with their old meaning. Its random
numbers are replaced by `Counted`, which the Rust test has too, so that both compute the same function of the same draws.
"""

import sys
import time
import types
from pathlib import Path

import cv2
import numpy as np
import scipy.ndimage
import skimage.filters
from PIL import Image
from safetensors.numpy import save_file

FIXTURES = Path(__file__).parents[2] / "core/data/tests/fixtures"
SIDE = 224
# Pictures: their extents, the severities and the pixels that are kept (a grid, or the lower right corner).
GRID = (slice(6, None, 7), slice(7, None, 9))
CASES = {
    "rgb": ((SIDE, SIDE), (1, 2, 3, 4, 5), GRID),
    "grey": ((SIDE, SIDE), (1, 3, 5), GRID),
    "corner": ((233, 250), (3,), (slice(-24, None), slice(-24, None))),
}


class Counted:
    """SplitMix64, and numpy's distributions made of its numbers: element by element, in C order."""

    def __init__(self):
        self.count = 0

    def units(self, count):
        with np.errstate(over="ignore"):
            bits = np.arange(self.count + 1, self.count + count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        self.count += count
        return ((bits ^ (bits >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / 2.0**53

    def random(self, size):
        return self.units(int(np.prod(size))).reshape(size)

    def normal(self, loc=0.0, scale=1.0, size=None):
        radius, angle = self.units(2 * int(np.prod(size))).reshape(-1, 2).T
        return loc + scale * (np.sqrt(-2 * np.log(1 - radius)) * np.cos(2 * np.pi * angle)).reshape(size)

    def uniform(self, low=0.0, high=1.0, size=()):
        return low + (high - low) * self.units(int(np.prod(size))).reshape(size)

    def randint(self, low, high=None, size=()):
        low, high = (0, low) if high is None else (low, high)
        drawn = low + np.floor(self.units(int(np.prod(size))) * (high - low)).astype(int)
        return drawn.reshape(size) if size else int(drawn[0])

    def poisson(self, mean):
        draw = self.units(mean.size).reshape(mean.shape)
        number, term = np.zeros_like(mean), np.exp(-mean)
        total = term.copy()
        while (below := (total < draw) & (number < 1000)).any():
            number = number + below
            term = np.where(below, term * mean / np.maximum(number, 1), term)
            total = np.where(below, total + term, total)
        return number


class CountedNumPy(types.ModuleType):
    """NumPy with the draws of `Counted` and a name that it had."""

    float_ = np.float64

    def __init__(self):
        super().__init__("numpy")
        self.random = Counted()

    def __getattr__(self, name):
        return getattr(np, name)


def gaussian(image, sigma=1, mode="nearest", truncate=4.0, multichannel=False):
    """scikit-image's, whose last axis was one of channels with `multichannel`: also of an array of two axes, which is not meant."""
    axis = -1 if multichannel and np.ndim(image) == 3 else None
    return skimage.filters.gaussian(image, sigma=sigma, mode=mode, truncate=truncate, channel_axis=axis)


def load():
    """The package's functions."""
    resources = types.ModuleType("pkg_resources")
    resources.resource_filename = lambda package, name: name
    interpolation = types.ModuleType("scipy.ndimage.interpolation")
    interpolation.map_coordinates = scipy.ndimage.map_coordinates
    sys.modules.update({"pkg_resources": resources, "scipy.ndimage.interpolation": interpolation})
    from imagecorruptions import corruptions, get_corruption_names

    corruptions.gaussian = gaussian
    return corruptions, get_corruption_names("all")


def picture(height, width):
    """Slopes, a disk, stripes and texture, in whole numbers."""
    r, c, k = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    value = r * (k + 1) * 60 // height + c * (3 - k) * 40 // width + 20
    value = value + ((2 * r - height) ** 2 + (2 * c - width) ** 2 < height * width // 4) * (90 - 30 * k)
    value = value + ((r < height // 2) & (c < width // 3)) * ((r * 7 + c * 3) // 16 % 2 * 60)
    value = value + ((r * 31 + c * 17 + k * 7) ^ (r * c)) % 23
    return np.clip(value, 0, 255).astype(np.uint8)


def frost_picture(name):
    """A picture of frost as `cv2.imread` gives it: blue first."""
    number = int(Path(name).stem[-1])
    return picture(200 + 40 * number, 330 - 30 * number)[..., ::-1]


def corrupted(corruptions, name, image, severity):
    """What `imagecorruptions.corrupt` makes of an array, but for arrays of two axes, which it would give three channels."""
    counted = CountedNumPy()
    corruptions.np = counted
    noise = np.random.default_rng
    # scikit-image's own generator.
    np.random.default_rng = lambda _=None: counted.random
    try:
        if image.ndim == 2 and name == "motion_blur":
            # Its branch for two axes fails after the blur.
            radius, sigma = [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)][severity - 1]
            angle = counted.random.uniform(-45, 45)
            output = np.clip(corruptions._motion_blur(image, radius=radius, sigma=sigma, angle=angle), 0, 255)
        elif image.ndim == 2 and name == "glass_blur":
            output = getattr(corruptions, name)(image.copy(), severity)
        else:
            output = getattr(corruptions, name)(Image.fromarray(image), severity)
    finally:
        np.random.default_rng = noise
    return np.uint8(output)


def main():
    corruptions, names = load()
    if "--time" in sys.argv:
        corruptions.resource_filename = lambda package, name: str(Path(corruptions.__file__).parent / name)
        cv2.setNumThreads(1)
        for name in names:
            image = Image.fromarray(picture(SIDE, SIDE))
            times = []
            for _ in range(5):
                start = time.perf_counter()
                np.uint8(getattr(corruptions, name)(image, 3))
                times.append(time.perf_counter() - start)
            print(f"{name}: {1e3 * min(times):.1f} ms")
        return
    cv2.imread = frost_picture
    tensors = {}
    for kind, (extents, severities, kept) in CASES.items():
        image = picture(*extents)
        image = image[..., 0].copy() if kind == "grey" else image
        for name in names:
            for severity in severities:
                output = corrupted(corruptions, name, image, severity)
                assert output.shape == image.shape, (kind, name, output.shape)
                tensors[f"{kind}/{name}/{severity}"] = np.ascontiguousarray(output[kept])
                print(kind, name, severity, f"mean {output.mean():.1f}")
    save_file(tensors, FIXTURES / "imagecorruptions.safetensors")

    grey = (picture(28, 28)[..., 0] / 255).astype(np.float32)
    tensors = {"grey": grey}
    for height, width in [(13, 17), (40, 31), (28, 9)]:
        resized = Image.fromarray(grey).resize((width, height), Image.Resampling.BILINEAR)
        tensors[f"resize/{height}x{width}"] = np.asarray(resized)
    save_file(tensors, FIXTURES / "resize_floats.safetensors")


if __name__ == "__main__":
    main()
