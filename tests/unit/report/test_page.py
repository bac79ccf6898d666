import json
import subprocess
import sys

import pytest
from PIL import Image

from headstart.errors import HeadstartError
from headstart.report import write_report
from headstart.report.page import _default_title
from headstart.report.reading import read_run
from tests.helpers.reports import Page

NASTY = ("<img src=x onerror=alert(1)>", 'a&b "q"', "$x_1$ back\\slash \\g<1>", "犬 — \u202eсобака", "</style><b>")
STUDY = {
    "verdict": ["honest and marked cannot be told apart."],
    "rows": [
        {
            "name": "a <i>", "seeds": [0, 1], "accuracy": {"value": 0.7504, "low": 0.7, "high": 0.8, "level": 0.95},
            "selection_log_loss": None, "seconds": 3.0, "trainable_parameters": 5, "peak_memory_mb": None,
            "selected_on_reported": True,
        }
    ],
    "unknown": 1,
}  # fmt: skip


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
    assert all(part.startswith("#") for part in page.source.split("url(")[1:])


def accuracy_of(path):
    return json.loads((path / "metrics.json").read_text())["accuracy"]


def test_a_real_run(real_run, tmp_path):
    page = Page(write_report([real_run], tmp_path / "page.html"))
    check_page(page)
    a = accuracy_of(real_run)
    shown = f"Accuracy {a['value']:.3f} (95 % interval {a['low']:.3f} to {a['high']:.3f}) on 18 validation images"
    assert shown in page.text
    assert page.section_ids == [
        "result", "training", "plan", "mistakes", "classes", "calibration", "evidence", "inputs", "data", "again"
    ]  # fmt: skip
    assert len(page.all("svg")) == 5  # loss, accuracy, learning rate, confusion, reliability
    assert "†" not in page.text
    pngs = {path.name for path in (tmp_path / "page").iterdir()}
    assert {"loss.png", "accuracy.png", "lr.png", "confusion.png", "reliability.png", "augmented.png"} <= pngs
    assert all(min(Image.open(tmp_path / "page" / name).size) > 100 for name in pngs)


def test_several_runs_are_compared_here_and_what_is_too_good_is_marked(make_run, tmp_path, monkeypatch):
    honest, marked = make_run("honest"), make_run("marked", metrics={"selected_on_reported": True})
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "comparison.json").write_text(json.dumps(STUDY))
    page = Page(write_report([honest, marked], comparison=tmp_path / "comparison.json"))
    check_page(page)
    folder = tmp_path / "here" / "report"
    pngs = {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}
    assert {"accuracies.png", "held-out-loss.png", "training-accuracy.png"} <= pngs
    assert {"run1-honest/confusion.png", "run2-marked/confusion.png"} <= pngs
    assert "fruit: 2 runs compared" in page.text
    assert "honest and marked cannot be told apart." in page.text
    assert "a <i>" in page.text
    assert "0.750†" in page.text
    figure = f"{accuracy_of(marked)['value']:.3f}"
    cells = "".join(page.text.split())
    assert f"honestsimple-cnnhead0{figure}0." in cells
    assert f"markedsimple-cnnhead0{figure}†0." in cells
    assert page.text.count(f"Accuracy {figure}†") == 1
    assert page.text.count(f"Accuracy {figure} ") == 1
    assert page.text.count("These images also selected the model") == 1
    assert any("marked †" in drawing["aria-label"] for drawing in page.all("svg"))
    assert not any("honest †" in drawing["aria-label"] for drawing in page.all("svg"))


def test_runs_of_a_study_are_called_as_its_verdict_calls_them(make_run, tmp_path):
    names = {"head": "head", "full-lr-1e-3": "full, lr=1e-3"}
    rows = [
        {**STUDY["rows"][0], "name": name, "seeds": [0], "runs": [f"{folder}/seed0"]} for folder, name in names.items()
    ]
    (tmp_path / "comparison.json").write_text(json.dumps({**STUDY, "rows": rows}))
    paths = [make_run(f"{folder}/seed0") for folder in names]
    page = Page(write_report(paths, tmp_path / "r.html", comparison=tmp_path / "comparison.json"))
    check_page(page)
    assert '<h2 id="run2">full, lr=1e-3</h2>' in page.source
    assert '<a href="#run1">head</a>' in page.source
    assert "Plan of full, lr=1e-3" in [each.get("aria-label") for each in page.all("div")]
    assert {path.name for path in (tmp_path / "r").iterdir() if path.is_dir()} == {"run1-head", "run2-full-lr=1e-3"}
    assert "1 seed0" not in page.text


def test_labels_may_hold_anything(make_run):
    path = make_run(labels=NASTY, num_images=60)
    page = Page(write_report([path], title="<script>alert(1)</script>"))
    assert page.all("title")
    check_page(page)
    assert all(label in page.text for label in NASTY[:2])
    assert not page.all("b")
    assert "<script>alert(1)</script>" in page.text
    assert (path / "report.html").is_file()
    assert (path / "report" / "loss.png").is_file()


def test_control_characters_of_names_are_escapes_on_the_page(make_run):
    path = make_run(labels=("a\x1b[2J", "b\u202e"), num_images=20)
    page = Page(write_report([path]))
    check_page(page)
    assert not {"\x1b", "\u202e"} & set(page.source)
    assert "a\\u001b[2J" in page.text


def test_of_a_hundred_classes_the_most_confused_pairs_are_shown(make_run):
    labels = [f"class number {number}" for number in range(100)]
    page = Page(write_report([make_run(labels=labels, num_images=200, phases=(("head", 0), ("all", 3)))]))
    check_page(page)
    assert not any("Confusion matrix" in drawing["aria-label"] for drawing in page.all("svg"))
    assert "Most confused pairs" in page.text
    assert "A confusion matrix of 100 classes would be too large to read" in page.text
    assert "solved" in page.text


@pytest.mark.parametrize("is_damaged", [False, True])
def test_what_is_missing_or_damaged_is_left_out(make_run, tmp_path, is_damaged):
    path = make_run()
    for name in ("metrics.csv", "plan.json", "predictions.parquet", "model/preprocessor_config.json",
                 "manifest.parquet", "environment.json", "data_report.json"):  # fmt: skip
        if is_damaged:
            (path / name).write_bytes(b"no,such,\nfile,\n1,2,3,4")
        else:
            (path / name).unlink()
    for picture in (tmp_path / "pictures").iterdir():
        picture.unlink()
    page = Page(write_report([path]))
    check_page(page)
    assert page.section_ids == ["result", "mistakes", "classes", "evidence", "data", "again"]
    assert "Left out of this page" in page.text
    assert page.text.count("cannot be used") >= 5


@pytest.mark.parametrize(("data", "name"), [("a/photos.v1", "photos.v1"), ("table.csv", "table"), (".", "data")])
def test_the_page_is_called_as_the_data(make_run, data, name):
    assert _default_title([read_run(make_run(data=data))]) == f"{name}: simple-cnn, head"


def test_a_run_of_an_older_version(make_run, tmp_path):
    path = make_run()
    lines = (path / "config.yaml").read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("views", "schedule", "select_on"))]
    (path / "config.yaml").write_text("\n".join([*kept, "abolished: 3"]))
    metrics = json.loads((path / "metrics.json").read_text())
    for key in ("labels", "trainable_parameters", "time_s", "selected_on_reported"):
        del metrics[key]
    (path / "metrics.json").write_text(json.dumps(metrics))
    for picture in (tmp_path / "pictures").iterdir():
        picture.unlink()
    page = Page(write_report([path]))
    check_page(page)
    assert not page.all("img")
    gone = [each["aria-label"] for each in page.all("span") if each.get("class") == "gone"]
    assert gone
    assert all("labelled" in text and "the picture is gone" in text for text in gone)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: {"paths": []}, "no run to report on"),
        (lambda path: {"out": path / "page.pdf"}, "expected a name that ends in .html or .htm"),
        (lambda path: (path.parent / "fruit").mkdir() or {"out": path.parent / "fruit" / "r.html"}, "among the images"),
        (lambda path: {"out": path / "plan.json" / "r.html"}, "plan.json is a file, not a folder"),
        (lambda path: {"comparison": {"rows": [{"name": "x", "seeds": [0], "runs": ["x"]}]}}, "is not about"),
        (lambda path: {"comparison": path / "missing.json"}, "cannot read"),
        (lambda path: {"comparison": path / "config.yaml"}, "cannot read"),
        (lambda path: (path / "metrics.json").unlink() or {}, "--resume"),
        (lambda path: (path / "metrics.json").write_text("{}") and {}, "holds no accuracy"),
    ],
)
def test_what_cannot_be_reported_says_why(make_run, change, message):
    path = make_run()
    with pytest.raises(HeadstartError) as caught:
        write_report(**{"paths": [path], **change(path)})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(path.glob("report*"))


def test_a_report_loads_no_torch(make_run):
    code = "import sys; from headstart.report import write_report; write_report(sys.argv[1:]); " \
           "sys.exit('torch' in sys.modules)"  # fmt: skip
    subprocess.run([sys.executable, "-c", code, str(make_run())], check=True)
