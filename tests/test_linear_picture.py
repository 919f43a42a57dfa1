import pytest

from mcnn.linear.picture import CostPicture, example


@pytest.mark.xdist_group("browser")
def test_the_page_counts_connections(browser_page):
    browser_page.set_content(CostPicture(neurons=3.0, fan_in=2.0)._repr_html_())
    told = browser_page.locator("[role=status]")
    assert told.inner_text() == (
        "1,000 neurons: 1,000,000 connections if all are joined, 100,000 with 100 each, "
        "10 times fewer."
    )
    browser_page.locator("[data-part=neurons]").press("Home")
    assert "10 neurons: 100 connections if all are joined, 100 with 10 each" in told.inner_text()


def test_still_picture_has_both_lines_and_the_brain():
    shown = example()._repr_html_()
    assert shown.count("<circle") == 3
    assert "a brain, at most" in shown
