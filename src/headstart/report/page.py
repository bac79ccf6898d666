"""Put the facts, figures and pictures of runs on one page that needs nothing but itself."""

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from headstart import runs
from headstart._version import __version__
from headstart.config import read_yaml
from headstart.data.manifest import data_name
from headstart.errors import RunError
from headstart.files import make_parent, write_atomic
from headstart.report.curves import overlaid_curves, training_figures
from headstart.report.judged import accuracies, confusion_matrix, reliability_diagram
from headstart.report.pictures import Thumbnail, augmented, sheet, thumbnail
from headstart.report.reading import Facts, commands, read_comparison, read_run, run_names
from headstart.stats.metrics import wilson_interval

_MAX_MISTAKES, _MAX_PAIRS, _PER_PAIR = 12, 8, 4


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
        title: Of the page; default: from the runs.
        comparison: `comparison.json` of a study, or what it holds: its `verdict`, sentences, and `rows` are shown.

    Returns:
        The page.

    Raises:
        RunError: A path is no finished run, the comparison cannot be read, or the page cannot be written.
        ConfigError: The page is no HTML file or lies among the images.
    """
    folders = [Path(path) for path in paths]
    page, study = page_path(folders, out), read_comparison(comparison, folders)
    facts, names = [read_run(path) for path in folders], run_names(folders, study)
    sections = [_section(each, f"run{i}", name) for i, (each, name) in enumerate(zip(facts, names, strict=True), 1)]
    compared = _compared(facts, names, study)
    html = _template().render(title=title or _title(facts), version=__version__, sections=sections, compared=compared)
    pngs = {f"{each.name}.png": each.png for each in compared["figures"]}
    for section in sections:
        tame = re.sub(r"[^\w.=]+", "-", f"{section['id']}-{section['name']}")[:80].strip("-.")
        folder = "" if len(facts) == 1 else f"{tame}/"
        pngs |= {f"{folder}{name}.png": data for name, data in section["pngs"].items()}
    _write(page, html, pngs)
    return page


def page_path(paths: Sequence[Path], out: str | Path | None) -> Path:
    """Return where the page about runs goes, once it is clear that it can be written there.

    Raises:
        RunError: There is no run, one is not finished, or the folder of the page cannot be written to.
        ConfigError: The settings of a run cannot be read, or the page is no HTML file or lies among the images.
    """
    if not paths:
        raise RunError("there is no run to report on; give one or more run folders")
    page = Path(out) if out is not None else (paths[0] if len(paths) == 1 else Path()) / "report.html"
    for path in paths:
        runs.open_run(path).metrics()  # says so where it is not finished
        images = Path(str(read_yaml(path / runs.CONFIG).get("data"))).expanduser()
        # Another path was meant from where the run was started.
        runs.check_output(page, str(images) if images.is_absolute() else "", "--out", ".html", ".htm")
    runs.check_parent(page.with_suffix("") / "loss.png")
    return page


def _write(page: Path, html: str, pngs: Mapping[str, bytes]) -> None:
    files: dict[Path, bytes | str] = {page.with_suffix("") / name: data for name, data in pngs.items()}
    for target, data in {**files, page: html}.items():
        make_parent(target)
        write_atomic(target, data)


def _template() -> jinja2.Template:
    loader = jinja2.FunctionLoader(lambda name: files(__package__).joinpath(name).read_text(encoding="utf-8"))
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["figure"] = lambda value: "–" if value is None else f"{value:.3f}"
    environment.filters["rate"] = lambda value: f"{value:.1e}".replace("e-0", "e-").replace("e+00", "")
    environment.filters["count"] = lambda value: "–" if value is None else f"{value:,}"
    return environment.get_template("page.html.j2")


def _title(facts: Sequence[Facts]) -> str:
    settings = facts[0].settings
    data = data_name(Path(str(settings["data"]))) or "data"
    if len(facts) > 1:
        return f"{data}: {len(facts)} runs compared"
    return f"{data}: {settings['backbone']}, {settings['strategy']}"


def _section(facts: Facts, ident: str, name: str) -> dict[str, Any]:
    """Gather what the template says of one run; `pngs` are the files beside the page."""
    training, matrix = training_figures(facts, ident), confusion_matrix(facts, f"{ident}-confusion")
    calibration = reliability_diagram(facts, f"{ident}-reliability")
    wrong = facts.predictions.mistakes() if facts.predictions else []
    mistakes, views = [_case(facts, row) for row in wrong[:_MAX_MISTAKES]], _views(facts)
    drawn = [*(each for _, group in training for each in group), *filter(None, (calibration, matrix))]
    pngs = {each.name.removeprefix(f"{ident}-"): each.png for each in drawn}
    if mistakes:
        pngs["mistakes"] = sheet([("most confident mistakes", [each["picture"] for each in mistakes])])
    if views:
        pngs["augmented"] = sheet(views)
    return {
        "id": ident, "name": name, "facts": facts, "training": training, "calibration": calibration, "matrix": matrix,
        "mistakes": mistakes, "num_mistakes": len(wrong), "pairs": _pairs(facts), "classes": _classes(facts),
        "explained": _explained(facts), "views": views, "commands": commands(facts), "pngs": pngs,
    }  # fmt: skip


def _views(facts: Facts) -> list[tuple[str, list[Thumbnail]]]:
    if facts.spec is None:
        return []
    return augmented(facts.run.path / runs.MANIFEST, facts.spec, facts.settings["augment"], facts.settings["seed"])


def _case(facts: Facts, row: int) -> dict[str, Any]:
    """Describe one reported image."""
    found = facts.predictions
    assert found is not None
    name = _short(found.paths[row])
    label, predicted = found.labels[row], found.predicted[row]
    probability = f"{found.confidence[row]:.3f}"
    alt = f"{name}: labelled {label}, predicted {predicted} with probability {probability}"
    picture = thumbnail(found.paths[row], alt, facts.source)
    return {"name": name, "label": label, "predicted": predicted, "probability": probability, "picture": picture}


def _pairs(facts: Facts) -> list[dict[str, Any]]:
    """List the pairs of true and predicted class with the most images, and pictures of each."""
    labels, counts, found = facts.labels, np.array(facts.metrics["confusion"]), []
    off = counts * ~np.eye(len(labels), dtype=bool)
    for flat in np.argsort(-off, axis=None, kind="stable")[: min(_MAX_PAIRS, np.count_nonzero(off))]:
        true, guess = divmod(int(flat), len(labels))
        pair = {"label": labels[true], "predicted": labels[guess]}
        rows = facts.predictions.mistakes(**pair)[:_PER_PAIR] if facts.predictions else []
        share = f"{counts[true, guess]:,} of {counts[true].sum():,}"
        found.append({**pair, "share": share, "pictures": [_case(facts, row)["picture"] for row in rows]})
    return found


def _classes(facts: Facts) -> list[dict[str, Any]]:
    """List the scores of each class, the worst first, recall with its interval."""
    rows = []
    for label, row in facts.metrics["per_class"].items():
        n, recall = row["num_images"], row["recall"]
        interval = wilson_interval(round(recall * n), n) if n and recall is not None else None
        rows.append({**row, "label": label, "interval": interval})
    return sorted(rows, key=lambda row: (row["f1"] is not None, row["f1"] or 0.0))


def _explained(facts: Facts) -> list[dict[str, Any]]:
    """List the pictures that `inference.explain` wrote, as far as they are there."""
    folder, cases = facts.run.path / runs.EXPLANATIONS, []
    for image in facts.explanations.get("images", []):
        try:
            label, predicted = str(image["label"]), str(image["predicted"])
            shown = [("input", "input", f"{_short(image['path'])}, as the network saw it")]
            for key, name, is_there in zip(
                ("file", "label_file"), (predicted, label), image["has_evidence"], strict=False
            ):
                what = f"for {name}" if is_there else f"nothing for {name}"
                shown.append((key, what, f"Grad-CAM: evidence {what}"))
            # Only names within the folder: the file may come from anywhere.
            panels = [(text, thumbnail(str(folder / Path(image[key]).name), alt)) for key, text, alt in shown]
            probability = f"{image['probability']:.3f}"
        except (KeyError, TypeError, ValueError):
            continue
        cases.append({"label": label, "predicted": predicted, "probability": probability, "panels": panels})
    return cases


def _compared(facts: Sequence[Facts], names: Sequence[str], study: Mapping[str, Any]) -> dict[str, Any]:
    """Gather what is said of all runs together: the words of a study, and figures of several runs."""
    verdict, rows = study.get("verdict") or [], study.get("rows") or []
    is_averaged = any(len(row.get("seeds", [])) > 1 for row in rows)  # else the table of runs says the same
    drawn = [accuracies(facts, names), *overlaid_curves(facts, names)] if len(facts) > 1 else []
    verdict = [verdict] if isinstance(verdict, str) else list(verdict)
    return {"verdict": verdict, "rows": rows if is_averaged else [], "figures": drawn}


def _short(path: str) -> str:
    """Name a file and its folder; where on the disk they lie is of no use to a reader."""
    return "/".join(Path(path).parts[-2:])
