import html
import json
import re

import pytest
import torch

from mcnn.density.picture import NeuronPicture, example
from mcnn.density.theory import VARIANCES


def neuron(shown):
    return json.loads(html.unescape(re.search(r'data-neuron="([^"]*)"', shown)[1]))


def counts(weight, xi):
    """Count by hand: every sample looks for its piece."""
    edges = weight.abs().cumsum(0) / weight.abs().sum()
    found = [0] * len(weight)
    for x in xi:
        i = next(k for k, edge in enumerate(edges.tolist()) if x < edge)
        found[i] += 1 if weight[i] > 0 else -1
    return [c for c in found if c]


def drawn(texts):
    return [int(t.replace("\N{MINUS SIGN}", "-")) for t in texts]


def test_still_picture_counts_the_samples_that_it_shows():
    picture = example()
    shown = picture._repr_html_()
    u = neuron(shown)["offsets"][: picture.samples]
    xi = [(k + v) / picture.samples for k, v in enumerate(u)]
    group = re.search(r'data-part="counts">(.*?)</g>', shown, re.S)[1]
    assert drawn(re.findall(r">([^<]+)</text>", group)) == counts(picture.weight.double(), xi)


def test_wrong_neurons_are_refused():
    one = torch.ones(3)
    with pytest.raises(ValueError, match=r"both be \[n\]"):
        NeuronPicture(one, torch.ones(2))
    with pytest.raises(ValueError, match="zero"):
        NeuronPicture(torch.tensor([1.0, 0.0]), torch.ones(2))
    with pytest.raises(ValueError, match="1 to 64, got 65"):
        NeuronPicture(one, one, samples=65)


@pytest.mark.xdist_group("browser")
def test_the_page_counts_as_the_library_does(browser_page):
    picture = example()
    shown = picture._repr_html_()
    browser_page.set_content(shown)
    weight, u = picture.weight.double(), neuron(shown)["offsets"]
    slider = browser_page.locator("[data-part=count]")
    for method in VARIANCES:
        browser_page.locator(f"input[value={method}]").check()
        slider.press("ArrowRight")
        n = int(slider.input_value())
        points = {
            "iid": u[:n],
            "jittered": [(k + u[k]) / n for k in range(n)],
            "systematic": [(k + u[0]) / n for k in range(n)],
        }
        texts = browser_page.locator("[data-part=counts] text").all_text_contents()
        expected = counts(weight, points[method])
        assert drawn(texts) == expected
        told = browser_page.locator("[role=status]").inner_text()
        assert f"{n} samples" in told
        assert f"Hit: {len(expected)} of 10 weights" in told
    assert n == picture.samples + 3
    # Numbers at random would give the same samples once in a while.
    browser_page.evaluate("() => { let u = 0.4; Math.random = () => (u = (u + 0.618034) % 1); }")
    browser_page.locator("[data-part=again]").press("Enter")
    assert browser_page.locator("[role=status]").inner_text() != told
