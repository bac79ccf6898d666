"""What people see while work goes on, on a terminal and in a log."""

import io
import itertools
import sys

import pytest

from headstart import display
from headstart.display import Display, LineDisplay, TerminalDisplay, epoch_line

ROW = {
    "phase_name": "head", "epoch": 2, "train_loss": 0.5, "train_accuracy": 0.75, "val_split": "test", "val_loss": 0.25,
    "val_accuracy": 0.875, "lr": 1e-3, "time_s": 1.25,
}  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves by a second at each look, or as it is told."""
    ticks = itertools.count()
    monkeypatch.setattr(display.time, "monotonic", lambda: float(next(ticks)))


def test_one_that_shows_nothing_takes_everything(capsys):
    silent = Display()
    silent.say("a")
    silent.note("b")
    silent.progress("c", 1, 2)
    silent.begin_training("d", 3, 0)
    silent.step()
    silent.epoch(ROW)
    silent.end_training()
    assert capsys.readouterr() == ("", "")


def test_in_a_log_a_pass_is_a_line_now_and_then(capsys, clock):
    shown = LineDisplay()
    for done in range(1, 41):
        shown.progress("a long pass", done * 1000, 0)
    assert capsys.readouterr().err.splitlines() == ["a long pass: 16,000", "a long pass: 31,000"]


def test_the_next_pass_of_a_name_begins_anew(capsys, clock):
    shown = LineDisplay()
    for _ in range(2):
        for done in range(1, 17):
            shown.progress("a long pass", done, 16)
    assert capsys.readouterr().err == ""


def test_in_a_log_training_is_a_line_an_epoch_and_one_now_and_then(capsys, clock):
    shown = LineDisplay()
    shown.begin_training("training", 100, 10)
    for _ in range(20):
        shown.step()
    shown.epoch(ROW)
    shown.end_training()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("step 25 of 100, about ")
    assert lines[1:] == [epoch_line(ROW)]


def test_on_a_terminal_a_bar_stands_below_the_lines(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    shown = TerminalDisplay()
    shown.begin_training("training", 4, 0)
    shown.step()
    shown.epoch(ROW)
    shown.end_training()
    assert "training" in terminal.getvalue()
    assert epoch_line(ROW) in terminal.getvalue()


def test_notes_are_lines_that_say_so(capsys):
    LineDisplay().note("look here")
    assert capsys.readouterr().err == "note: look here\n"


def test_an_epoch_and_a_solved_head_are_one_line_each():
    assert epoch_line(ROW) == (
        "head, epoch 2: loss 0.5000, accuracy 0.750 | test loss 0.2500, accuracy 0.875 | lr 1.00e-03, 1.2 s"
    )
    assert "loss 5.54e+20, accuracy 0.750 | test loss 99999.5000" in epoch_line(
        {**ROW, "train_loss": 5.54e20, "val_loss": 99999.5}
    )
    solved = {**ROW, "epoch": 0, "val_loss": None, "lr": None}
    assert epoch_line(solved) == "head, solved: loss 0.5000, accuracy 0.750 | 1.2 s"


def test_details_are_shown_where_they_are_wanted(capsys):
    for shown in (LineDisplay(), TerminalDisplay(), LineDisplay(is_verbose=True), TerminalDisplay(is_verbose=True)):
        shown.detail("the engine")
    assert capsys.readouterr().err == "the engine\nthe engine\n"
