"""Every notebook in examples/ runs from top to bottom, offline, in an empty folder."""

import json
from pathlib import Path

import pytest
import torch

from headstart.studies.recipes import RECIPES

NOTEBOOKS = sorted((Path(__file__).parents[2] / "examples").glob("*.ipynb"))


def test_there_is_a_notebook_for_each_recipe():
    assert {path.stem for path in NOTEBOOKS} == set(RECIPES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_clean_and_runs(path, tmp_path, monkeypatch):
    """Its cells in one namespace, as a kernel would; Jupyter itself adds nothing that could fail differently."""
    book = json.loads(path.read_text(encoding="utf-8"))
    assert book["nbformat"] == 4
    assert len({cell["id"] for cell in book["cells"]}) == len(book["cells"])
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    torch.set_num_threads(1)  # small networks: more threads only wait for each other
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    namespace = {"__name__": "__main__"}
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"{path.name}[{number}]", "exec"), namespace)
    comparison = namespace["outcomes"]["lesson"].comparison
    assert len(comparison.rows) >= 2
    assert not comparison.failed
