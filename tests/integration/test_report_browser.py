"""The report in a real browser: it is complete, asks for nothing, fits a phone, and has a dark side."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from tests.helpers.command_line import TINY

LABELS = {"apple": "apple <b>&", "leaf": "葉 leaf", "sky": "a-very-long-name-of-a-class-that-does-not-fit-anywhere"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium. Playwright's own is not fetched, because tests use no network."""
    path = shutil.which("chromium")
    if path is None:
        message = "there is no chromium here; install Debian's package of that name to test the report in a browser"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """The pages of one run and of two, of three classes with names that are hard to show."""
    import headstart
    from headstart.inference.explain import explain
    from headstart.report import write_report
    from tests.helpers.pictures import write_folder

    folder = tmp_path_factory.mktemp("browser")
    data = folder / "fruit"
    counts = {f"{split}/{label}": count for split, count in (("train", 8), ("val", 6)) for label in LABELS}
    write_folder(data, counts)
    for split in ("train", "val"):
        for label, name in LABELS.items():
            (data / split / label).rename(data / split / name)
    settings = dict(zip(("backbone", "image_size", "strategy", "augment"), TINY[1::2], strict=True))
    runs = [headstart.fit(data, out=str(folder / name), epochs=2, lr=lr, **settings)
            for name, lr in (("a", 1e-3), ("b", 1e-5))]  # fmt: skip
    for run in runs:
        explain(run)
    one = write_report([runs[1].path])
    return {"one": one, "two": write_report([run.path for run in runs], folder / "two.html")}


def opened(browser: Browser, path: Path, *, width: int = 1280, scheme: str = "light") -> tuple[Page, list[str]]:
    """Open a page; return it with all that went wrong, and every address that it asked for."""
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    seen: list[str] = []
    page.on("console", lambda message: seen.append(f"console: {message.type} {message.text}"))
    page.on("pageerror", lambda error: seen.append(f"error: {error}"))
    page.on("requestfailed", lambda request: seen.append(f"failed: {request.url[:100]}"))
    page.on("request", lambda request: seen.append(request.url[:100]))
    page.goto(path.as_uri())
    page.wait_for_load_state("networkidle")
    return page, seen


@pytest.mark.parametrize("name", ["one", "two"])
def test_nothing_goes_wrong_and_nothing_is_asked_for(browser, pages, name):
    page, seen = opened(browser, pages[name])
    assert [each for each in seen if not each.startswith("data:image/jpeg;")] == [pages[name].as_uri()]
    images = page.evaluate("[...document.images].map(image => [image.complete, image.naturalWidth, image.alt])")
    assert len(images) > 20
    assert all(complete and width > 0 and alt for complete, width, alt in images)
    drawings = page.evaluate("[...document.querySelectorAll('svg')].map(svg => svg.getBoundingClientRect().width)")
    assert len(drawings) == {"one": 5, "two": 15}[name]
    assert all(width > 100 for width in drawings)
    body: Any = page.evaluate("document.body.innerText")
    assert LABELS["apple"] in body
    assert LABELS["leaf"] in body
    assert "undefined" not in body
    page.close()


@pytest.mark.parametrize("name", ["one", "two"])
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_sticks_out(browser, pages, name, width):
    page, _ = opened(browser, pages[name], width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # What is wider than the page scrolls in a box of its own, which the keyboard reaches.
    boxes = page.evaluate(
        "[...document.querySelectorAll('*')].filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth && "
        "getComputedStyle(e).overflowX !== 'visible' && !e.closest('svg')).map(e => e.tabIndex)"
    )
    assert all(index == 0 for index in boxes)
    shades = page.evaluate("[...document.querySelectorAll('.scroll')].map(e => getComputedStyle(e).backgroundImage)")
    assert all(shade.count("linear-gradient") == 4 for shade in shades)
    page.close()


def luminance(colour: str) -> float:
    """Return the relative luminance of `rgb(r, g, b)` as WCAG 2.2 defines it."""
    values = np.array([float(part) for part in colour.partition("(")[2].rstrip(")").split(",")[:3]]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_and_figures_can_be_read_in_light_and_dark(browser, pages, scheme, tmp_path):
    page, _ = opened(browser, pages["two"], scheme=scheme)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (luminance(paper) > 0.5) == (scheme == "light")
    colours = page.evaluate(
        "[...document.querySelectorAll('p, h1, h2, h3, h4, td, th, a, figcaption, caption, code, li, abbr')]"
        ".map(e => getComputedStyle(e).color)"
    )
    assert min(contrast(colour, paper) for colour in set(colours)) >= 4.5
    texts = page.evaluate("[...document.querySelectorAll('svg text')].map(e => getComputedStyle(e).fill)")
    assert min(contrast(colour, paper) for colour in set(texts)) >= 4.5
    lines = page.evaluate(
        "[...document.querySelectorAll('svg [id*=\"-line2d\"] > path')].map(e => getComputedStyle(e).stroke)"
        ".filter(colour => colour !== 'none')"
    )
    series = page.evaluate("['--c0', '--c1'].map(n => getComputedStyle(document.body).getPropertyValue(n).trim())")
    strokes = {tuple(int(part) for part in line.partition("(")[2].rstrip(")").split(",")[:3]) for line in lines}
    assert {tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for colour in series} <= strokes
    page.screenshot(path=tmp_path / "page.png")
    shade = np.asarray(Image.open(tmp_path / "page.png").convert("L")).mean()
    assert (shade > 200) if scheme == "light" else (shade < 60)
    page.close()


def test_a_dark_screen_prints_on_white_paper_without_cutting_tables(browser, pages):
    page, _ = opened(browser, pages["two"], scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    overflows = page.evaluate("[...document.querySelectorAll('.scroll')].map(e => getComputedStyle(e).overflowX)")
    assert set(overflows) == {"visible"}
    page.close()
