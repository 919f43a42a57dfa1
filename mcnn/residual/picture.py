"""A flow that the step size bends, drawn by the page itself: no kernel, no network."""

import json
from dataclasses import dataclass
from string import Template

import torch
from torch import Tensor
from torchdiffeq import odeint

_MOST = 32  # steps at the right end of the slider
_TIME = 6.0
_FINE = 512  # steps of RK4 that stand for the flow itself
# The frame: wide over high, at least how far up, room around the layers, a dot's share of it.
_ASPECT, _LEAST, _MARGIN, _DOT = 1.24, 2.1, 1.06, 0.024

_PAGE = Template("""
<div class="mcnn-flow" data-flow='$data'>
<style>
.mcnn-flow { max-width: 30rem; margin: 0 auto; font-variant-numeric: tabular-nums; }
.mcnn-flow svg { display: block; width: 100%; height: auto; }
.mcnn-flow polyline { fill: none; vector-effect: non-scaling-stroke; }
.mcnn-flow .true { stroke: #808080; stroke-width: 5px; }
.mcnn-flow .made { stroke: #d1730c; stroke-width: 3px; }
.mcnn-flow circle { fill: #d1730c; }
.mcnn-flow .from { fill: currentColor; }
.mcnn-flow [data-part=steer] { display: none; }
.mcnn-flow[data-ready] [data-part=steer] { display: block; margin: .4rem 0; }
.mcnn-flow fieldset { border: 0; margin: 0; padding: 0; display: flex;
  flex-wrap: wrap; gap: 0 1rem; }
.mcnn-flow label { display: flex; gap: .4rem; align-items: center; min-height: 2rem; }
.mcnn-flow input[type=range] { flex: 1; min-width: 0; }
.mcnn-flow p { margin: .3rem 0; }
</style>
<svg data-part="view" viewBox="$view" role="img" aria-label="Layers as steps along a flow">
<g transform="scale(1 -1)">
<polyline class="true" points="$true"/>
<polyline class="made" data-part="made" points="$made"/>
<g data-part="dots">$dots</g>
<circle class="from" data-part="from" cx="$x0" cy="$y0" r="$big"/>
</g>
</svg>
<div data-part="steer">
<label><span>layers</span><input type="range" data-part="steps" min="2" max="$most" value="$steps"
aria-label="number of layers"><output></output></label>
<fieldset aria-label="solver">$solvers</fieldset>
</div>
<p data-part="text" role="status">$text</p>
<script>
document.querySelectorAll(".mcnn-flow:not([data-ready])").forEach(function (box) {
  box.dataset.ready = "yes";
  const data = JSON.parse(box.dataset.flow), part = n => box.querySelector("[data-part=" + n + "]");
  const steps = part("steps"), add = (a, s, b) => [a[0] + s * b[0], a[1] + s * b[1]];
  const f = function (a) {
    const hidden = data.first.map(w => Math.max(0, w[0] * a[0] + w[1] * a[1]));
    return data.second.map(w => w.reduce((s, v, i) => s + v * hidden[i], 0));
  };
  const rules = {
    euler: (a, h) => add(a, h, f(a)),
    midpoint: (a, h) => add(a, h, f(add(a, h / 2, f(a)))),
    rk4: function (a, h) {
      const k1 = f(a), k2 = f(add(a, h / 2, k1)), k3 = f(add(a, h / 2, k2)), k4 = f(add(a, h, k3));
      return add(add(add(add(a, h / 6, k1), h / 3, k2), h / 3, k3), h / 6, k4);
    },
  };
  box.querySelectorAll("input[type=radio]").forEach(r => {
    r.name = "mcnn-flow-" + document.querySelectorAll(".mcnn-flow[data-ready]").length;
  });
  box.querySelector("input[value=euler]").checked = true;
  function draw() {
    const n = +steps.value, h = data.time / n, way = [data.start];
    const rule = rules[box.querySelector("input[type=radio]:checked").value];
    for (let k = 0; k < n; k++) way.push(rule(way[k], h));
    const far = Math.max($least, ...way.map(a =>
      $margin * Math.max(Math.abs(a[0]) / $aspect, Math.abs(a[1]))));
    const frame = [-$aspect * far, -far, 2 * $aspect * far, 2 * far];
    part("view").setAttribute("viewBox", frame.join(" "));
    part("from").setAttribute("r", $dot * 2 * far);
    part("made").setAttribute("points", way.map(a => a.join()).join(" "));
    part("dots").innerHTML = way.map(a =>
      '<circle cx="' + a[0] + '" cy="' + a[1] + '" r="' + $dot * far + '"/>').join("");
    const end = way[n], off = Math.hypot(end[0] - data.end[0], end[1] - data.end[1]);
    steps.nextElementSibling.textContent = n;
    part("text").textContent = n + " layers, each a step of h = " + h.toFixed(3)
      + ": the last one is off the flow by " + off.toPrecision(2) + ".";
  }
  box.addEventListener("input", draw);
  draw();
});
</script>
</div>
""")


@dataclass(frozen=True)
class FlowPicture:
    """An interactive picture of :class:`mcnn.residual.ResidualODE` in the plane.

    The flow of :math:`a' = W^2 max{0, W^1 a}` in grey, the layers of a network along it in orange.
    A slider sets the number of layers, and with it the step; buttons choose the solver.
    Without JavaScript the first network stands still.

    Attributes
    ----------
    first, second
        The matrices, [hidden, 2] and [2, hidden].
    start
        [2], where the flow begins.
    steps
        At first, 2 to 32.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """

    first: Tensor
    second: Tensor
    start: Tensor
    steps: int = 12

    def __post_init__(self) -> None:
        hidden = self.first.shape[0]
        if (
            self.first.shape != (hidden, 2)
            or self.second.shape != (2, hidden)
            or self.start.shape != (2,)
        ):
            raise ValueError(
                f"first must be [hidden, 2], second [2, hidden], start [2]; got "
                f"{tuple(self.first.shape)}, {tuple(self.second.shape)}, {tuple(self.start.shape)}"
            )

    def _repr_html_(self) -> str:
        true, made = self._way("rk4", _FINE), self._way("euler", self.steps)
        data = {
            "first": self.first.tolist(),
            "second": self.second.tolist(),
            "start": self.start.tolist(),
            "end": true[-1],
            "time": _TIME,
        }
        off = torch.tensor(true[-1]).dist(torch.tensor(made[-1]))
        far = max([_LEAST, *(_MARGIN * max(abs(x) / _ASPECT, abs(y)) for x, y in made)])
        names = {"euler": "Euler", "midpoint": "midpoint", "rk4": "RK4"}
        return _PAGE.substitute(
            data=json.dumps(data),
            true=_points(true[::4]),
            made=_points(made),
            dots="".join(
                f'<circle cx="{x:.3f}" cy="{y:.3f}" r="{_DOT * far:.3f}"/>' for x, y in made
            ),
            view=f"{-_ASPECT * far:.3f} {-far:.3f} {2 * _ASPECT * far:.3f} {2 * far:.3f}",
            big=f"{2 * _DOT * far:.3f}",
            aspect=_ASPECT,
            least=_LEAST,
            margin=_MARGIN,
            dot=_DOT,
            x0=made[0][0],
            y0=made[0][1],
            steps=self.steps,
            most=_MOST,
            solvers="".join(
                f'<label><input type="radio" value="{value}"><span>{name}</span></label>'
                for value, name in names.items()
            ),
            text=f"{self.steps} layers, off the flow by {off:.2g}.",
        ).strip()

    def _way(self, solver: str, steps: int) -> list[list[float]]:
        """Return [steps + 1, 2]: where the layers of a network lead."""
        first, second = self.first.double(), self.second.double()

        def field(t: Tensor, a: Tensor) -> Tensor:
            return second @ (first @ a).clamp_min(0)  # [2]

        times = torch.linspace(0, _TIME, steps + 1, dtype=torch.float64)
        return odeint(field, self.start.double(), times, method=solver).tolist()

    def __repr__(self) -> str:
        return "layers along a flow: a slider bends them in a browser"


def example() -> FlowPicture:
    """Return the flow of the book: a spiral with a kink at either axis."""
    turn = torch.tensor([[-0.25, -1.1], [1.1, -0.25]], dtype=torch.float64)
    first = torch.cat([torch.eye(2), -torch.eye(2)]).double()  # [4, 2]: a = max{0,a} - max{0,-a}
    second = torch.cat([turn, -0.75 * turn], 1)  # [2, 4]
    return FlowPicture(first, second, torch.tensor([1.8, 0.0], dtype=torch.float64))


def _points(way: list[list[float]]) -> str:
    return " ".join(f"{x:.3f},{y:.3f}" for x, y in way)
