"""Which fits a run needs: to score its settings, to choose its epochs, and for the model that it ends with."""

from dataclasses import dataclass, replace

from headstart.config import Config

TRAIN = "train"
INNER_TRAIN = "inner train"
INNER_VALIDATION = "inner validation"


@dataclass(frozen=True)
class PlannedFit:
    """One training of the network from its start.

    Attributes:
        name: Name in the rows of metrics.csv and of its checkpoints: `selection` or `final`.
        train: Split that trains.
        held_out: Split that is evaluated after every epoch, or None.
        held_out_name: Name of that split in the rows.
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
    evaluated = selection or reported
    watched = evaluated if config.monitor else None

    # A score of the settings needs a fit of its own where nothing else trains on a part of train.
    fits = []
    if config.selection_score and selection is None and not chooses_inside_train:
        scoring = PlannedFit("selection", INNER_TRAIN, None, INNER_VALIDATION, scores=True)
        if finds_epoch:
            scoring = replace(scoring, held_out=INNER_VALIDATION, selects=True)
        fits.append(scoring)

    # The fits that choose the epochs, and the one for the model.
    if not finds_epoch:
        fits.append(PlannedFit("final", TRAIN, watched, evaluated))
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
