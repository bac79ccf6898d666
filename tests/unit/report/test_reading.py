import shlex
from pathlib import Path

import pytest

from headstart.config import Config, make_config
from headstart.errors import RunError
from headstart.report.page import _confused_pairs, _judged_image
from headstart.report.reading import commands, read_comparison, read_run, run_names
from headstart.runs import Run, write_parquet


def given_settings(words):
    """Read flags back into settings, lists and pairs as the text that the command line takes."""
    values, position = {}, 0
    while position < len(words):
        name = words[position].removeprefix("--")
        is_flag = position + 1 == len(words) or words[position + 1].startswith("--")
        key = name.removeprefix("no-").replace("-", "_")
        values[key] = not name.startswith("no-") if is_flag else words[position + 1]
        position += 1 if is_flag else 2
    return values


def test_the_printed_command_gives_the_same_settings(make_run):
    settings = {
        "strategy": "gradual", "epochs": 3, "phase_lrs": [0.1, 0.01], "map": {"a b": "c"}, "cache": False,
        "skip_bad": True, "max_per_class": {"train": 5}, "resize": [40], "time_limit": 90.0, "head_lr": 0.5,
    }  # fmt: skip
    path = make_run(**settings, seed=4, stop_after=(1,))
    said = dict(commands(read_run(path)))
    assert f"headstart train --config {path}/config.yaml --out {path}-again" in said.values()
    words = shlex.split(said["the settings that were asked for"])
    assert words[:2] == ["headstart", "train"]
    given = given_settings(words[3:])
    assert given.keys() <= Config.model_fields.keys() - {"data", "out", "repeat"}
    assert make_config({**given, "data": words[2]}) == Run(path).config()


def test_a_table_of_ones_own_is_repeated_from_its_file_only(real_run):
    said = dict(commands(read_run(real_run)))
    assert not any("--strategy" in command for command in said.values())
    assert any("--config" in command for command in said.values())


def test_mistakes_come_most_confident_first(make_run):
    facts = read_run(make_run())
    found = facts.predictions
    rows = found.mistakes()
    assert rows
    assert len(rows) == sum(label != guess for label, guess in zip(found.labels, found.predicted, strict=True))
    assert all(found.labels[row] != found.predicted[row] for row in rows)
    assert list(found.confidence[rows]) == sorted(found.confidence[rows], reverse=True)
    case = _judged_image(facts, rows[0])
    assert case["probability"] == f"{found.confidence[rows[0]]:.3f}"
    assert case["label"] in case["picture"].alt


def test_confused_pairs_come_most_frequent_first(make_run):
    facts = read_run(make_run(labels=("a", "b", "c"), num_images=90))
    pairs = _confused_pairs(facts)
    counts = facts.confusion
    expected = []
    for label, row in counts.items():
        expected += [count for predicted, count in row.items() if predicted != label]
    assert [int(pair["share"].split()[0]) for pair in pairs] == sorted(expected, reverse=True)
    first = pairs[0]
    row = counts[first["label"]]
    assert first["share"] == f"{row[first['predicted']]} of {sum(row.values())}"
    assert first["pictures"]
    assert all(f"labelled {first['label']}, predicted {first['predicted']}" in each.alt for each in first["pictures"])


@pytest.mark.parametrize(
    ("name", "attribute", "empty"),
    [
        ("plan.json", "phases", []), ("predictions.parquet", "predictions", None),
        ("environment.json", "environment", {}),
        ("data_report.json", "data_report", {}), ("model/preprocessor_config.json", "spec", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_file_that_is_missing_or_damaged_is_said(make_run, name, attribute, empty, is_damaged):
    path = make_run(num_images=6)
    assert getattr(read_run(path), attribute) != empty
    (path / name).write_bytes(b"[1, 2") if is_damaged else (path / name).unlink()
    facts = read_run(path)
    assert getattr(facts, attribute) == empty
    assert len(facts.missing) == 1
    assert name.split("/")[-1] in facts.missing[0] or is_damaged


def test_a_damaged_manifest_hides_no_predictions(make_run):
    path = make_run(num_images=6)
    (path / "manifest.parquet").write_bytes(b"PAR1")
    assert len(read_run(path).predictions.paths) == 6


def test_predictions_without_the_figures_of_a_class_are_left_out_and_said(make_run):
    path = make_run(num_images=6)
    table = Run(path).predictions()
    write_parquet(path / "predictions.parquet", table.drop_columns(["p_apple"]))
    facts = read_run(path)
    assert facts.predictions is None
    assert "predictions.parquet has no column p_apple" in facts.missing[0]


def test_a_comparison_is_read_from_a_file_or_taken_as_it_is(tmp_path):
    assert read_comparison(None, [tmp_path]) == {}
    assert read_comparison({"verdict": "x"}, [tmp_path]) == {"verdict": "x", "rows": []}
    (tmp_path / "c.json").write_text('{"verdict": []}')
    assert read_comparison(str(tmp_path / "c.json"), [tmp_path]) == {"verdict": [], "rows": []}


@pytest.mark.parametrize(
    "text", ["[]", '{"accuracy": {"value": 0.9}}', '{"rows": 3}', '{"rows": ["a"]}', '{"rows": [{"runs": ["a"]}]}']
)
def test_a_file_that_holds_no_comparison_is_refused(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(RunError, match=r"c\.json holds no comparison; name the comparison\.json"):
        read_comparison(tmp_path / "c.json", [tmp_path])


def test_a_comparison_of_other_runs_is_refused(tmp_path):
    (tmp_path / "study" / "head" / "seed0").mkdir(parents=True)
    (tmp_path / "study" / "c.json").write_text(
        '{"rows": [{"name": "x", "seeds": [0, 1], "runs": ["head/seed0", "gone"]}]}'
    )
    runs = [tmp_path / "study" / "head" / "seed0", tmp_path / "a", tmp_path / "b"]
    study = read_comparison(tmp_path / "study" / "c.json", runs[:1])  # it may be about more
    assert run_names(runs[:1], study) == ["x, seed 0"]
    assert read_comparison(study, runs[:1]) == study
    with pytest.raises(RunError, match=rf"study/c.json is not about {tmp_path}/a, {tmp_path}/b; name the comparison"):
        read_comparison(tmp_path / "study" / "c.json", runs)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["study/head/seed0"], ["seed0"]),
        (["study/head/seed0", "study/full/seed0"], ["head", "full"]),
        (["study/head/seed0", "study/full/seed0", "study/full/seed1"], ["head/seed0", "full/seed0", "full/seed1"]),
        (["a/x/seed0", "b/x/seed0"], ["a", "b"]),
        (["a", "a"], ["a", "a"]),
    ],
)
def test_runs_that_no_study_names_have_the_end_of_their_path_that_differs(monkeypatch, tmp_path, paths, names):
    monkeypatch.chdir(tmp_path)
    assert run_names([Path(path) for path in paths], {"verdict": "not compared", "rows": []}) == names
