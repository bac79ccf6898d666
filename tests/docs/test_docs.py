"""What the documentation says is so."""

import re
from pathlib import Path

import pytest

from headstart.config import Config
from headstart.training.strategies import STRATEGIES

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def settings_page() -> str:
    """Render docs/settings.md; write it with: python -m tests.docs.test_docs."""
    lines = [
        "# Settings",
        "",
        "Every setting is a flag of `headstart train`, `plan` and `lr-find` (`--head-lr-mult 10`), a key of a YAML",
        "file (`--config FILE`, in which a run's own `config.yaml` works too), of `--set key=value`, and of",
        "`headstart.fit`. Flags win over `--set`, which wins over the file.",
        "",
        "| setting | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in Config.model_fields.items():
        default = "" if field.default in (None, "", {}) else f"`{field.default}`"
        lines.append(f"| `{name}` | {default} | {field.description} |")
    return "\n".join([*lines, ""])


def test_the_settings_page_is_current():
    assert (ROOT / "docs" / "settings.md").read_text() == settings_page()


def test_readme_names_every_strategy_with_its_rate():
    text = (ROOT / "README.md").read_text()
    for name, row in STRATEGIES.items():
        line = next(line for line in text.splitlines() if line.startswith(f"| `{name}"))
        assert f"{row.lr:.0e}".replace("e-0", "e-") in line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_flags_that_exist(page):
    known = {"--" + name.replace("_", "-") for name in Config.model_fields}
    known |= {f"--no-{flag[2:]}" for flag in known} | {
        "--config", "--set", "--overwrite", "--resume", "--format", "--top-k", "--out", "--help", "--version", "--plot",
        "--low", "--high", "--steps", "--sheet", "--split", "--per-class", "--augmented", "--parameters",
        "--predictions",
    }  # fmt: skip
    for line in page.read_text().splitlines():
        for words in re.findall(r"headstart (?:train|plan|lr-find|predict|evaluate|model|data|demo)[^`|#]*", line):
            assert set(re.findall(r"--[a-z][a-z-]*", words)) <= known, line


if __name__ == "__main__":
    (ROOT / "docs" / "settings.md").write_text(settings_page())
