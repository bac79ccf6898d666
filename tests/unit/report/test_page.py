import json
import subprocess
import sys

import pytest
from PIL import Image

from headstart.config import make_config, parse_assignments
from headstart.errors import RunError
from headstart.report import write_report
from headstart.report.reading import commands, read_run
from tests.unit.report.conftest import Page, history

NASTY = ("<img src=x onerror=alert(1)>", 'a&b "q"', "$x_1$ back\\slash \\g<1>", "犬 — \u202eсобака", "</style><b>")


def check_page(page):
    """Check what holds for every page: it stands alone, and those who cannot see it find their way."""
    assert page.source.startswith("<!DOCTYPE html>")
    assert page.all("html")[0]["lang"] == "en"
    assert not page.all("script")
    assert not page.all("link")
    assert all(image["src"].startswith("data:image/jpeg;base64,") and image["alt"] for image in page.all("img"))
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in page.all("svg"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(link["href"][0] == "#" and link["href"][1:] in ids for link in page.all("a"))
    assert all(section["aria-labelledby"] in ids for section in page.all("section"))
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    addresses = [value for _, attributes in page.elements for key, value in attributes.items()
                 if key.rpartition(":")[2] in ("src", "href", "data", "action")]  # fmt: skip
    assert not [address for address in addresses if not address.startswith(("#", "data:"))]
    assert "@import" not in page.source
    assert all(part.startswith(("#", "'")) for part in page.source.split("url(")[1:])


def test_a_real_run(real_run, tmp_path):
    page = Page(write_report([real_run], tmp_path / "report.html"))
    check_page(page)
    accuracy = json.loads((real_run / "metrics.json").read_text())["accuracy"]
    shown = f"Accuracy {accuracy['value']:.3f} (95 % interval {accuracy['low']:.3f} to {accuracy['high']:.3f}) on 18"
    assert shown in page.text
    assert page.section_ids == [
        "result", "training", "plan", "mistakes", "classes", "calibration", "evidence", "inputs", "data", "again"
    ]  # fmt: skip
    assert len(page.all("svg")) == 5  # loss, accuracy, learning rate, confusion, reliability
    assert "†" not in page.text
    assert "0.01" not in page.text or "1.0e-2" in page.text
    pngs = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"loss.png", "accuracy.png", "lr.png", "confusion.png", "reliability.png", "augmented.png"} <= pngs
    assert all(min(Image.open(tmp_path / "report" / name).size) > 100 for name in pngs)


def test_by_default_the_page_of_one_run_lies_in_its_folder_and_of_several_here(make_run, tmp_path, monkeypatch):
    first, second = make_run("first"), make_run("second", labels=("apple", "leaf", "sky"))
    assert write_report([first]) == first / "report.html"
    assert (first / "report" / "loss.png").is_file()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    page = Page(write_report([first, second]))
    check_page(page)
    files = (
        {str(path.relative_to("report")) for path in (tmp_path / "here" / "report").rglob("*.png")}
        if False
        else {path.relative_to(tmp_path / "here" / "report").as_posix() for path in (tmp_path / "here").rglob("*.png")}
    )
    assert {"accuracies.png", "held-out-loss.png", "training-accuracy.png"} <= files
    assert {"run1-first/confusion.png", "run2-second/confusion.png"} <= files
    assert "fruit: 2 runs compared" in page.text


def test_labels_may_hold_anything(make_run):
    path = make_run(labels=NASTY, num_images=100)
    page = Page(write_report([path], title="<script>alert(1)</script>"))
    check_page(page)
    for label in NASTY[:3]:
        assert label in page.text
    assert not page.all("b")
    assert "<script>alert(1)</script>" in page.text


@pytest.mark.parametrize("num_classes", [25, 100])
def test_many_classes(make_run, num_classes):
    labels = [f"class number {number}" for number in range(num_classes)]
    page = Page(write_report([make_run(labels=labels, num_images=3 * num_classes)]))
    check_page(page)
    has_matrix = any("Confusion matrix" in drawing["aria-label"] for drawing in page.all("svg"))
    assert has_matrix == (num_classes == 25)
    assert "Most confused pairs" in page.text
    assert ("could not be read" in page.text) == (num_classes == 100)


@pytest.mark.parametrize(
    "phases", [(("head", 1),), (("head", 0),), (("head", 0), ("all", 3)), tuple((f"phase {i}", 40) for i in range(9))]
)
def test_any_number_of_epochs(make_run, phases):
    page = Page(write_report([make_run(phases=phases, epochs=phases[-1][1])]))
    check_page(page)
    solved_only = phases == (("head", 0),)
    assert len(page.all("svg")) == 5 - solved_only  # there is no learning rate where nothing was stepped
    assert ("solved" in page.text) == (phases[0][1] == 0)


def test_no_epoch_at_all(make_run):
    path = make_run(rows=[])
    page = Page(write_report([path]))
    check_page(page)
    assert "training" not in page.section_ids


def test_both_fits_are_shown_and_the_chosen_epoch_is_marked(make_run):
    rows = [*history(("head", 4), fit="selection"), *history(("head", 4))[:2]]
    path = make_run(rows=rows, best_epoch=True, epochs=4, choices={"stop_after": [2]})
    page = Page(write_report([path]))
    check_page(page)
    assert "First fit, to select" in page.text
    assert page.text.count("chosen") == 2  # in the loss and the accuracy of the first fit
    assert len(page.all("svg")) == 8
    assert page.text.count("as planned") == 2  # the second stopped within the schedule of four epochs


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("metrics.csv", "training"), ("plan.json", "plan"), ("predictions.parquet", "calibration"),
        ("model/preprocessor_config.json", "inputs"), ("manifest.parquet", "inputs"), ("environment.json", None),
        ("data_report.json", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_file_that_is_missing_or_damaged_leaves_its_part_out(make_run, name, gone, is_damaged):
    path = make_run()
    before = set(Page(write_report([path])).section_ids)
    if is_damaged:
        (path / name).write_bytes(b"no,such\nfile,\n")
    else:
        (path / name).unlink()
    page = Page(write_report([path]))
    check_page(page)
    assert before - set(page.section_ids) == ({gone} if gone else set())
    # A table of no epochs and a manifest whose images may be gone are no loss worth a line.
    assert ("Left out of this page" in page.text) == (name not in ("metrics.csv", "manifest.parquet") or
                                                      (is_damaged and name == "metrics.csv"))  # fmt: skip


def test_settings_that_an_older_version_did_not_know(make_run):
    path = make_run()
    lines = (path / "config.yaml").read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("views", "schedule", "choices", "select_on"))]
    (path / "config.yaml").write_text("\n".join([*kept, "abolished: 3"]))
    metrics = json.loads((path / "metrics.json").read_text())
    for key in ("labels", "trainable_parameters", "time_s", "selected_on_reported"):
        del metrics[key]
    (path / "metrics.json").write_text(json.dumps(metrics))
    check_page(Page(write_report([path])))


def test_pictures_that_are_gone_are_placeholders(make_run, tmp_path):
    path = make_run()
    for picture in (tmp_path / "pictures").iterdir():
        picture.unlink()
    page = Page(write_report([path]))
    check_page(page)
    assert not page.all("img")
    gone = [each["aria-label"] for each in page.all("span") if each.get("class") == "gone"]
    assert gone
    assert all("labelled" in text and "the picture is gone" in text for text in gone)


def test_figures_selected_on_the_reported_images_are_marked_wherever_they_appear(make_run):
    honest, marked = make_run("honest"), make_run("marked", metrics={"selected_on_reported": True})
    alone = Page(write_report([marked]))
    assert "These images also selected the model" in alone.text
    figure = f"{json.loads((marked / 'metrics.json').read_text())['accuracy']['value']:.3f}"
    assert f"Accuracy {figure}†" in alone.text
    both = Page(write_report([honest, marked], marked / "both.html"))
    assert both.text.count(f"{figure}†") == both.text.count(figure) - both.text.count(figure) / 2
    assert any("marked †" in drawing["aria-label"] for drawing in both.all("svg"))
    assert not any("honest †" in drawing["aria-label"] for drawing in both.all("svg"))


def test_the_mistakes_are_the_most_confident_first(make_run):
    path = make_run()
    found = read_run(path).predictions
    rows = found.mistakes()
    assert {found.labels[row] != found.predicted[row] for row in rows} == {True}
    assert len(rows) == sum(label != guess for label, guess in zip(found.labels, found.predicted, strict=True))
    assert list(found.confidence[rows]) == sorted(found.confidence[rows], reverse=True)
    texts = [image["alt"] for image in Page(write_report([path])).all("img") if "probability" in image["alt"]]
    assert (
        f"predicted {found.predicted[rows[0]]} with probability {found.confidence[rows[0]]:.3f}" in texts[0] + texts[-1]
    )


def test_the_printed_command_gives_the_same_settings(make_run):
    settings = {
        "strategy": "gradual", "epochs": 3, "phase_lrs": [0.1, 0.01], "map": {"a b": "c"}, "cache": False,
        "skip_bad": True, "max_per_class": {"train": 5}, "resize": [40], "time_limit": 90.0, "head_lr": 0.5,
    }  # fmt: skip
    path = make_run(**settings)
    said = dict(commands(read_run(path)))
    assert f"headstart train --config {path}/config.yaml --out {path}-again" in said.values()
    import shlex

    words = shlex.split(said["the settings that differ from the defaults"])[3:]
    values, position = {}, 0
    while position < len(words):
        name = words[position][2:]
        is_flag = position + 1 == len(words) or words[position + 1].startswith("--")
        text = ("false" if name.startswith("no-") else "true") if is_flag else words[position + 1]
        values[name.removeprefix("no-").replace("-", "_")] = parse_assignments([f"x={text}"])["x"]
        position += 1 if is_flag else 2
    expected = make_config({"data": "d", "backbone": "simple-cnn", "lr": 0.01, **settings})
    assert make_config({**values, "data": "d"}).model_dump() == expected.model_dump()
    assert "seed" not in values  # as by default


def test_a_table_of_ones_own_is_repeated_from_its_file_only(real_run):
    said = dict(commands(read_run(real_run)))
    assert len(said) == 2
    assert any("--config" in command for command in said.values())


def test_the_words_of_a_study_are_shown(make_run, tmp_path):
    runs = [make_run("a"), make_run("b")]
    row = {"name": "a <i>", "seeds": [0, 1], "accuracy": {"value": 0.75, "low": 0.7, "high": 0.8, "level": 0.95},
           "selection_log_loss": None, "seconds": 3.0, "trainable_parameters": 5, "peak_memory_mb": None,
           "selected_on_reported": True}  # fmt: skip
    study = {"verdict": ["a and b cannot be told apart."], "rows": [row], "unknown": 1}
    (tmp_path / "comparison.json").write_text(json.dumps(study))
    for given in (study, tmp_path / "comparison.json"):
        page = Page(write_report(runs, tmp_path / "page.html", comparison=given))
        check_page(page)
        assert "a and b cannot be told apart." in page.text
        assert "a <i>" in page.text
        assert "0.750†" in page.text
    page = Page(write_report(runs, tmp_path / "page.html", comparison={"verdict": "only words"}))
    assert "only words" in page.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: {"paths": []}, "no run to report on"),
        (lambda path: {"out": path / "page.pdf"}, "no HTML file"),
        (lambda path: {"comparison": path / "missing.json"}, "cannot read"),
        (lambda path: {"comparison": path / "config.yaml"}, "cannot read"),
        (lambda path: (path / "metrics.json").unlink() or {}, "--resume"),
        (lambda path: (path / "metrics.json").write_text("{}") and {}, "holds no accuracy"),
    ],
)
def test_what_cannot_be_reported_says_why(make_run, change, message):
    path = make_run()
    with pytest.raises(RunError) as caught:
        write_report(**{"paths": [path], **change(path)})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_report_loads_no_torch(make_run):
    code = "import sys; from headstart.report import write_report; write_report(sys.argv[1:]); " \
           "sys.exit('torch' in sys.modules)"  # fmt: skip
    subprocess.run([sys.executable, "-c", code, str(make_run())], check=True)
