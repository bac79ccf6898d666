"""Put the facts, figures and pictures of runs on one page that needs nothing but itself."""

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from headstart import runs
from headstart._version import __version__
from headstart.data.manifest import data_name, read_manifest
from headstart.errors import DataError, RunError
from headstart.files import make_parent, write_atomic
from headstart.report.canvas import Figure
from headstart.report.curves import overlaid_curves, training_figures
from headstart.report.judged import accuracies, confusion_matrix, reliability_diagram
from headstart.report.pictures import Thumbnail, augmented, sheet, thumbnail
from headstart.report.reading import Facts, commands, read_comparison, read_run, run_names
from headstart.stats.baseline import baseline, figure_notes, worst_class
from headstart.stats.caveats import caveats
from headstart.stats.intervals import wilson_interval
from headstart.text import visible
from headstart.values import read_yaml

_MAX_MISTAKES = 12
_MAX_PAIRS = 8
_PER_PAIR = 4  # pictures


def write_report(
    paths: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    title: str | None = None,
    comparison: Mapping[str, Any] | str | Path | None = None,
) -> Path:
    """Write one self-contained HTML page about runs, and beside it a folder of the figures as PNGs.

    Args:
        paths: Run folders, at least one.
        out: The page; default: `report.html` in the run's folder, or in the current one for several runs. The folder
            of PNGs has its name without the suffix.
        title: Title of the page; default: the name of the data, with the network and strategy of a single run.
        comparison: `comparison.json` of a study, or what it holds; the sentences of its `verdict` and its `rows` are
            shown.

    Returns:
        The page.

    Raises:
        RunError: A path is no finished run, the comparison cannot be read, or the page cannot be written.
        ConfigError: The page is no HTML file or lies among the images.
    """
    folders = [Path(path) for path in paths]
    page = page_path(folders, out)
    study = read_comparison(comparison, folders)
    facts = [read_run(path) for path in folders]
    names = run_names(folders, study)

    # What is on the page.
    sections = []
    for number, (each, name) in enumerate(zip(facts, names, strict=True), 1):
        sections.append(_run_facts(each, f"run{number}", name))
    compared = _shared_facts(facts, names, study)
    page_title = title or _default_title(facts)
    html = _template().render(title=page_title, version=__version__, sections=sections, compared=compared)

    # What is beside it: the figures of one run right there, those of several in a folder for each.
    pngs = {f"{each.name}.png": each.png for each in compared["figures"]}
    for section in sections:
        folder = ""
        if len(facts) > 1:
            safe_name = re.sub(r"[^\w.=]+", "-", f"{section['id']}-{section['name']}")[:80].strip("-.")
            folder = f"{safe_name}/"
        for name, data in section["pngs"].items():
            pngs[f"{folder}{name}.png"] = data
    _write_files(page, html, pngs)
    return page


def page_path(paths: Sequence[Path], out: str | Path | None) -> Path:
    """Return where the page about runs goes, once it is clear that it can be written there.

    Raises:
        RunError: There is no run, one is not finished, or the folder of the page cannot be written to.
        ConfigError: The settings of a run cannot be read, or the page is no HTML file or lies among the images.
    """
    if not paths:
        raise RunError("there is no run to report on; give one or more run folders")
    if out is not None:
        page = Path(out)
    elif len(paths) == 1:
        page = paths[0] / "report.html"
    else:
        page = Path("report.html")
    for path in paths:
        runs.open_run(path).metrics()  # says so where it is not finished
        data = str(read_yaml(path / runs.CONFIG).get("data"))
        runs.check_output(page, _folder_of_images(path, data), "--out", ".html", ".htm")
    runs.check_parent(page.with_suffix("") / "loss.png")
    return page


def _folder_of_images(run: Path, data: str) -> str:
    """Return the folder that a run was given, as seen from everywhere; '' where that is not clear.

    Args:
        run: Folder of the run.
        data: What was typed, perhaps from another folder than this process is in.
    """
    if Path(data).expanduser().is_absolute():
        return data
    words = tuple(word for word in Path(os.path.normpath(data)).parts if word != os.pardir)
    if not words:
        return ""
    try:
        first = read_manifest(run / runs.MANIFEST).records[0]
    except (DataError, IndexError):
        return ""
    for folder in Path(first.key).parents:
        if folder.parts[-len(words) :] == words:
            return str(folder)
    return ""


def _write_files(page: Path, html: str, pngs: Mapping[str, bytes]) -> None:
    """Write the figures, and then the page that they belong to."""
    for name, data in pngs.items():
        target = page.with_suffix("") / name
        make_parent(target)
        write_atomic(target, data)
    make_parent(page)
    write_atomic(page, html)


def _without_controls(value: object) -> object:
    """Write the control characters of text as escapes; what is markup already was made here."""
    if type(value) is not str:
        return value
    return visible(value)


def _template() -> jinja2.Template:
    """Return the template of the page, with its filters."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template_source),
        autoescape=True,
        finalize=_without_controls,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = _figure_text
    environment.filters["rate"] = _rate_text
    environment.filters["count"] = _count_text
    environment.filters["images"] = _images_text
    environment.filters["caveats"] = caveats
    return environment.get_template("page.html.j2")


def _template_source(name: str) -> str:
    """Read a template that is installed with this package."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _figure_text(value: float | None) -> str:
    """Write a figure with three decimals, or a dash where it is not defined."""
    return "–" if value is None else f"{value:.3f}"


def _rate_text(rate: float) -> str:
    """Write a learning rate, such as 1.0e-3."""
    return f"{rate:.1e}".replace("e-0", "e-").replace("e+00", "")


def _count_text(count: int | None) -> str:
    """Write a count with its thousands apart, or a dash where it is not known."""
    return "–" if count is None else f"{count:,}"


def _images_text(count: int, split: str = "") -> str:
    """Write a count of images, such as `1,200 test images`, or `1 image` without a split."""
    words = [f"{count:,}"]
    if split:
        words.append(split)
    words.append("image" if count == 1 else "images")
    return " ".join(words)


def _default_title(facts: Sequence[Facts]) -> str:
    """Name the page after its data and, of a single run, its network and strategy."""
    settings = facts[0].settings
    data = data_name(Path(str(settings["data"]))) or "data"
    if len(facts) > 1:
        return f"{data}: {len(facts)} runs compared"
    return f"{data}: {settings['backbone']}, {settings['strategy']}"


def _run_facts(facts: Facts, ident: str, name: str) -> dict[str, Any]:
    """Gather what the template says of one run; `pngs` are the files beside the page."""
    training = training_figures(facts, ident)
    matrix = confusion_matrix(facts, f"{ident}-confusion")
    calibration = reliability_diagram(facts, f"{ident}-reliability")
    wrong = []
    if facts.predictions is not None:
        wrong = facts.predictions.mistakes()
    mistakes = [_judged_image(facts, row) for row in wrong[:_MAX_MISTAKES]]
    views = _augmented_views(facts)

    pngs = {}
    for figure in [*_figures_of_fits(training), calibration, matrix]:
        if figure is not None:
            pngs[figure.name.removeprefix(f"{ident}-")] = figure.png
    if mistakes:
        pngs["mistakes"] = sheet([("most confident mistakes", [each["picture"] for each in mistakes])])
    if views:
        pngs["augmented"] = sheet(views)
    metrics = facts.metrics
    return {
        "id": ident,
        "name": name,
        "facts": facts,
        "baseline": baseline(metrics),
        "notes": figure_notes(metrics),
        "worst_class": worst_class(metrics),
        "training": training,
        "calibration": calibration,
        "matrix": matrix,
        "mistakes": mistakes,
        "num_mistakes": len(wrong),
        "pairs": _confused_pairs(facts),
        "classes": _class_scores(facts),
        "explained": _explained_images(facts),
        "views": views,
        "commands": commands(facts),
        "pngs": pngs,
    }


def _figures_of_fits(groups: Sequence[tuple[str, Sequence[Figure]]]) -> list[Figure]:
    """Return the figures of all fits."""
    found: list[Figure] = []
    for _, figures in groups:
        found.extend(figures)
    return found


def _augmented_views(facts: Facts) -> list[tuple[str, list[Thumbnail]]]:
    """Return augmented views of some training images, where the preprocessing is known."""
    if facts.spec is None:
        return []
    return augmented(facts.run.path / runs.MANIFEST, facts.spec, facts.settings["augment"], facts.settings["seed"])


def _judged_image(facts: Facts, row: int) -> dict[str, Any]:
    """Describe what the model said of one reported image, with a small copy of it."""
    found = facts.predictions
    assert found is not None
    name = _folder_and_name(found.paths[row])
    label = found.labels[row]
    predicted = found.predicted[row]
    probability = f"{found.confidence[row]:.3f}"
    alt = f"{name}: labelled {label}, predicted {predicted} with probability {probability}"
    grey_range = None if facts.spec is None else facts.spec.grey_range
    picture = thumbnail(found.paths[row], alt, facts.source, grey_range=grey_range)
    return {"name": name, "label": label, "predicted": predicted, "probability": probability, "picture": picture}


def _confused_pairs(facts: Facts) -> list[dict[str, Any]]:
    """List the pairs of true and predicted class with the most images, and pictures of each."""
    mistaken = []
    for label, row in facts.confusion.items():
        for predicted, count in row.items():
            if predicted != label:
                mistaken.append((count, label, predicted))
    mistaken.sort(key=lambda each: -each[0])

    found = []
    for count, label, predicted in mistaken[:_MAX_PAIRS]:
        pictures = []
        if facts.predictions is not None:
            rows = facts.predictions.mistakes(label, predicted)[:_PER_PAIR]
            pictures = [_judged_image(facts, row)["picture"] for row in rows]
        share = f"{count:,} of {facts.metrics['per_class'][label]['num_images']:,}"
        found.append({"label": label, "predicted": predicted, "share": share, "pictures": pictures})
    return found


def _class_scores(facts: Facts) -> list[dict[str, Any]]:
    """List the scores of each class, the worst first, recall with its interval."""
    rows = []
    for label, row in facts.metrics["per_class"].items():
        n = row["num_images"]
        interval = None
        if "recall_low" in row:  # images come in groups
            interval = {"low": row["recall_low"], "high": row["recall_high"]}
        elif n and row["recall"] is not None:
            found = wilson_interval(round(row["recall"] * n), n)
            interval = {"low": found.low, "high": found.high}
        rows.append({**row, "label": label, "interval": interval})
    return sorted(rows, key=lambda row: (row["f1"] is not None, row["f1"] or 0.0))


def _explained_images(facts: Facts) -> list[dict[str, Any]]:
    """List the pictures that `inference.explain` wrote, as far as they are there."""
    folder = facts.run.path / runs.EXPLANATIONS
    cases = []
    for image in facts.explanations.get("images", []):
        with contextlib.suppress(KeyError, TypeError, ValueError):  # the file may come from anywhere
            cases.append(_explained_image(image, folder))
    return cases


def _explained_image(image: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Describe one picture that `inference.explain` wrote into a folder."""
    label = str(image["label"])
    predicted = str(image["predicted"])
    shown = [("input", "input", f"{_folder_and_name(image['path'])}, as the network saw it")]
    # Evidence for the predicted class, and where that is another one, for the true class.
    of_classes = [("file", predicted), ("label_file", label)]
    for (key, name), is_there in zip(of_classes, image["has_evidence"], strict=False):
        what = f"for {name}" if is_there else f"nothing for {name}"
        shown.append((key, what, f"Grad-CAM: evidence {what}"))
    panels = []
    for key, text, alt in shown:
        path = folder / Path(image[key]).name  # whatever the path is, a file in the folder
        panels.append((text, thumbnail(str(path), alt)))
    probability = f"{image['probability']:.3f}"
    return {"label": label, "predicted": predicted, "probability": probability, "panels": panels}


def _shared_facts(facts: Sequence[Facts], names: Sequence[str], study: Mapping[str, Any]) -> dict[str, Any]:
    """Gather what is said of all runs together: the words of a study, and figures of several runs."""
    verdict = study.get("verdict") or []
    if isinstance(verdict, str):
        verdict = [verdict]
    rows = study.get("rows") or []
    has_several_seeds = any(len(row.get("seeds", [])) > 1 for row in rows)
    if not has_several_seeds:  # then the table of runs says the same
        rows = []
    figures = []
    if len(facts) > 1:
        figures = [accuracies(facts, names), *overlaid_curves(facts, names)]
    return {"verdict": list(verdict), "rows": rows, "figures": figures}


def _folder_and_name(path: str) -> str:
    """Name a file and its folder; where on the disk they lie is of no use to a reader."""
    return "/".join(Path(path).parts[-2:])
