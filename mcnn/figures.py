"""One look for all figures: transparent, with one colour and marker per method, book-wide.

Text is dark enough for a light page; on a dark one the book's style sheet turns lightness around.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mcnn.errors import naming_extra, unknown
from mcnn.stats import interval

with naming_extra():
    import matplotlib as mpl
    from cycler import cycler

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

GREY = "#666666"  # contrast 5.7:1 on white
# Okabe and Ito's colours, those that read on both grounds, evened out in lightness.
PALETTE = {
    "blue": "#2b83ba",
    "orange": "#d1730c",
    "green": "#1b9e77",
    "red": "#d6506a",
    "purple": "#9467bd",
    "grey": GREY,
}
MARKERS = ("o", "s", "^", "D", "v", "P")


class Look(NamedTuple):
    """How a method is called and drawn wherever it appears."""

    label: str
    colour: str
    marker: str
    line: str = "-"


# Blue is independent sampling, orange is the talk's choice or a Sobol' sequence, green is the
# regular rule, purple what comes between, red what the others are compared with.
METHODS = {
    # points and samples
    "iid": Look("iid", "blue", "o"),
    "random": Look("random", "blue", "o"),
    "lfsr": Look("shift register", "grey", "^", "--"),
    "jittered": Look("jittered", "purple", "v"),
    "systematic": Look("systematic", "green", "D"),
    "van-der-corput": Look("van der Corput", "orange", "s"),
    "sobol": Look("Sobol'", "orange", "s"),
    "sobol-nested": Look("Sobol', nested", "orange", "s"),
    "sobol-linear": Look("Sobol', linear", "red", "P", "--"),
    "lattice": Look("lattice", "green", "D"),
    "lattice-tent": Look("lattice, tent", "green", "D", "--"),
    "lattice-equal": Look("lattice, equal weights", "red", "P"),
    "gauss": Look("Gauss", "grey", "^"),
    # paths
    "uniform": Look("uniform", "blue", "o"),
    "pixel": Look("pixel", "grey", "^"),
    "backward": Look("backward", "green", "D", "--"),
    "bidirectional": Look("bidirectional", "red", "P"),
    "permutation": Look("permutation", "purple", "v", "--"),
    # masks
    "partition": Look("partition", "orange", "s"),
    "shared": Look("dropout, masks of batches", "blue", "o"),
    "dropout": Look("dropout, masks of examples", "green", "D"),
    "hashed": Look("partition, masks of examples", "purple", "v"),
    "keep-one": Look("keep one part", "grey", "^", "--"),
    # solvers, and what networks were trained with
    "euler": Look("Euler", "blue", "o"),
    "midpoint": Look("midpoint", "green", "D"),
    "rk4": Look("RK4", "orange", "s"),
    "verlet": Look("leapfrog", "purple", "v"),
    "euler, random steps": Look("Euler, 4 to 16 steps", "red", "P"),
    "dopri5": Look("adaptive", "purple", "v"),
    # what needs no training, and peers of the field
    "sampled, jittered": Look("jittered", "purple", "v"),
    "sampled, systematic": Look("systematic", "green", "D"),
    "sampled, systematic, optimal density": Look("systematic, optimal", "orange", "s"),
    "nearest": Look("nearest", "grey", "^"),
    "nearest, least squares": Look("nearest, least squares", "grey", "^", "--"),
    "stochastic": Look("stochastic rounding", "blue", "o"),
    "ternary threshold": Look("ternary threshold", "blue", "^", "none"),
    "largest, each tensor": Look("largest of the layer", "red", "P"),
    "largest, each row": Look("largest of each neuron", "red", "P", "--"),
    "largest weights": Look("largest weights", "red", "P"),
    "largest, rounded": Look("largest, rounded", "red", "P", "--"),
    "walks, stratified": Look("walks, stratified", "orange", "s"),
    "walks, original weights": Look("walks, original weights", "orange", "s", "--"),
    "walks, independent": Look("walks, independent", "blue", "o"),
    "each layer sampled": Look("each layer sampled", "purple", "v"),
    "set": Look("SET", "green", "D"),
    "rigl": Look("RigL", "red", "P"),
    "pruned": Look("pruned", "purple", "v"),
    "phew": Look("PHEW", "orange", "s"),
    "synflow": Look("SynFlow", "green", "D", "--"),
    "erk": Look("ERK", "purple", "v", "--"),
    "snip": Look("SNIP", "red", "P", "--"),
    "random mask": Look("random mask", "grey", "^", "--"),
    "shuffled": Look("as paths, moved", "red", "P", "--"),
    # networks and data sets
    "dense": Look("dense", "red", "P"),
    "mnist": Look("MNIST", "blue", "o"),
    "fashion-mnist": Look("Fashion-MNIST", "orange", "s"),
    "cifar10": Look("CIFAR-10", "green", "D"),
}


def style(method: str, **changes: object) -> dict[str, Any]:
    """Return how a method of :data:`METHODS` is drawn, as keywords of ``plot`` and ``errorbar``.

    Parameters
    ----------
    method
        A key of :data:`METHODS`.
    changes
        Keywords that take the place of the method's own.

    Raises
    ------
    UsageError
        If the method is not in the table.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    look = METHODS[method]
    own = {
        "label": look.label,
        "color": PALETTE[look.colour],
        "marker": look.marker,
        "linestyle": look.line,
    }
    return own | changes


def use_style() -> None:
    """Make matplotlib draw in the book's style from now on."""
    colours = list(PALETTE.values())
    mpl.rcParams.update(
        {
            "axes.prop_cycle": cycler(color=colours) + cycler(marker=MARKERS),
            "axes.edgecolor": GREY,
            "axes.labelcolor": GREY,
            "axes.titlecolor": GREY,
            "axes.facecolor": "none",
            "axes.grid": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "figure.constrained_layout.use": True,
            "figure.dpi": 120,
            "figure.facecolor": "none",
            "figure.figsize": (5.0, 3.4),  # so that its text is legible at the width of a phone
            "font.size": 10.5,
            "grid.color": GREY,
            "grid.alpha": 0.25,
            "legend.frameon": False,
            "legend.labelcolor": GREY,
            "lines.markersize": 5,
            "savefig.facecolor": "none",
            "savefig.transparent": True,
            "text.color": GREY,
            "xtick.color": GREY,
            "ytick.color": GREY,
        }
    )


def _look(label: str | None) -> dict[str, Any]:
    return style(label) if label in METHODS else {"label": label}


def band(
    ax: "Axes",
    x: Sequence[float],
    values: Sequence[Sequence[float]],
    label: str,
    method: str | None = None,
) -> None:
    """Draw the mean of several seeds with its 95 % interval.

    Parameters
    ----------
    ax
        Where to draw.
    x
        [n] abscissae.
    values
        [n][seeds] ordinates.
    label
        For the legend: a method of :data:`METHODS`, which is drawn in its own style, or any words.
    method
        The method whose style to draw in, if the label is other words.
    """
    intervals = [interval(v) for v in values]
    look = style(method, label=label) if method else _look(label)
    (line,) = ax.plot(x, [i.mean for i in intervals], **look)
    low, high = np.array([i.low for i in intervals]), np.array([i.high for i in intervals])
    if np.isfinite(low).all():
        ax.fill_between(x, low, high, color=line.get_color(), alpha=0.25, linewidth=0)


def unit_interval(ax: "Axes", weight: Sequence[float], samples: Sequence[float]) -> None:
    """Draw a neuron's weights as pieces of the unit interval, and samples that fall into them.

    A piece has the colour of its sign; below it stands how many samples hit it, with that sign.
    Thin lines part the interval into as many equal parts as there are samples.

    Parameters
    ----------
    ax
        Where to draw.
    weight
        [n] numbers, not all zero; their magnitudes are in proportion to the pieces.
    samples
        [S] numbers in [0, 1).

    Raises
    ------
    ValueError
        If all weights are zero.
    """
    size = np.abs(weight)
    if not size.sum() > 0:
        raise ValueError("no weight has a size above zero: there is no density to draw")
    edges = np.concatenate([[0.0], np.cumsum(size / size.sum())])
    # The piece of a sample is the last that begins at it or before: pieces of no length get none.
    counts = np.bincount(np.searchsorted(edges[1:-1], samples, "right"), minlength=len(size))
    for i, (left, right) in enumerate(pairwise(edges)):
        colour = PALETTE["orange" if weight[i] < 0 else "blue"]
        middle = (left + right) / 2
        ax.barh(0, right - left, left=left, height=0.5, color=colour, alpha=0.55, edgecolor="white")
        ax.text(middle, 0, str(i + 1), ha="center", va="center")
        sign = "\N{MINUS SIGN}" if weight[i] < 0 and counts[i] else ""
        ax.text(middle, -0.45, f"{sign}{counts[i]}", ha="center", va="center")
    parts = np.linspace(0, 1, len(samples) + 1)
    ax.vlines(parts, 0.3, 0.6, color=GREY, linewidth=0.6)
    ax.plot(samples, np.full(len(samples), 0.45), linestyle="none", marker="v", color=GREY)
    ax.text(-0.01, -0.45, "counts", ha="right", va="center")
    ax.set(xlim=(0, 1), ylim=(-0.65, 0.65), yticks=[])
    ax.grid(visible=False)
    ax.spines["left"].set_visible(False)


def label_lines(ax: "Axes", size: float = 9) -> None:
    """Write the label of each line at its right end, in its colour, where no two labels collide.

    It takes the place of a legend.
    A line that ends inside the frame has its label there, the others beside the frame.
    Limits and scales of the axes have to be set before.

    Parameters
    ----------
    ax
        Axes with labelled lines.
    size
        Of the text, in points.
    """
    ends = [end for end in map(partial(_end, ax), ax.lines) if end]
    panels = ax.get_gridspec().nrows if ax.get_gridspec() else 1
    line_height = 1.4 * size / 72 / (0.8 * ax.figure.get_size_inches()[1] / panels)
    beside = [end for end in ends if end.x > _INSIDE]
    heights = [line_height * (1 + end.label.count("\n")) for end in beside]
    places = spread([end.y for end in beside], heights)
    for end, place in zip(beside, places, strict=True):
        lead = {"arrowstyle": "-", "color": end.colour, "lw": 0.6, "shrinkA": 0, "shrinkB": 3}
        _write(ax, end, (1.04, place), "axes fraction", size, lead)
    for end in ends:
        if end.x <= _INSIDE:
            _write(ax, end, (7, 0), "offset points", size, None)


class _End(NamedTuple):
    """Where a line leaves the frame or ends, in fractions of the axes, and how it is called."""

    x: float
    y: float
    label: str
    colour: str


_INSIDE = 0.8  # what ends left of this has its label inside of the frame


def _end(ax: "Axes", line: "Line2D") -> _End | None:
    label = str(line.get_label())
    points = np.stack([np.asarray(v, float) for v in line.get_data()], 1)  # [n, 2]
    points = points[np.isfinite(points).all(1)]
    if label.startswith("_") or not len(points):
        return None
    placed = ax.transAxes.inverted().transform(ax.transData.transform(points))
    seen = placed[((placed > -0.02) & (placed < 1.02)).all(1)]
    x, y = (seen if len(seen) else placed)[-1]
    return _End(x, y, label, line.get_color())


def _write(
    ax: "Axes",
    end: _End,
    place: tuple[float, float],
    coordinates: str,
    size: float,
    lead: dict[str, Any] | None,
) -> None:
    ax.annotate(
        end.label,
        (end.x, end.y),
        xytext=place,
        xycoords="axes fraction",
        textcoords=coordinates,
        color=end.colour,
        fontsize=size,
        va="center",
        arrowprops=lead,
        annotation_clip=False,
    )


def spread(places: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Move what stands at places in [0, 1] apart, in its order and by as little as rounds find.

    Parameters
    ----------
    places
        [n] wanted, of centres.
    heights
        [n] of what stands there.

    Returns
    -------
    list of float
        [n] places; where the heights do not fit, they reach beyond the interval.
    """
    order = np.argsort(places, kind="stable")
    found = np.clip(np.asarray(places, float)[order], 0, 1)
    tall = np.asarray(heights, float)[order]
    gaps = (tall[1:] + tall[:-1]) / 2
    for _ in range(500):
        short = np.flatnonzero(gaps - np.diff(found) > 1e-9)
        if not len(short):
            break
        for i in short:
            half = max(0.0, gaps[i] - (found[i + 1] - found[i])) / 2
            found[i] -= half
            found[i + 1] += half
    moved = np.empty_like(found)
    moved[order] = found
    return moved.tolist()


def bars(
    ax: "Axes", places: Sequence[object], values: Sequence[Sequence[float]], label: str | None
) -> None:
    """Draw the mean of several seeds at each place of the vertical axis, with its 95 % interval.

    A single seed is a point without a bar.

    Parameters
    ----------
    ax
        Where to draw.
    places
        [n] ordinates, numbers or names.
    values
        [n][seeds] abscissae.
    label
        For the legend: a method of :data:`METHODS`, which is drawn in its own style, or any words.
    """
    found = [interval(v) for v in values]
    half = [i.high - i.mean if i.n > 1 else 0.0 for i in found]
    look = _look(label)
    look["linestyle"] = "none"
    ax.errorbar([i.mean for i in found], places, xerr=half, capsize=2, **look)
