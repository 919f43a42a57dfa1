"""A neuron whose weights the reader samples, drawn by the page itself: no kernel, no network."""

import html
import json
from dataclasses import dataclass
from math import log
from string import Template

import torch
from torch import Tensor

from mcnn.density.counts import cumulative_mass
from mcnn.density.theory import VARIANCES, variance
from mcnn.sampling import uniforms

MOST = 64  # samples at the right end of the slider
_LEFT, _WIDE = 10, 380  # the unit interval, in units of the drawing
_COLOURS = {"iid": "#d6506a", "jittered": "#2b83ba", "systematic": "#1b9e77"}

_PAGE = Template("""
<div class="mcnn-neuron" data-neuron="$data">
<style>
.mcnn-neuron { max-width: 46rem; margin: 0 auto; font-variant-numeric: tabular-nums; }
.mcnn-neuron .pair { display: grid; gap: .5rem 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); }
.mcnn-neuron svg { display: block; width: 100%; height: auto; }
.mcnn-neuron text { font-size: 13px; fill: currentColor; text-anchor: middle; }
.mcnn-neuron .start { text-anchor: start; } .mcnn-neuron .end { text-anchor: end; }
.mcnn-neuron .axis { stroke: #808080; stroke-width: 1; fill: none; }
.mcnn-neuron .plus { fill: #2b83ba; } .mcnn-neuron .minus { fill: #d1730c; }
.mcnn-neuron .sample { stroke: currentColor; stroke-width: 1.2; }
.mcnn-neuron [data-part=samples] circle { fill: currentColor; }
.mcnn-neuron [data-part=here] { fill: none; stroke: currentColor; stroke-width: 2.5; }
.mcnn-neuron [data-part=steer] { display: none; }
.mcnn-neuron[data-ready] [data-part=steer] { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem;
  align-items: center; margin: .4rem 0; }
.mcnn-neuron fieldset { border: 0; margin: 0; padding: 0; display: flex; flex-wrap: wrap;
  gap: 0 1rem; }
.mcnn-neuron label { display: flex; gap: .4rem; align-items: center; min-height: 2rem; }
.mcnn-neuron .slide { flex: 1 1 14rem; } .mcnn-neuron .slide input { flex: 1; min-width: 0; }
.mcnn-neuron output { flex: 0 0 2ch; text-align: right; }
.mcnn-neuron button { min-height: 2.2rem; padding: 0 .7rem; cursor: pointer; color: inherit;
  background: transparent; border: 1px solid #808080; border-radius: .3rem; }
.mcnn-neuron p { margin: .3rem 0; }
</style>
<div class="pair">
<svg viewBox="0 0 400 215" role="img" aria-label="Samples fall on the weights of a neuron">
<text class="start" x="$left" y="20">samples ξ</text>
<g data-part="samples">$samples</g>
<g data-part="pieces">$pieces</g>
<g data-part="counts">$counts</g>
<text class="start" x="$left" y="190">0</text><text class="end" x="390" y="190">1</text>
<text x="200" y="190">counts, with the sign of the weight</text>
<rect class="plus" x="118" y="200" width="12" height="12"/>
<text class="start" x="135" y="211">positive</text>
<rect class="minus" x="208" y="200" width="12" height="12"/>
<text class="start" x="225" y="211">negative weights</text>
</svg>
<svg viewBox="0 0 400 215" role="img" aria-label="Error against number of samples">
<text class="start" x="8" y="14">error, relative to what the neuron computes</text>
$axes
$curves
<circle data-part="here" cx="$here_x" cy="$here_y" r="6"/>
<text x="190" y="212">samples</text>
</svg>
</div>
<div data-part="steer">
<label class="slide"><span>samples</span><input type="range" data-part="count" min="1" max="$most"
value="$shown" aria-label="number of samples"><output></output></label>
<fieldset aria-label="how the samples are placed">$methods</fieldset>
<button type="button" data-part="again">Draw again</button>
</div>
<p data-part="text" role="status">$text</p>
<script>
document.querySelectorAll(".mcnn-neuron:not([data-ready])").forEach(function (box) {
  box.dataset.ready = "yes";
  const neuron = JSON.parse(box.dataset.neuron);
  const part = n => box.querySelector("[data-part=" + n + "]");
  const w = neuron.weight, a = neuron.inputs, norm = w.reduce((s, v) => s + Math.abs(v), 0);
  const exact = w.reduce((s, v, i) => s + v * a[i], 0), count = part("count");
  let u = neuron.offsets, edge = 0;
  const edges = w.map(v => edge += Math.abs(v) / norm);
  // One name: the page may hold more than one neuron.
  const group = "mcnn-neuron-" + document.querySelectorAll(".mcnn-neuron[data-ready]").length;
  const method = () => box.querySelector("input[type=radio]:checked").value;
  const x = v => ($left + $wide * v).toFixed(2);

  function draw() {
    const n = +count.value, kind = method(), c = w.map(() => 0);
    let marks = "";
    for (let k = 0; k < n; k++) {
      const xi = kind === "iid" ? u[k] : (k + (kind === "jittered" ? u[k] : u[0])) / n;
      let i = edges.findIndex(p => xi < p);
      if (i < 0) i = w.length - 1;
      c[i] += Math.sign(w[i]);
      marks += (kind === "iid" ? "" : '<path class="axis" d="M' + x(k / n) + ' 30v18"/>')
        + '<path class="sample" d="M' + x(xi) + ' 60V96"/><circle cx="' + x(xi)
        + '" cy="58" r="3.5"/>';
    }
    part("samples").innerHTML = marks;
    part("counts").innerHTML = c.map((v, i) => v === 0 ? "" : '<text x="'
      + x(edges[i] - Math.abs(w[i]) / norm / 2) + '" y="160">' + String(v).replace("-", "\\u2212")
      + "</text>").join("");
    c.forEach((v, i) => part("pieces").children[i].setAttribute("opacity", v === 0 ? .35 : 1));
    const found = c.reduce((s, v, i) => s + v * a[i], 0) * norm / n;
    const off = Math.abs(found / exact - 1), at = neuron.scale;
    const y = at.bottom - at.high * Math.log(Math.max(off, at.least) / at.least) / at.decades;
    part("here").setAttribute("cx", at.left + at.wide * Math.log(n) / Math.log($most));
    part("here").setAttribute("cy", Math.max(y, at.bottom - at.high));
    count.nextElementSibling.textContent = n;
    const show = v => v.toFixed(3).replace("-", "\\u2212");
    part("text").textContent = "The neuron computes " + show(exact) + "; " + n + " sample"
      + (n > 1 ? "s" : "") + " say " + show(found) + ", off by " + (100 * off).toFixed(1)
      + " %. Hit: " + c.filter(v => v !== 0).length + " of " + w.length + " weights.";
  }

  box.querySelectorAll("input[type=radio]").forEach(r => { r.name = group; });
  box.querySelector("input[value=jittered]").checked = true;
  box.addEventListener("input", draw);
  part("again").addEventListener("click", function () { u = u.map(() => Math.random()); draw(); });
  draw();
});
</script>
</div>
""")


@dataclass(frozen=True)
class NeuronPicture:
    """An interactive picture of :func:`mcnn.density.sample_counts` on one neuron.

    A slider sets the number of samples, buttons the way they are placed; all of it works from the
    keyboard. Without JavaScript the first draw stands still. The curves are the exact standard
    deviations of :func:`mcnn.density.variance`, the circle is the error of the draw that is shown.

    Attributes
    ----------
    weight
        [n], none zero.
    inputs
        [n], what the neuron sees.
    samples
        At first, 1 to 64.
    seed
        Of the first draw.

    Raises
    ------
    ValueError
        If weights and inputs are not two rows of one length, a weight is zero, what the neuron
        computes is zero, or the number of samples is not on the slider.
    """

    weight: Tensor
    inputs: Tensor
    samples: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        if self.weight.dim() != 1 or self.weight.shape != self.inputs.shape:
            raise ValueError(
                f"weight and inputs must both be [n], got {tuple(self.weight.shape)} and "
                f"{tuple(self.inputs.shape)}"
            )
        if (self.weight == 0).any() or not self.weight @ self.inputs:
            raise ValueError("weights of zero cannot be hit, and an error relative to zero is none")
        if not 1 <= self.samples <= MOST:
            raise ValueError(f"samples must be 1 to {MOST}, got {self.samples}")

    def _repr_html_(self) -> str:
        weight, inputs = self.weight.double(), self.inputs.double()
        offsets = uniforms(self.seed, torch.arange(MOST)).double()
        edges = cumulative_mass(weight[None])[0].double()
        edges = edges / edges[-1]  # [n], P_i
        xi = (torch.arange(self.samples) + offsets[: self.samples]) / self.samples  # jittered
        hit = torch.searchsorted(edges, xi, right=True).clamp_max(len(weight) - 1)
        counts = torch.bincount(hit, minlength=len(weight)) * weight.sign()  # [n]
        exact = float(weight @ inputs)
        found = float(counts @ inputs * weight.abs().sum() / self.samples)
        plot = _Plot(weight, inputs)
        here = plot.point(self.samples, abs(found / exact - 1))
        data = {
            "weight": weight.tolist(),
            "inputs": inputs.tolist(),
            "offsets": [round(u, 6) for u in offsets.tolist()],
            "scale": plot.scale(),
        }
        methods = "".join(
            f'<label><input type="radio" value="{m}"><span>{m}</span></label>' for m in VARIANCES
        )
        number = f"{self.samples} sample{'s' if self.samples > 1 else ''}"
        text = f"The neuron computes {exact:.3f}; {number} say {found:.3f}."
        return _PAGE.substitute(
            data=html.escape(json.dumps(data)),
            left=_LEFT,
            wide=_WIDE,
            most=MOST,
            shown=self.samples,
            samples="".join(_sample(x, k, self.samples) for k, x in enumerate(xi.tolist())),
            pieces=_pieces(weight, edges, counts),
            counts=_counts(counts, weight, edges),
            axes=plot.axes(),
            curves=plot.curves(),
            here_x=f"{here[0]:.2f}",
            here_y=f"{here[1]:.2f}",
            methods=methods,
            text=text.replace("-", "\N{MINUS SIGN}"),
        ).strip()

    def __repr__(self) -> str:
        return f"a neuron of {len(self.weight)} weights to be sampled: move the slider in a browser"


def example() -> NeuronPicture:
    """Return the neuron of the book's first page: ten weights and inputs, drawn at random."""
    generator = torch.Generator().manual_seed(28)
    weight = torch.randn(10, generator=generator)
    return NeuronPicture(weight, torch.rand(10, generator=generator))


def _x(value: float) -> str:
    return f"{_LEFT + _WIDE * value:.2f}"


def _sample(xi: float, k: int, samples: int) -> str:
    return (
        f'<path class="axis" d="M{_x(k / samples)} 30v18"/>'
        f'<path class="sample" d="M{_x(xi)} 60V96"/><circle cx="{_x(xi)}" cy="58" r="3.5"/>'
    )


def _pieces(weight: Tensor, edges: Tensor, counts: Tensor) -> str:
    starts = torch.cat([edges.new_zeros(1), edges[:-1]])
    return "".join(
        f'<rect class="{"plus" if w > 0 else "minus"}" x="{_x(start)}" y="100" '
        f'width="{max(_WIDE * (end - start) - 1.5, 0.5):.2f}" height="40" '
        f'opacity="{1 if c else 0.35}"/>'
        for w, start, end, c in zip(
            weight.tolist(), starts.tolist(), edges.tolist(), counts.tolist(), strict=True
        )
    )


def _counts(counts: Tensor, weight: Tensor, edges: Tensor) -> str:
    middles = edges - weight.abs() / weight.abs().sum() / 2
    return "".join(
        f'<text x="{_x(m)}" y="160">{int(c)}</text>'.replace(">-", ">\N{MINUS SIGN}")
        for c, m in zip(counts.tolist(), middles.tolist(), strict=True)
        if c
    )


@dataclass(frozen=True)
class _Plot:
    """Standard deviations against samples, both axes logarithmic."""

    weight: Tensor
    inputs: Tensor
    left, wide, bottom, high = 44, 260, 182, 155
    least, most = 3e-3, 3.0

    def scale(self) -> dict[str, float]:
        names = ("left", "wide", "bottom", "high", "least")
        return {n: getattr(self, n) for n in names} | {"decades": log(self.most / self.least)}

    def point(self, samples: int, error: float) -> tuple[float, float]:
        height = log(max(error, self.least) / self.least) / log(self.most / self.least)
        x = self.left + self.wide * log(samples) / log(MOST)
        return x, self.bottom - self.high * min(height, 1.0)

    def axes(self) -> str:
        parts = [f'<path class="axis" d="M{self.left} 25V{self.bottom}H{self.left + self.wide}"/>']
        for samples in (1, 4, 16, 64):
            x, _ = self.point(samples, 1)
            parts.append(f'<text x="{x:.1f}" y="{self.bottom + 16}">{samples}</text>')
        for error, name in ((0.01, "1 %"), (0.1, "10 %"), (1, "100 %")):
            _, y = self.point(1, error)
            parts.append(f'<text class="end" x="{self.left - 4}" y="{y + 4:.1f}">{name}</text>')
        return "".join(parts)

    def curves(self) -> str:
        exact = abs(float(self.weight @ self.inputs))
        ends, parts = [], []
        for method, colour in _COLOURS.items():
            points = []
            for samples in range(1, MOST + 1):
                v = variance(self.weight[None], self.inputs[None], samples, method)
                points.append(self.point(samples, float(v.clamp_min(0).sqrt()) / exact))
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            parts.append(
                f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
            )
            ends.append((points[-1][1], method))
        low = 0.0
        for y, method in sorted(ends):  # labels keep their distance
            low = max(y + 4, low + 15)
            parts.append(
                f'<text class="start" x="{self.left + self.wide + 6}" y="{low:.1f}">{method}</text>'
            )
        return "".join(parts)
