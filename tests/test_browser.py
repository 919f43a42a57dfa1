"""Every page in a browser: light, dark and on a phone, with nothing from another machine."""

import os
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path

import pytest
from playwright.sync_api import Error, sync_playwright

SITE = Path(__file__).resolve().parents[1] / "_build" / "html"
ALL = (path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))
PAGES = sorted(name for name in ALL if not name.startswith("_static/") and name != "index.html")
CONTENT = [name for name in PAGES if "/" in name]
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
TABLET = {"width": 768, "height": 1024}
# axe-core leaves this rule out, as it is an experiment: a control is called what it shows.
AXE = """async () => {
    const options = {
        resultTypes: ["violations"], rules: {"label-content-name-mismatch": {enabled: true}},
    };
    const found = (await axe.run(document, options)).violations;
    return found.flatMap(v => v.nodes.map(n => v.id + ": " + n.target + ": " + n.failureSummary));
}"""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Chromium's own calls home are not the page's.
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")

pytestmark = pytest.mark.skipif(not PAGES, reason="no book in _build/html: run `make book`")


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        found = [path for path in map(shutil.which, BROWSERS) if path]
        try:
            browser = playwright.chromium.launch(
                executable_path=found[0] if found else None, args=list(QUIET)
            )
        except Error as error:
            if os.environ.get("MCNN_REQUIRE_BROWSER"):
                raise
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address():
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def look(browser, url):
    """Open a page and return it with what goes wrong on it from then on."""
    page = browser.new_page(color_scheme="light", viewport=WIDE)
    trouble = []
    home = url.split("/")[2]

    def asked(request):
        if request.url.split("/")[2] != home and not request.url.startswith(("data:", "blob:")):
            trouble.append(f"asks another machine: {request.url}")

    def answered(response):
        if response.status >= 400:
            trouble.append(f"{response.status}: {response.url}")

    page.on("request", asked)
    page.on("response", answered)
    page.on("requestfailed", lambda r: trouble.append(f"failed: {r.url}: {r.failure}"))
    page.on("console", lambda m: trouble.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.goto(url)
    page.evaluate("async () => { if (window.MathJax) await MathJax.startup.promise }")
    return page, trouble


@pytest.mark.parametrize("name", PAGES)
def test_page(browser, address, name):
    page, trouble = look(browser, f"{address}/{name}")
    page.wait_for_load_state("networkidle")
    _check_mathematics(page)
    _check_mathematics_is_needed(page)
    _check_tables_of_claims(page)
    _check_icons(page)
    _check_width(page)
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        page.wait_for_function("name => document.documentElement.dataset.theme == name", arg=theme)
    grounds = "all => all.map(image => getComputedStyle(image).backgroundColor)"
    assert set(page.eval_on_selector_all(".bd-article img", grounds)) <= {"rgba(0, 0, 0, 0)"}
    for size in (TABLET, PHONE):
        page.set_viewport_size(size)
        _check_width(page)
    assert not trouble
    page.close()


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_wrong(browser, address, name):
    page, _ = look(browser, f"{address}/{name}")
    page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text())
    for theme, size in (("light", WIDE), ("dark", PHONE)):
        page.emulate_media(color_scheme=theme)
        page.set_viewport_size(size)
        page.wait_for_timeout(500)  # the theme marks what scrolls a moment after a change of size
        assert page.evaluate(AXE) == [], f"{theme}, {size['width']} px"
    page.close()


def test_the_pictures_work_from_the_keyboard(browser, address):
    """Every control can be reached by Tab, and moving it changes what its picture says."""
    page, trouble = look(browser, f"{address}/book/play.html")
    figures = page.locator("figure.mcnn-picture").all()
    assert len(figures) == 6
    for figure in figures:
        told = figure.locator("[role=status]")
        for control in figure.locator("input[type=range]").all():
            before = told.inner_text()
            control.focus()
            page.keyboard.press("ArrowRight")
            assert told.inner_text() != before
        for _ in figure.locator("input[type=radio]").all()[1:]:
            before = told.inner_text()
            figure.locator("input[type=radio]:checked").focus()
            page.keyboard.press("ArrowRight")
            assert told.inner_text() != before, "the arrow chooses the next way"
    assert not trouble
    page.close()


def test_the_pictures_stand_still_without_javascript(browser, address):
    context = browser.new_context(java_script_enabled=False, viewport=PHONE)
    page = context.new_page()
    page.goto(f"{address}/book/play.html")
    for figure in page.locator("figure.mcnn-picture").all():
        assert figure.locator("svg").first.is_visible()
        assert figure.locator("svg :is(rect, path, circle, polyline)").count() > 4
        assert figure.locator("[role=status]").inner_text()
        assert not figure.locator("[data-part=steer]").is_visible(), "a control that does nothing"
    context.close()


def test_the_ledger_can_be_filtered(browser, address):
    page, trouble = look(browser, f"{address}/book/ledger.html#claim-density-mnist")
    assert page.locator("#claim-density-mnist").is_visible()
    rows = page.locator("table.mcnn-ledger tbody tr")
    everything = rows.count()
    page.get_by_label("words").fill("paths")
    some = page.locator("table.mcnn-ledger tbody tr:not([hidden])").count()
    assert 0 < some < everything
    assert f"{some} of {everything} claims" in page.locator(".mcnn-filter output").inner_text()
    page.get_by_label("verdict").select_option("reproduced")
    shown = page.locator("table.mcnn-ledger tbody tr:not([hidden]) .verdict").all_inner_texts()
    assert {text.split(" ", 1)[1] for text in shown} == {"reproduced"}
    assert not trouble
    page.close()


@pytest.mark.parametrize("name", CONTENT)
def test_page_opened_from_disk(browser, name):
    page, trouble = look(browser, (SITE / name).as_uri())
    _check_mathematics(page)
    assert not trouble
    page.close()


def test_index_leads_to_the_first_page(browser, address):
    page = browser.new_page()
    page.goto(f"{address}/index.html")
    page.wait_for_url("**/book/intro.html")
    page.close()


def _check_width(page):
    needed, there = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert needed <= there, f"{needed} px wide on a screen of {there}"


def _check_icons(page):
    """Only the icons that pages name are kept: each of them must have something to draw."""
    drawn = page.eval_on_selector_all(
        "svg.svg-inline--fa path", "all => all.map(p => p.getAttribute('d'))"
    )
    assert len(drawn) > 3
    assert all(drawn)


def _check_mathematics(page):
    formulas = page.query_selector_all(".bd-article .math")
    assert all(formula.query_selector("mjx-container svg") for formula in formulas)
    assert not page.query_selector_all("mjx-merror, [data-mjx-error]")


def _check_mathematics_is_needed(page):
    """It is loaded only where there is some."""
    formulas = page.locator(".bd-article .math").count()
    assert page.evaluate("Boolean(window.MathJax)") == bool(formulas)


def _check_tables_of_claims(page):
    """They are whole on a desktop."""
    told = page.locator(".pst-scrollable-table-container:has(th:last-child:text-is('verdict'))")
    hidden = told.evaluate_all("all => all.map(box => box.scrollWidth - box.clientWidth)")
    assert hidden == [0] * len(hidden)


def test_no_two_ideas_of_the_map_share_a_place(browser, address):
    page, _ = look(browser, f"{address}/book/intro.html")
    places = "all => all.map(b => [b.x.baseVal.value, b.y.baseVal.value].join())"
    boxes = page.eval_on_selector_all(".mcnn-ideas rect", places)
    assert len(boxes) == len(set(boxes)) > 9
    texts = "all => all.map(t => { const r = t.getBoundingClientRect(); "
    texts += "return [r.left, r.right, r.top, r.bottom] })"
    labels = page.eval_on_selector_all(".mcnn-ideas .why", texts)
    for i, (left, right, top, bottom) in enumerate(labels):
        for west, east, north, south in labels[:i]:
            apart = left > east or right < west or top > south - 2 or bottom < north + 2
            assert apart, "two labels collide"
    page.close()
