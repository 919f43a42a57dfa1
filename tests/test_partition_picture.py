import re

import pytest

from mcnn.partition.picture import MasksPicture, example


def masks(shown, name):
    """Return [steps][units]: which unit is left out in which step."""
    grid = re.search(rf'data-masks-of="{name}">.*?</svg>', shown, re.S)[0]
    out = ["out" in c for c in re.findall(r'<rect[^>]* class="([^"]*)"', grid)]
    units = example().units
    return [out[k : k + units] for k in range(0, len(out), units)]


def test_every_unit_has_its_turn_once_a_cycle():
    picture = MasksPicture(parts=5)
    steps = masks(picture._repr_html_(), "partition")
    for begin in range(0, picture.steps, 5):
        assert [sum(unit) for unit in zip(*steps[begin : begin + 5], strict=True)] == [1] * 12


def test_coins_come_up_at_their_rate():
    out = sum(map(sum, masks(MasksPicture(parts=2)._repr_html_(), "dropout")))
    assert abs(out / 360 - 1 / 2) < 0.1


def test_parts_off_the_slider_are_refused():
    with pytest.raises(ValueError, match="2 to 6, got 1"):
        MasksPicture(parts=1)


@pytest.mark.xdist_group("browser")
def test_the_page_takes_turns_as_python_does(browser_page):
    browser_page.set_content(MasksPicture(parts=3)._repr_html_())
    browser_page.locator("[data-part=parts]").press("ArrowRight")
    expected = MasksPicture(parts=4)._repr_html_()
    for name in ("dropout", "partition"):
        cells = browser_page.locator(f"[data-masks-of={name}] rect")
        classes = cells.evaluate_all("all => all.map(c => c.getAttribute('class'))")
        assert ["out" in c for c in classes] == [
            out for step in masks(expected, name) for out in step
        ]
    told = browser_page.locator("[role=status]").inner_text()
    assert "takes 96" in told, "8 cycles have begun, of 12 numbers each"
