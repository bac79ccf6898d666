"""Whether an engine computes what PyTorch does."""

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.floating]

# Largest relative L2 error, and smallest share of images with the same most probable class where there is a head.
TOLERANCE = {"32": 1e-4, "bf16": 2e-2}
MIN_AGREEMENT = 0.995


def disagreement(found: Rows, expected: Rows, precision: str, *, has_head: bool) -> str:
    """Say how an engine's results differ by more than its precision allows, or return ''.

    Args:
        found: (N, ...), what the engine gives.
        expected: (N, ...), what PyTorch gives in 32 bits.
        precision: `bf16` or `32`.
        has_head: Whether they are logits, so that the most probable class is compared too.
    """
    if found.shape != expected.shape:
        return f"its results have shape {found.shape} instead of {expected.shape}"

    scale = float(np.linalg.norm(expected.astype(np.float64)))
    error = float(np.linalg.norm(found.astype(np.float64) - expected)) / (scale or 1.0)
    if not error <= TOLERANCE[precision]:  # also where it is not a number
        return f"relative error {error:.1e}, at most {TOLERANCE[precision]:.0e} is accepted"

    if not has_head:
        return ""
    agreement = float((found.argmax(1) == expected.argmax(1)).mean())
    if agreement < MIN_AGREEMENT:
        return f"it gives {agreement:.1%} of the images the same class, at least {MIN_AGREEMENT:.1%} is accepted"
    return ""
