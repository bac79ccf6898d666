"""Which fits a run needs: to score its settings, to choose its epochs, and for the model that it ends with."""

from dataclasses import dataclass, replace

from headstart.config import Config

TRAIN, INNER_TRAIN, INNER_VALIDATION = "train", "inner train", "inner validation"


@dataclass(frozen=True)
class PlannedFit:
    """One training of the network from its start.

    Attributes:
        name: What the rows of metrics.csv and the checkpoints call it: `selection` or `final`.
        train: Split that trains.
        held_out: Split that is evaluated after every epoch, or None.
        held_out_name: What the rows call it.
        selects: Whether the held-out images choose the epoch.
        scores: Whether it gives the score by which `compare` ranks, on the inner validation images.
        sets_length: Whether the epochs that it chooses are those of the fit to come.
        uses_reported: Whether the reported images choose.
    """

    name: str
    train: str
    held_out: str | None
    held_out_name: str
    selects: bool = False
    scores: bool = False
    sets_length: bool = False
    uses_reported: bool = False


def planned_fits(config: Config, *, selection: str | None, reported: str, has_length: bool) -> tuple[PlannedFit, ...]:
    """Work out the fits of a run, in order; the model of the last one is the run's.

    Args:
        config: The settings.
        selection: Split that the data gives for selecting, or None.
        reported: Split that is reported.
        has_length: Whether the epochs were chosen before.
    """
    finds_epoch = config.selects and not has_length
    chooses_on_reported = finds_epoch and config.select_on == "reported"
    chooses_inside_train = finds_epoch and not chooses_on_reported and selection is None
    fits = []
    if config.selection_score and selection is None and not chooses_inside_train:
        watched = INNER_VALIDATION if finds_epoch else None
        fits.append(PlannedFit("selection", INNER_TRAIN, watched, INNER_VALIDATION, selects=finds_epoch, scores=True))
    watched = (selection or reported) if config.monitor else None
    if not finds_epoch:
        fits.append(PlannedFit("final", TRAIN, watched, selection or reported))
    elif chooses_on_reported:
        fits.append(PlannedFit("final", TRAIN, reported, reported, selects=True, uses_reported=True))
    elif selection is not None:
        fits.append(PlannedFit("final", TRAIN, selection, selection, selects=True))
    elif not config.refit:
        fits.append(PlannedFit("final", INNER_TRAIN, INNER_VALIDATION, INNER_VALIDATION, selects=True))
    else:
        choosing = PlannedFit("selection", INNER_TRAIN, INNER_VALIDATION, INNER_VALIDATION, selects=True)
        fits.append(replace(choosing, scores=config.selection_score, sets_length=True))
        fits.append(PlannedFit("final", TRAIN, watched, reported))
    return tuple(fits)
