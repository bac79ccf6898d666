"""What the documentation says is so."""

import re
from pathlib import Path

import pytest
import typer

from headstart.cli import app
from headstart.cli.settings import attach_settings
from headstart.config import Config, description
from headstart.training.strategies import STRATEGIES

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def settings_page() -> str:
    """Render docs/settings.md; write it with: python -m tests.docs.test_docs."""
    lines = [
        "# Settings",
        "",
        "Every setting is a key of a YAML file (`--config FILE`, in which a run's own `config.yaml` works too), of",
        "`--set key=value` and of `headstart.fit`. All but `data` (an argument) and `table` are flags of",
        "`headstart train`, `plan`, `lr-find`, `compare`, `rank` and `data show` too (`--head-lr-mult 10`). Flags win",
        "over `--set`, which wins over the file.",
        "",
        "| setting | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in Config.model_fields.items():
        default = "" if field.default in (None, "", {}) else f"`{field.default}`"
        lines.append(f"| `{name}` | {default} | {description(name)} |")
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


@pytest.fixture(scope="module")
def flags() -> dict[str, set[str]]:
    """The flags of every command, by its words."""
    found = {}

    def walk(command, words):
        for name, each in getattr(command, "commands", {}).items():
            walk(each, [*words, name])
        found[" ".join(words)] = {"--help", *(f for p in command.params for f in (*p.opts, *p.secondary_opts))}

    attach_settings()
    walk(typer.main.get_command(app), [])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_their_flags_exist(page, flags):
    for text in re.findall(r"(?:^|[`$] ?|^ +)headstart ([^`#\n]+)", page.read_text(), flags=re.MULTILINE):
        words = text.split()
        names = [name for name in (" ".join(words[:2]), words[0], "") if name in flags]
        assert names[0] or words[0].startswith("-"), f"headstart {text}"
        assert set(re.findall(r"(?<!\S)--[a-z][a-z-]*", text)) <= flags[names[0]], f"headstart {text}"


def test_all_settings_but_two_are_flags(flags):
    without = {name for name in Config.model_fields if "--" + name.replace("_", "-") not in flags["train"]}
    assert without == {"data", "table"}


if __name__ == "__main__":
    (ROOT / "docs" / "settings.md").write_text(settings_page())
