"""Learning-rate schedules as pure functions. Importing this module loads no torch, so that reports can draw them."""

import math


def lr_factor(schedule: str, step: int, num_steps: int, warmup: float = 0.0, decay_steps: int | None = None) -> float:
    """Return what the base rate is multiplied by at a step.

    Args:
        schedule: `constant`; `cosine` (linear warm-up, then half a cosine to 0; Loshchilov and Hutter 2017,
            arXiv:1608.03983); `one-cycle` (cosine up from 1/25 over 30 % of the steps, cosine down to 0; Smith 2018,
            arXiv:1803.09820, with the rate only); `step` (down to a tenth every `decay_steps`).
        step: The number of the step, from 0.
        num_steps: How many steps the phase has.
        warmup: Share of the phase, for `cosine`.
        decay_steps: Steps between two falls, for `step`.
    """
    if schedule == "constant":
        return 1.0
    if schedule == "step":
        return float(0.1 ** (step // (decay_steps or max(num_steps, 1))))
    # The rate rises over a first share of the phase, and falls by half a cosine over the rest.
    rising_share = warmup if schedule == "cosine" else 0.3
    progress = (step + 0.5) / max(num_steps, 1)
    if progress >= rising_share:
        return (1 + math.cos(math.pi * (progress - rising_share) / (1 - rising_share))) / 2
    ramp = progress / rising_share
    if schedule == "cosine":
        return ramp
    floor = 1 / 25
    return floor + (1 - floor) * (1 - math.cos(math.pi * ramp)) / 2
