"""One look for all figures: transparent, in mid tones that read on light and dark pages alike."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from cycler import cycler

from mcnn.stats import interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREY = "#808080"  # contrast 3.9:1 on white, 4.6:1 on the dark page
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


def band(ax: "Axes", x: Sequence[float], values: Sequence[Sequence[float]], label: str) -> None:
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
        For the legend.
    """
    intervals = [interval(v) for v in values]
    (line,) = ax.plot(x, [i.mean for i in intervals], label=label)
    low, high = np.array([i.low for i in intervals]), np.array([i.high for i in intervals])
    if np.isfinite(low).all():
        ax.fill_between(x, low, high, color=line.get_color(), alpha=0.25, linewidth=0)


def unit_interval(ax: "Axes", density: Sequence[float], samples: Sequence[float]) -> None:
    """Draw a discrete density as pieces of the unit interval, and samples that fall into them.

    Parameters
    ----------
    ax
        Where to draw.
    density
        [n] probabilities, which sum to 1.
    samples
        [S] numbers in [0, 1).
    """
    edges = np.concatenate([[0.0], np.cumsum(density)])
    colours = list(PALETTE.values())
    for i, (left, width) in enumerate(zip(edges[:-1], density, strict=True)):
        colour = colours[i % len(colours)]
        ax.barh(0, width, left=left, height=0.5, color=colour, alpha=0.55, linewidth=0)
        ax.text(left + width / 2, 0, str(i + 1), ha="center", va="center")
    ax.plot(samples, np.full(len(samples), 0.45), linestyle="none", marker="v", color=GREY)
    ax.set(xlim=(0, 1), ylim=(-0.3, 0.6), yticks=[])
    ax.grid(visible=False)
    ax.spines["left"].set_visible(False)
