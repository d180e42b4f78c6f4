"""Prints the scores that plugins/depth/tests/scores.rs expects of its two images, by NumPy and scikit-image (0.26).

    python tests/reference/depth.py
"""

import numpy as np
from skimage.metrics import structural_similarity

MAXIMUM, NEAREST = 10.0, 1e-3
SHAPE = (2, 16, 20)


def images():
    """The predictions and targets of the tests, as float32."""
    b, y, x = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    target = 4 + 3 * np.sin(0.3 * x + 0.2 * y + b) + 0.1 * ((3 * x + 5 * y) % 7)
    predicted = 0.6 * target + 0.8 + 0.5 * np.cos(0.7 * x - 0.4 * y)
    target, predicted = target.astype(np.float32), predicted.astype(np.float32)
    target[0, 2, 3], target[0, 5, 7], target[0, 9, 9], target[1, 0, 0] = 0, np.nan, np.inf, -1
    return predicted.astype(float), target.astype(float)


def normalize(depth):
    return np.log1p(depth) / np.log1p(MAXIMUM)


def score(p, t, alignment):
    valid = np.isfinite(t) & (t > 0)
    p = p.clip(NEAREST, MAXIMUM)
    if alignment == "median":
        p = p * np.median(t[valid]) / np.median(p[valid])
    if alignment == "least_squares":
        scale, shift = np.polyfit(p[valid], t[valid], 1)
        p = scale * p + shift
    p = p.clip(NEAREST, MAXIMUM)
    both = np.where(valid, t, p)
    ssim = structural_similarity(
        normalize(p), normalize(both), data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    p, t = p[valid], t[valid]
    ratio = np.maximum(p / t, t / p)
    deltas = [(ratio < 1.25**k).mean() for k in (1, 2, 3)]
    return [(abs(p - t) / t).mean(), np.sqrt(((p - t) ** 2).mean()), abs(np.log10(p / t)).mean(), *deltas, ssim]


for alignment in ("none", "median", "least_squares"):
    scores = np.mean([score(p, t, alignment) for p, t in zip(*images())], axis=0)
    print(alignment, ", ".join(f"{value:.7f}" for value in scores))
