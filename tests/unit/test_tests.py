import re
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_test_modules_share_through_helpers_and_import_nothing_from_each_other():
    foreign = re.compile(r"^\s*(from|import) (\.|tests\b(?!\.helpers))", re.MULTILINE)
    modules = sorted(TESTS.rglob("*.py"))
    assert [module.name for module in modules if foreign.search(module.read_text(encoding="utf-8"))] == []
