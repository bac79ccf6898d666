"""Mixup and cutmix of a batch, with randomness from a counter instead of a global state."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def mix_batch(
    inputs: Tensor, targets: Tensor, num_classes: int, *, mixup: float, cutmix: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Blend each image with another of its batch (mixup) or paste a box of the other into it (cutmix).

    Zhang et al. 2018, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899. Where both are on, one of them is drawn per
    batch with equal chance. Inputs may be activations at a freeze boundary: a box is one of the last two dimensions,
    where these are a square map as of a square picture; tokens `(N, T, C)`, maps with the channels last and features of
    whole images are blended by either.

    Args:
        inputs: `(N, ...)` float.
        targets: `(N,)` class indices.
        num_classes: C of the targets.
        mixup: Alpha of the Beta distribution, or 0 for off.
        cutmix: Alpha of the Beta distribution, or 0 for off.
        rng: Source of all randomness.

    Returns:
        Mixed inputs, and targets as probabilities `(N, num_classes)`; both as they came where both settings are 0.
    """
    if not mixup and not cutmix:
        return inputs, targets
    if inputs.ndim != 4 or inputs.shape[-1] != inputs.shape[-2]:  # no place to paste a box into
        mixup = max(mixup, cutmix)
        cutmix = 0.0
    probabilities = functional.one_hot(targets, num_classes).to(inputs.dtype)
    order = torch.from_numpy(rng.permutation(len(inputs))).to(inputs.device)
    use_cutmix = cutmix > 0 and (not mixup or rng.random() < 0.5)
    alpha = cutmix if use_cutmix else mixup
    share = float(rng.beta(alpha, alpha))
    if use_cutmix:
        inputs, share = _paste_box(inputs, order, share, rng)
    else:
        inputs = inputs * share + inputs[order] * (1 - share)
    return inputs, probabilities * share + probabilities[order] * (1 - share)


def _paste_box(inputs: Tensor, order: Tensor, share: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    """Paste a box that covers about `1 - share` of the picture; return the share that is really kept."""
    height, width = inputs.shape[-2:]
    side = (1 - share) ** 0.5
    center_y = rng.integers(height)
    center_x = rng.integers(width)
    top, bottom = np.clip([center_y - side * height / 2, center_y + side * height / 2], 0, height).astype(int)
    left, right = np.clip([center_x - side * width / 2, center_x + side * width / 2], 0, width).astype(int)
    mixed = inputs.clone()
    mixed[..., top:bottom, left:right] = inputs[order][..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)
