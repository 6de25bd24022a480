"""The HTML report in a real browser: asks for nothing, reports no error, fits every width, light and dark."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mmkd
from report.runs import data, make, nodes

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: Any) -> Iterator[Any]:
    if CHROMIUM is None:
        absent = "there is no Chromium; apt-get install chromium"
        if os.environ.get("MMKD_REQUIRE_CHROMIUM", "0") not in ("", "0"):
            pytest.fail(absent)
        pytest.skip(absent)
    from playwright.sync_api import sync_playwright

    profile = tmp_path_factory.mktemp("profile")
    with sync_playwright() as player:
        context = player.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, headless=True, args=FLAGS
        )
        yield context
        context.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: Any) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("runs")
    one = make(home / ("a-name-without-a-place-to-break-it-" * 4))
    again = make(home / "again", train={"steps": 20, "log_every": 1, "seed": 1})
    both = home / "both.html"
    return {
        "one": mmkd.write_report(one, nodes=nodes(), data=data(), output=home / "one.html"),
        "several": mmkd.write_report([one, again], nodes=nodes(), data=data(), output=both),
        "bare": mmkd.write_report(one, samples=0, output=home / "bare.html"),
    }


@pytest.mark.parametrize("name", ["one", "several", "bare"])
def test_a_page_fits_and_keeps_to_itself(browser: Any, pages: dict[str, Path], name: str) -> None:
    page = browser.new_page()
    trouble: list[str] = []
    page.on("console", lambda message: trouble.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
    address = pages[name].as_uri()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for width in (390, 820, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(address)
        page.evaluate("for (const run of document.querySelectorAll('details')) run.open = true")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        cut = page.evaluate("""
            [...document.querySelectorAll("svg.chart text")].filter((text) => {
              const box = text.getBoundingClientRect(), home = text.closest("figure").getBoundingClientRect();
              return box.left < home.left || box.right > home.right || box.top < home.top || box.bottom > home.bottom;
            }).map((text) => text.textContent)""")
        assert cut == []
    assert {url for url in asked if not url.startswith("data:")} == {address}
    assert trouble == []
    page.close()


def test_the_pointer_reads_a_curve(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_page()
    page.goto(pages["one"].as_uri())
    chart = page.locator("figure", has_text="Learning rate").locator("svg.lines")
    chart.scroll_into_view_if_needed()
    chart.hover(position={"x": 200, "y": 60})
    lines = page.locator(".tip").inner_text().splitlines()
    assert lines[0].startswith("step ") and lines[1].startswith("student")
    assert 0 < float(lines[1].split()[-1]) <= 0.011
    page.mouse.move(2, 2)
    assert page.locator(".tip").count() == 0
    page.close()


def test_dark_and_light_differ_and_can_be_read(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_page()
    seen = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.goto(pages["one"].as_uri())
        for selector in ("body", ".lead", ".arm.student", ".arm.baseline", ".arm.teacher", ".chart text"):
            part = "fill" if selector.endswith("text") else "color"
            ink = page.evaluate("([s, part]) => getComputedStyle(document.querySelector(s))[part]", [selector, part])
            paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert contrast(ink, paper) >= 4.5, (scheme, selector, ink, paper)
        seen[scheme] = paper
    assert seen["light"] != seen["dark"]
    page.close()


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two CSS colours (WCAG 2)."""
    lights = sorted(_luminance(colour) for colour in (one, other))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
