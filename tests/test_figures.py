"""One look for all figures: what the table of methods promises, and labels that do not collide."""

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text

from mcnn import density, figures, sampling
from mcnn.errors import UsageError
from mcnn.stats import interval

PLACES = st.lists(st.floats(0, 1), min_size=1, max_size=9)


@pytest.fixture
def ax():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def luminance(colour):
    values = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return linear @ (0.2126, 0.7152, 0.0722)


def test_text_is_legible_on_a_light_page():
    assert 1.05 / (luminance(figures.GREY) + 0.05) >= 4.5


def test_methods_use_the_palette_and_are_told_apart():
    for name, look in figures.METHODS.items():
        assert look.colour in figures.PALETTE, name
        assert look.marker in figures.MARKERS, name
        assert "-" not in look.label or " " in look.label or look.label[0].isupper(), name
    for together in (
        ("iid", "jittered", "systematic", "van-der-corput"),
        ("random", "lfsr", "jittered", "sobol", "lattice"),
        ("random", "jittered", "sobol-nested", "sobol-linear", "lattice", "lattice-tent"),
        ("uniform", "bidirectional", "backward", "permutation", "sobol"),
        ("partition", "shared", "dropout", "keep-one"),
        ("euler", "midpoint", "rk4", "euler, random steps", "dopri5"),
    ):
        looks = [figures.METHODS[name] for name in together]
        assert len({(x.colour, x.line) for x in looks}) == len(looks), together
        assert len({x.label for x in looks}) == len(looks), together


def test_a_method_is_drawn_alike_everywhere(ax):
    figures.band(ax, [1, 2], [[1.0, 2.0], [2.0, 3.0]], "sobol")
    figures.bars(ax, [0, 1], [[1.0, 2.0], [2.0]], "sobol")
    line, points = ax.lines[0], ax.containers[0].lines[0]
    for drawn in (line, points):
        assert drawn.get_color() == figures.PALETTE["orange"]
        assert drawn.get_marker() == "s"
    assert line.get_label() == ax.containers[0].get_label() == "Sobol'"
    assert figures.style("sobol", label="x")["label"] == "x"
    with pytest.raises(UsageError, match="no method 'sobbol'"):
        figures.style("sobbol")


def test_bars_are_intervals_and_one_seed_has_none(ax):
    values = [[1.0, 2.0, 4.0], [3.0]]
    figures.bars(ax, ["a", "b"], values, "seeds")
    ends = ax.containers[0].lines[2][0].get_segments()
    expected = interval(values[0])
    assert [float(x) for x in ends[0][:, 0]] == pytest.approx([expected.low, expected.high])
    assert [float(x) for x in ends[1][:, 0]] == [3.0, 3.0]


@given(PLACES, st.data())
def test_places_are_moved_apart_in_their_order(places, data):
    heights = data.draw(st.lists(st.floats(0.01, 0.2), min_size=len(places), max_size=len(places)))
    moved = figures.spread(places, heights)
    order = np.argsort(places, kind="stable")
    placed, tall = np.array(moved)[order], np.array(heights)[order]
    assert (np.diff(placed) >= (tall[1:] + tall[:-1]) / 2 - 1e-3).all()
    if min(np.diff(np.sort([-1.0, *places, 2.0]))) >= max(heights):  # nothing to do
        assert moved == pytest.approx(places)


def test_lines_that_end_together_have_labels_apart(ax):
    for number in range(4):
        ax.plot([0, 1], [0.1 * number, 0.5], label=f"line\n{number}")
    ax.plot([0, 1], [0, 0], label="_hidden")
    ax.set(xlim=(0, 1), ylim=(0, 1))
    figures.label_lines(ax)
    assert [text.get_text() for text in ax.texts] == [f"line\n{n}" for n in range(4)]
    ax.figure.canvas.draw()
    boxes = [Text.get_window_extent(text) for text in ax.texts]  # without the line that leads there
    boxes.sort(key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 + 1 for low, high in pairwise(boxes))
    assert [t.get_color() for t in ax.texts] == [line.get_color() for line in ax.lines[:4]]


def test_a_line_that_ends_or_leaves_inside_the_frame_is_labelled_there(ax):
    ax.plot([0, 0.2, 0.4], [0.5, 0.5, 0.5], label="short")
    ax.plot([0, 0.2, 0.4], [0.5, 0.3, -9], label="leaves")
    ax.plot([0, 1], [np.nan, np.nan], label="nowhere")
    ax.set(xlim=(0, 1), ylim=(0, 1))
    figures.label_lines(ax)
    places = {text.get_text(): text.xy for text in ax.texts}
    assert places == {"short": pytest.approx((0.4, 0.5)), "leaves": pytest.approx((0.2, 0.3))}


def test_the_unit_interval_counts_as_the_sampler_does():
    weight = torch.tensor([[0.9, -0.3, 0.0, 0.1, -0.5, 0.2]])  # [1, 6]
    counts = density.sample_counts(weight, samples=8, seed=3)[0].tolist()
    xi = sampling.points(8, 1, "jittered", seed=3).flatten().tolist()
    _, ax = plt.subplots()
    figures.unit_interval(ax, weight[0].tolist(), xi)
    below = [t for t in ax.texts if t.get_position()[1] < 0 and t.get_text() != "counts"]
    assert [int(t.get_text().replace("\N{MINUS SIGN}", "-")) for t in below] == counts
    with pytest.raises(ValueError, match="no density"):
        figures.unit_interval(ax, [0.0, 0.0], xi)
    plt.close()
