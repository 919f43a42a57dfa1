import re
from dataclasses import replace

import pytest
import torch

from mcnn.residual.picture import FlowPicture, example


def euler(picture, steps, time=6.0):
    way = [picture.start]
    for _ in range(steps):
        hidden = (picture.first @ way[-1]).clamp_min(0)
        way.append(way[-1] + time / steps * picture.second @ hidden)
    return torch.stack(way)


def points(text):
    return torch.tensor([[float(v) for v in p.split(",")] for p in text.split()]).double()


def test_still_picture_is_a_residual_network():
    picture = example()
    made = re.search(r'data-part="made" points="([^"]+)"', picture._repr_html_())[1]
    torch.testing.assert_close(points(made), euler(picture, picture.steps), rtol=0, atol=1e-3)


def framed(view, way):
    left, top, wide, high = map(float, view.split())
    x, y = way[:, 0], -way[:, 1]  # the picture's second axis points down
    inside = [x >= left, x <= left + wide, y >= top, y <= top + high]
    return bool(torch.stack(inside).all())


def test_all_layers_are_in_the_frame():
    for steps in (2, 5, 12, 32):
        picture = replace(example(), steps=steps)
        view = re.search(r'viewBox="([^"]+)"', picture._repr_html_())[1]
        assert framed(view, euler(picture, steps))


@pytest.mark.xdist_group("browser")
def test_the_frame_follows_the_slider(browser_page):
    picture = example()
    browser_page.set_content(picture._repr_html_())
    browser_page.locator("[data-part=steps]").press("Home")
    view = browser_page.locator("[data-part=view]").get_attribute("viewBox")
    assert framed(view, euler(picture, 2))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"second \[2, hidden\]"):
        FlowPicture(torch.ones(4, 2), torch.ones(3, 2), torch.ones(2))


@pytest.mark.xdist_group("browser")
def test_the_page_takes_the_same_steps_and_better_solvers_stay_closer(browser_page):
    picture = example()
    browser_page.set_content(picture._repr_html_())
    browser_page.locator("[data-part=steps]").press("ArrowRight")
    made = browser_page.locator("[data-part=made]").get_attribute("points")
    torch.testing.assert_close(points(made), euler(picture, picture.steps + 1), rtol=0, atol=1e-6)
    off = []
    for solver in ("euler", "midpoint", "rk4"):
        browser_page.locator(f"input[value={solver}]").check()
        told = browser_page.locator("[role=status]").inner_text()
        off.append(float(re.search(r"off the flow by ([\d.e-]+)\.$", told)[1]))
    assert off[0] > 10 * off[1] > 10 * off[2]
