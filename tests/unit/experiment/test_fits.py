"""Which fits a run needs, in every combination of what decides it."""

import itertools

import pytest

from headstart.config import make_config
from headstart.experiment.fits import INNER_TRAIN, INNER_VALIDATION, TRAIN, planned_fits


def fits(*, selection=None, has_length=False, **settings):
    return planned_fits(make_config(settings), selection=selection, reported="test", has_length=has_length)


def summary(found):
    return [(fit.name, fit.train, fit.held_out, fit.selects) for fit in found]


def test_without_selection_all_of_train_trains_and_the_rest_is_watched():
    assert summary(fits()) == [("final", TRAIN, "test", False)]
    assert summary(fits(selection="validation")) == [("final", TRAIN, "validation", False)]
    assert summary(fits(monitor=False)) == [("final", TRAIN, None, False)]


def test_where_a_part_of_train_selects_all_of_it_trains_again_for_that_long():
    first, second = fits(best_epoch=True)
    assert summary([first]) == [("selection", INNER_TRAIN, INNER_VALIDATION, True)]
    assert (first.sets_length, first.scores) == (True, False)
    assert summary([second]) == [("final", TRAIN, "test", False)]
    assert summary(fits(best_epoch=True, has_length=True)) == [("final", TRAIN, "test", False)]
    assert summary(fits(patience=1, refit=False)) == [("final", INNER_TRAIN, INNER_VALIDATION, True)]


def test_the_datas_own_validation_split_and_the_reported_one_need_no_second_fit():
    assert summary(fits(best_epoch=True, selection="validation")) == [("final", TRAIN, "validation", True)]
    (reported,) = fits(best_epoch=True, select_on="reported")
    assert summary([reported]) == [("final", TRAIN, "test", True)]
    assert reported.uses_reported


def test_a_score_is_of_images_that_its_fit_has_not_trained_on():
    scoring, final = fits(selection_score=True)
    assert summary([scoring]) == [("selection", INNER_TRAIN, None, False)]
    assert scoring.scores
    assert not final.scores
    # What selects the epoch gives the score, too.
    assert [fit.scores for fit in fits(selection_score=True, best_epoch=True)] == [True, False]
    assert summary(fits(selection_score=True, best_epoch=True, select_on="reported"))[0] == (
        "selection", INNER_TRAIN, INNER_VALIDATION, True,
    )  # fmt: skip
    # The data's own validation split scores the final model.
    assert [fit.scores for fit in fits(selection_score=True, selection="validation")] == [False]


@pytest.mark.parametrize("selection", [None, "validation"])
def test_in_every_combination_the_last_fit_is_the_runs_and_reported_images_select_only_where_asked_to(selection):
    options = itertools.product(*[(False, True)] * 5, ("auto", "reported"))
    for best_epoch, refit, selection_score, monitor, has_length, select_on in options:
        found = fits(
            selection=selection, has_length=has_length, best_epoch=best_epoch, refit=refit, monitor=monitor,
            selection_score=selection_score, select_on=select_on,
        )  # fmt: skip
        assert [fit.name for fit in found] in (["final"], ["selection", "final"])
        for fit in found:
            assert not fit.selects or fit.held_out is not None
            assert (fit.selects and fit.held_out == "test") == fit.uses_reported
            assert not fit.uses_reported or (best_epoch and select_on == "reported")
            assert not fit.scores or fit.train == INNER_TRAIN
        assert not found[-1].sets_length
