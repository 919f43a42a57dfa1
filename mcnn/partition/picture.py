"""Masks of dropout beside those of a partition, drawn by the page itself: no kernel, no network."""

import html
import json
from dataclasses import dataclass
from string import Template

import torch

from mcnn.sampling import uniforms

_CELL = 12  # of a mask, in units of the drawing
_MOST = 6  # parts

_PAGE = Template("""
<div class="mcnn-masks" data-masks="$data">
<style>
.mcnn-masks { max-width: 46rem; margin: 0 auto; font-variant-numeric: tabular-nums; }
.mcnn-masks .pair { display: grid; gap: .5rem 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); }
.mcnn-masks svg { display: block; width: 100%; height: auto; }
.mcnn-masks text { font-size: 13px; fill: currentColor; }
.mcnn-masks rect { fill: #808080; fill-opacity: .25; } .mcnn-masks .out { fill: #d1730c;
  fill-opacity: 1; }
.mcnn-masks [data-part=steer] { display: none; }
.mcnn-masks[data-ready] [data-part=steer] { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem;
  align-items: center; margin: .4rem 0; }
.mcnn-masks label { display: flex; gap: .4rem; align-items: center; flex: 1 1 14rem;
  min-height: 2rem; }
.mcnn-masks input { flex: 1; min-width: 0; }
.mcnn-masks button { min-height: 2.2rem; padding: 0 .7rem; cursor: pointer; color: inherit;
  background: transparent; border: 1px solid #808080; border-radius: .3rem; }
.mcnn-masks p { margin: .3rem 0; }
</style>
<div class="pair">$grids</div>
<div data-part="steer">
<label><span>parts P</span><input type="range" data-part="parts" min="2" max="$most" value="$parts"
aria-label="number of parts"><output></output></label>
<button type="button" data-part="again">Draw again</button>
</div>
<p data-part="text" role="status">$text</p>
<script>
document.querySelectorAll(".mcnn-masks:not([data-ready])").forEach(function (box) {
  box.dataset.ready = "yes";
  const data = JSON.parse(box.dataset.masks);
  const part = n => box.querySelector("[data-part=" + n + "]");
  const parts = part("parts"), units = data.units, steps = data.steps;
  let u = data.offsets;
  const outs = {
    dropout: (P, t, i) => u[t * units + i] < 1 / P,
    partition: (P, t, i) => Math.floor(P * u[Math.floor(t / P) * units + i]) === t % P,
  };
  function draw() {
    const P = +parts.value, told = [];
    for (const name in outs) {
      const cells = box.querySelectorAll("[data-masks-of=" + name + "] rect");
      const times = new Array(units).fill(0);
      for (let t = 0; t < steps; t++) for (let i = 0; i < units; i++) {
        const out = outs[name](P, t, i);
        cells[t * units + i].setAttribute("class", out ? "out" : "");
        times[i] += out;
      }
      const least = Math.min(...times), most = Math.max(...times);
      told.push(least === most ? "exactly " + most : least + " to " + most);
    }
    parts.nextElementSibling.textContent = P;
    const cycles = Math.ceil(steps / P);
    part("text").textContent = "In " + steps + " steps, dropout leaves a unit out "
      + told[0] + " times and takes " + steps * units + " random numbers; "
      + "a partition leaves it out " + told[1]
      + " times and takes " + cycles * units + ".";
  }
  parts.addEventListener("input", draw);
  part("again").addEventListener("click", function () { u = u.map(() => Math.random()); draw(); });
  draw();
});
</script>
</div>
""")


@dataclass(frozen=True)
class MasksPicture:
    """An interactive picture of :class:`mcnn.partition.DropoutPartition` beside dropout.

    A row is a unit, a column is a step; orange is left out. A slider sets the number of parts.
    Without JavaScript the first masks stand still.

    Attributes
    ----------
    units, steps
        Size of the masks.
    parts
        P at first, 2 to 6.
    seed
        Of the first masks.

    Raises
    ------
    ValueError
        If the number of parts is not on the slider.
    """

    units: int = 12
    steps: int = 30
    parts: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.parts <= _MOST:
            raise ValueError(f"parts must be 2 to {_MOST}, got {self.parts}")

    def _repr_html_(self) -> str:
        u = uniforms(self.seed, torch.arange(self.steps * self.units)).double()
        u = (u * 1e6).round().div(1e6).view(self.steps, self.units)  # [steps, units], as it is sent
        step = torch.arange(self.steps)
        dropout = u < 1 / self.parts
        partition = (self.parts * u[step // self.parts]).floor() == (step % self.parts)[:, None]
        grids = _grid("dropout", "coins: dropout at rate 1/P", dropout) + _grid(
            "partition", "turns: a partition into P parts", partition
        )
        data = {"units": self.units, "steps": self.steps, "offsets": u.flatten().tolist()}
        return _PAGE.substitute(
            data=html.escape(json.dumps(data)),
            grids=grids,
            parts=self.parts,
            most=_MOST,
            text=f"{self.units} units over {self.steps} steps, P = {self.parts}.",
        ).strip()

    def __repr__(self) -> str:
        return f"masks of {self.units} units over {self.steps} steps: see them in a browser"


def example() -> MasksPicture:
    """Return the masks that the book shows."""
    return MasksPicture()


def _grid(name: str, title: str, out: torch.Tensor) -> str:
    steps, units = out.shape
    cells = "".join(
        f'<rect x="{_CELL * t}" y="{24 + _CELL * i}" width="{_CELL - 1}" height="{_CELL - 1}" '
        f'class="{"out" if out[t, i] else ""}"/>'
        for t in range(steps)
        for i in range(units)
    )
    box = f"0 0 {_CELL * steps} {_CELL * units + 26}"
    return (
        f'<svg viewBox="{box}" role="img" aria-label="{title}" data-masks-of="{name}">'
        f'<text x="0" y="15">{title}</text>{cells}</svg>'
    )
