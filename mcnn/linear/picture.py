"""Connections against neurons, drawn by the page itself: no kernel, no network."""

from dataclasses import dataclass
from math import log10
from string import Template

_LEFT, _WIDE, _BOTTOM, _HIGH = 52, 330, 250, 225  # of the plot, in units of the drawing
_NEURONS, _CONNECTIONS = (1, 12), (1, 24)  # decades of the axes
BRAIN = (1e11, 1e4)  # the earlier deck: "about 10¹¹ nerve cells with to up to 10⁴ connections"

_PAGE = Template("""
<div class="mcnn-cost">
<style>
.mcnn-cost { max-width: 34rem; margin: 0 auto; font-variant-numeric: tabular-nums; }
.mcnn-cost svg { display: block; width: 100%; height: auto; }
.mcnn-cost text { font-size: 13px; fill: currentColor; text-anchor: middle; }
.mcnn-cost .start { text-anchor: start; } .mcnn-cost .end { text-anchor: end; }
.mcnn-cost .axis { stroke: #808080; fill: none; }
.mcnn-cost .dense { stroke: #d1730c; fill: none; stroke-width: 2; }
.mcnn-cost .sparse { stroke: #2b83ba; fill: none; stroke-width: 2; }
.mcnn-cost .here { stroke: currentColor; stroke-width: 2; fill: none; }
.mcnn-cost [data-part=steer] { display: none; }
.mcnn-cost[data-ready] [data-part=steer] { display: block; margin: .4rem 0; }
.mcnn-cost label { display: flex; gap: .6rem; align-items: center; min-height: 2rem; }
.mcnn-cost label span { flex: 0 0 9.5rem; } .mcnn-cost input { flex: 1; min-width: 0; }
.mcnn-cost p { margin: .3rem 0; }
</style>
<svg viewBox="0 0 400 292" role="img" aria-label="Connections against neurons">
<text class="start" x="4" y="14">connections</text>
$axes
<path class="dense" d="$dense"/><path class="sparse" data-part="line" d="$sparse"/>
<text class="end" x="$dense_x" y="$dense_y">all pairs, n²</text>
<text class="start" data-part="name" x="$name_x" y="$name_y">k per neuron, k n</text>
<circle cx="$brain_x" cy="$brain_y" r="4" fill="currentColor"/>
<text class="end" x="$label_x" y="$label_y">a brain, at most</text>
<circle class="here" data-part="many" r="6" cx="$x" cy="$many"/>
<circle class="here" data-part="few" r="6" cx="$x" cy="$few"/>
<text x="217" y="288">neurons n</text>
</svg>
<div data-part="steer">
<label><span>neurons</span><input type="range" data-part="neurons" min="1" max="11" step=".1"
value="$start" aria-label="neurons, as a power of ten"></label>
<label><span>weights per neuron</span><input type="range" data-part="fan" min="0" max="4" step=".1"
value="$fan" aria-label="weights per neuron, as a power of ten"></label>
</div>
<p data-part="text" role="status">$text</p>
<script>
document.querySelectorAll(".mcnn-cost:not([data-ready])").forEach(function (box) {
  box.dataset.ready = "yes";
  const part = n => box.querySelector("[data-part=" + n + "]");
  const set = (name, values) => Object.entries(values).forEach(v => part(name).setAttribute(...v));
  const x = e => $left + $wide * (e - $n0) / $ns, y = e => $bottom - $high * (e - $w0) / $ws;
  const show = e => e < 7 ? Math.round(10 ** e).toLocaleString("en")
    : (10 ** (e % 1)).toFixed(1) + " · 10"
      + String(Math.floor(e)).replace(/./g, d => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]);
  function draw() {
    const n = +part("neurons").value, k = Math.min(+part("fan").value, n);
    const end = 12;
    set("line", {d: "M" + x(k) + " " + y(2 * k) + "L" + x(end) + " " + y(end + k)});
    set("name", {y: y(9.2 + k) + 20});
    set("many", {cx: x(n), cy: y(2 * n)});
    set("few", {cx: x(n), cy: y(n + k)});
    part("text").textContent = show(n) + " neurons: " + show(2 * n)
      + " connections if all are joined, "
      + show(n + k) + " with " + show(k) + " each, " + show(n - k) + " times fewer.";
    part("neurons").setAttribute("aria-valuetext", show(n));
    part("fan").setAttribute("aria-valuetext", show(k));
  }
  box.addEventListener("input", draw);
  draw();
});
</script>
</div>
""")


@dataclass(frozen=True)
class CostPicture:
    """An interactive picture of what the talk wants to be linear: connections against neurons.

    Sliders set the number of neurons and of weights per neuron, both as powers of ten.
    Without JavaScript the first picture stands still. No neuron has more weights than there are
    neurons.

    Attributes
    ----------
    neurons, fan_in
        At first, as exponents of ten: 1 to 11, and 0 to 4.
    """

    neurons: float = 4.0
    fan_in: float = 1.5

    def _repr_html_(self) -> str:
        n, k = self.neurons, self.fan_in
        brain, each = map(log10, BRAIN)
        end = _NEURONS[1]
        return _PAGE.substitute(
            axes=_axes(),
            dense=f"M{_x(1):.1f} {_y(2):.1f}L{_x(end):.1f} {_y(2 * end):.1f}",
            sparse=f"M{_x(k):.1f} {_y(2 * k):.1f}L{_x(end):.1f} {_y(end + k):.1f}",
            dense_x=f"{_x(8.2) - 14:.1f}",
            dense_y=f"{_y(16.4):.1f}",
            name_x=f"{_x(9.2):.1f}",
            name_y=f"{_y(9.2 + k) + 20:.1f}",
            brain_x=f"{_x(brain):.1f}",
            brain_y=f"{_y(brain + each):.1f}",
            label_x=f"{_x(brain) + 20:.1f}",
            label_y=f"{_y(brain + each) - 10:.1f}",
            x=f"{_x(n):.1f}",
            many=f"{_y(2 * n):.1f}",
            few=f"{_y(n + k):.1f}",
            start=n,
            fan=k,
            text=f"10^{n:g} neurons, and 10^{k:g} weights for each.",
            left=_LEFT,
            wide=_WIDE,
            bottom=_BOTTOM,
            high=_HIGH,
            n0=_NEURONS[0],
            ns=_NEURONS[1] - _NEURONS[0],
            w0=_CONNECTIONS[0],
            ws=_CONNECTIONS[1] - _CONNECTIONS[0],
        ).strip()

    def __repr__(self) -> str:
        return "connections against neurons: sliders move them in a browser"


def example() -> CostPicture:
    """Return the picture that the book shows."""
    return CostPicture()


def _x(exponent: float) -> float:
    return _LEFT + _WIDE * (exponent - _NEURONS[0]) / (_NEURONS[1] - _NEURONS[0])


def _y(exponent: float) -> float:
    return _BOTTOM - _HIGH * (exponent - _CONNECTIONS[0]) / (_CONNECTIONS[1] - _CONNECTIONS[0])


def _axes() -> str:
    raised = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
    parts = [f'<path class="axis" d="M{_LEFT} 25V{_BOTTOM}H{_LEFT + _WIDE}"/>']
    for e in (2, 5, 8, 11):
        label = f"10{str(e).translate(raised)}"
        parts.append(f'<text x="{_x(e):.1f}" y="{_BOTTOM + 17}">{label}</text>')
    for e in (5, 10, 15, 20):
        label = f"10{str(e).translate(raised)}"
        parts.append(f'<text class="end" x="{_LEFT - 6}" y="{_y(e) + 4:.1f}">{label}</text>')
    return "".join(parts)
