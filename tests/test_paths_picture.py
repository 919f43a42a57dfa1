"""The interactive picture of paths: what it counts is what the package counts."""

import re
import shutil

import pytest

from mcnn.paths import Graph, sample_paths
from mcnn.paths.picture import PathsPicture

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTHS = (8, 8, 8, 8)


@pytest.fixture(scope="module")
def page():
    from playwright.sync_api import sync_playwright

    found = [path for path in map(shutil.which, BROWSERS) if path]
    if not found:
        pytest.skip("no Chromium on the path")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=found[0], args=arguments)
        page = browser.new_page(viewport={"width": 390, "height": 844})
        yield page
        browser.close()


@pytest.fixture(scope="module")
def still(page):
    """A page without JavaScript."""
    context = page.context.browser.new_context(java_script_enabled=False)
    yield context.new_page()
    context.close()


def shown(page, method):
    panel = page.locator(f"[data-network={method}]")
    texts = {n: panel.locator(f"[data-count='{n}']").inner_text() for n in ("edges", "units used")}
    texts |= {n: panel.locator(f"[data-count={n}]").inner_text() for n in ("paths", "collisions")}
    drawn = panel.locator(".edge").count(), panel.locator(".used").count()
    return texts, drawn


def expected(method, paths):
    if paths == 0:
        return {"paths": "0", "edges": "0 of 192", "collisions": "0", "units used": "0 of 32"}, (
            0,
            0,
        )
    graph = Graph.of_paths(sample_paths(WIDTHS, paths, method, 0), WIDTHS)
    edges, units = sum(graph.unique), round(8 * sum(graph.coverage))
    texts = {
        "paths": str(paths),
        "edges": f"{edges} of 192",
        "collisions": str(sum(graph.collisions)),
        "units used": f"{units} of 32",
    }
    return texts, (edges, units)


def check(page, paths):
    for method in ("uniform", "sobol"):
        assert shown(page, method) == expected(method, paths)
    assert page.locator("output").text_content() == ("1 path" if paths == 1 else f"{paths} paths")


@pytest.mark.xdist_group("browser")
def test_the_picture_counts_what_the_graph_counts(page):
    page.set_content(PathsPicture()._repr_html_())
    check(page, 8)
    page.locator("[data-part=more]").click()
    check(page, 9)
    page.locator("[data-part=less]").press("Enter")
    check(page, 8)
    slider = page.locator("[data-part=count]")
    slider.press("ArrowRight")
    check(page, 9)
    slider.press("Home")
    check(page, 0)
    page.locator("[data-part=less]").click()
    check(page, 0)
    page.locator("[data-part=more]").click()
    check(page, 1)
    slider.press("End")
    check(page, 64)
    text = page.locator("p").inner_text()
    assert "Sobol’ paths: 192 edges, 0 collisions, 32 of 32 units." in text
    assert page.locator("[data-network=sobol] .last").count() == 3
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.xdist_group("browser")
def test_it_plays_pauses_and_stops_at_the_end(page):
    page.clock.install(time=0)
    page.clock.pause_at(10_000_000)  # from here on, time passes when the test says so
    page.set_content(PathsPicture(paths=12, shown=8)._repr_html_())
    play, slider = page.locator("[data-part=play]"), page.locator("[data-part=count]")
    play.press("Space")
    page.clock.run_for(700)
    check(page, 10)
    assert play.get_attribute("aria-label") == "pause"
    play.press("Space")
    page.clock.run_for(5000)
    assert slider.input_value() == "10"
    assert play.get_attribute("aria-label") == "play"
    play.press("Space")
    page.clock.run_for(5000)
    assert slider.input_value() == "12"
    assert play.get_attribute("aria-label") == "play"
    play.press("Space")  # from the beginning
    page.clock.run_for(350)
    check(page, 1)
    slider.press("ArrowRight")  # a hand at the slider stops it
    page.clock.run_for(5000)
    check(page, 2)


@pytest.mark.xdist_group("browser")
def test_two_pictures_do_not_disturb_each_other(page):
    text = PathsPicture()._repr_html_() + PathsPicture(methods=("lattice", "pixel"))._repr_html_()
    page.set_content(text)
    page.locator("[data-part=more]").nth(1).click()
    values = [box.input_value() for box in page.locator("[data-part=count]").all()]
    assert values == ["8", "9"]


@pytest.mark.xdist_group("browser")
@pytest.mark.parametrize("number", [0, 8, 30])
def test_without_javascript_the_first_networks_stand_still(page, still, number):
    text = PathsPicture(shown=number)._repr_html_()
    page.set_content(text)
    still.set_content(text)
    check(still, number)
    assert not still.locator("input").is_visible(), "a control that does nothing"
    assert still.locator("p").inner_text() == page.locator("p").inner_text()
    for kind, names in ((".edge", ("y1", "x2")), (".last", ("y1", "y2")), (".unit", ("cx", "cy"))):
        places = [
            sorted([float(x.get_attribute(n)) for n in names] for x in p.locator(kind).all())
            for p in (page, still)
        ]
        assert places[0] == places[1]


def test_the_picture_asks_nobody():
    text = PathsPicture()._repr_html_()
    assert not re.search(r"https?:|src=|import |url\(", text)


def test_what_the_picture_refuses():
    with pytest.raises(ValueError, match="shown must be in"):
        PathsPicture(paths=5, shown=6)
    with pytest.raises(ValueError, match="no method"):
        PathsPicture(methods=("uniform", "halton"))
    assert "one by one" in repr(PathsPicture())
