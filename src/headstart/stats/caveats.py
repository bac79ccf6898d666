"""Why a figure is better than it would be on new images: the one place that knows, for all that show figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Caveat:
    """A reason why the figures of a run are optimistic.

    Attributes:
        reason: A clause about the reported images, such as `these images also selected the model`.
        remedy: A sentence that says how to get an honest figure.
    """

    reason: str
    remedy: str


def caveats(metrics: Mapping[str, Any]) -> tuple[Caveat, ...]:
    """Return the reasons why figures are optimistic; none where they are honest.

    Args:
        metrics: What `metrics.json` holds; what an older version did not write counts as honest.
    """
    found = []
    if metrics.get("selected_on_reported"):
        reason = "these images also selected the model"
        found.append(Caveat(reason, "Select on other images to know how good the model is."))
    num_groups = metrics.get("shared_groups")
    if num_groups:
        reason = f"{num_groups} groups of these images are in other splits too"
        if num_groups == 1:
            reason = "1 group of these images is in other splits too"
        found.append(Caveat(reason, "Keep each group in one split to know how good the model is."))
    return tuple(found)
