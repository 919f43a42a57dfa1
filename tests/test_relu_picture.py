import re
import shutil

import pytest
import torch

from mcnn import relu
from mcnn.relu.picture import HalfspacePicture

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def spiral(n=20):
    i = torch.arange(n, dtype=torch.float64)
    return torch.stack([i.mul(2.4).cos(), i.mul(2.4).sin()], 1) * (0.5 * (i + 0.5).sqrt())[:, None]


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


def drawn(page):
    circles = page.locator(".after").all()
    return torch.tensor(
        [[float(c.get_attribute(a)) for a in ("cx", "cy")] for c in circles], dtype=torch.float64
    )


def expected(points, degrees, offset):
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    normal = torch.stack([angle.cos(), angle.sin()])
    return relu.project_halfspace(points.mul(1000).round() / 1000, normal, offset)


@pytest.mark.xdist_group("browser")
def test_the_picture_projects_as_the_layer_does(page):
    points = spiral()
    page.set_content(HalfspacePicture(points, angle=30, offset=0.5)._repr_html_())
    torch.testing.assert_close(drawn(page), expected(points, 30, 0.5), rtol=0, atol=1e-9)
    active = (drawn(page) != points.mul(1000).round() / 1000).any(1).sum().item()
    assert f"active for {active} of 20 points" in page.locator("p").inner_text()
    # By keyboard: one step is one degree, and 0.05.
    page.locator("[data-part=angle]").press("ArrowRight")
    page.locator("[data-part=offset]").press("ArrowLeft")
    torch.testing.assert_close(drawn(page), expected(points, 31, 0.45), rtol=0, atol=1e-9)
    # By hand: drag the normal so that it points up.
    grip = page.locator("[data-grip=turn]").bounding_box()
    svg = page.locator("svg").bounding_box()
    page.mouse.move(grip["x"] + grip["width"] / 2, grip["y"] + grip["height"] / 2)
    page.mouse.down()
    for height in (60, 30, 10):  # the plane turns with it, so it takes several moves
        page.mouse.move(svg["x"] + svg["width"] / 2, svg["y"] + height, steps=3)
    page.mouse.up()
    degrees = int(page.locator("[data-part=angle]").input_value())
    assert 75 <= degrees <= 105
    torch.testing.assert_close(drawn(page), expected(points, degrees, 0.45), rtol=0, atol=1e-9)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.xdist_group("browser")
@pytest.mark.parametrize(("angle", "offset"), [(30, 0.5), (200, -0.75)])
def test_without_javascript_the_first_half_space_stands_still(page, still, angle, offset):
    text = HalfspacePicture(spiral(), angle=angle, offset=offset)._repr_html_()
    page.set_content(text)
    still.set_content(text)
    torch.testing.assert_close(drawn(still), expected(spiral(), angle, offset), rtol=0, atol=1e-9)
    for picture in (page, still):
        assert picture.locator(".before").count() == picture.locator(".way").count() == 20
    assert still.locator("p").inner_text() == page.locator("p").inner_text()
    for number in (0, 1):
        shown = [p.locator("output").nth(number).text_content() for p in (page, still)]
        assert shown[0] == shown[1]
    assert not still.locator("input").first.is_visible(), "a control that does nothing"
    for part, name in (("plane", "x1"), ("normal", "y2"), ("turn", "cx"), ("move", "y")):
        values = [
            float(p.locator(f"[data-part={part}]").get_attribute(name)) for p in (page, still)
        ]
        assert values[0] == pytest.approx(values[1])


def test_the_picture_asks_nobody():
    text = HalfspacePicture(spiral())._repr_html_()
    assert not re.search(r"https?:|src=|import |url\(", text)


def test_what_the_picture_refuses():
    with pytest.raises(ValueError, match=r"points must be \[n, 2\], got shape \(4, 3\)"):
        HalfspacePicture(torch.ones(4, 3))
    with pytest.raises(ValueError, match="points must be"):
        HalfspacePicture(torch.ones(0, 2))
    with pytest.raises(TypeError, match="floating point"):
        HalfspacePicture([[0, 1]])
