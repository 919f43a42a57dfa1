"""A half space that the reader turns and moves, drawn by the page itself: no kernel, no network."""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, radians, sin
from string import Template

import torch
from torch import Tensor

from mcnn.relu.check import check_floating

_PAGE = Template("""
<div class="mcnn-halfspace" data-points="$points">
<style>
.mcnn-halfspace { max-width: 30rem; margin: 0 auto; }
.mcnn-halfspace svg { display: block; width: 100%; height: auto; }
.mcnn-halfspace:not([data-ready]) [data-part=steer] { display: none; }
.mcnn-halfspace label { display: flex; gap: .6rem; align-items: center; margin: .3rem 0; }
.mcnn-halfspace label span { flex: 0 0 5rem; }
.mcnn-halfspace input { flex: 1; min-width: 0; height: 2rem; }
.mcnn-halfspace output { flex: 0 0 4rem; text-align: right; font-variant-numeric: tabular-nums; }
.mcnn-halfspace p { margin: .3rem 0; font-variant-numeric: tabular-nums; }
.mcnn-halfspace [data-part=beyond] { fill: #d1730c; opacity: .18; }
.mcnn-halfspace [data-part=plane] { stroke: #d1730c; stroke-width: .04; }
.mcnn-halfspace [data-part=normal] { stroke: #d1730c; stroke-width: .06; }
.mcnn-halfspace .way { stroke: #808080; stroke-width: .025; stroke-dasharray: .06; }
.mcnn-halfspace .before { fill: none; stroke: #808080; stroke-width: .03; }
.mcnn-halfspace .after { fill: #2b83ba; }
.mcnn-halfspace [data-part=turn], .mcnn-halfspace [data-part=move] { fill: #d1730c; }
.mcnn-halfspace .grip { fill: transparent; cursor: grab; touch-action: none; }
</style>
<svg viewBox="-3 -3 6 6" role="img" aria-label="Points and their projections onto a half space">
<g transform="scale(1 -1)">
$still
<circle class="grip" data-grip="move" r=".36"></circle>
<circle class="grip" data-grip="turn" r=".36"></circle>
</g>
</svg>
<div data-part="steer">
<label><span>angle of &omega;&#770;</span>
<input type="range" data-part="angle" min="0" max="360" step="1" value="$angle"
aria-label="angle of the normal in degrees"><output>$angle&deg;</output></label>
<label><span>offset b</span>
<input type="range" data-part="offset" min="-2.5" max="2.5" step="0.05" value="$offset"
aria-label="offset of the plane"><output>$shown</output></label>
</div>
<p role="status" data-part="text">$text</p>
<script>
document.querySelectorAll(".mcnn-halfspace:not([data-ready])").forEach(function (box) {
  box.dataset.ready = "yes";
  const points = JSON.parse(box.dataset.points);
  const part = name => box.querySelector("[data-part=" + name + "]");
  const set = (item, values) => Object.entries(values).forEach(v => item.setAttribute(...v));
  const line = (item, a, b) => set(item, {x1: a[0], y1: a[1], x2: b[0], y2: b[1]});
  const angle = part("angle"), offset = part("offset"), far = 10;
  part("points").innerHTML = points.map(x =>
    '<line class="way"/><circle class="before" r=".07"/><circle class="after" r=".07"/>').join("");
  const ways = box.querySelectorAll(".way"), before = box.querySelectorAll(".before");
  const after = box.querySelectorAll(".after");

  function draw() {
    const t = angle.value * Math.PI / 180, b = +offset.value;
    const w = [Math.cos(t), Math.sin(t)];
    const at = (along, across) =>
      [along * w[0] - across * w[1], along * w[1] + across * w[0]];
    const foot = at(b, 0), tip = at(b + 0.8, 0);
    const corners = [at(b, -far), at(b, far), at(b + far, far), at(b + far, -far)];
    part("beyond").setAttribute("points", corners.join(" "));
    line(part("plane"), at(b, -far), at(b, far));
    line(part("normal"), foot, tip);
    set(part("turn"), {cx: tip[0], cy: tip[1]});
    set(part("move"), {x: foot[0] - 0.11, y: foot[1] - 0.11});
    set(box.querySelector("[data-grip=turn]"), {cx: tip[0], cy: tip[1]});
    set(box.querySelector("[data-grip=move]"), {cx: foot[0], cy: foot[1]});
    let moved = 0;
    points.forEach(function (x, i) {
      const active = Math.max(0, w[0] * x[0] + w[1] * x[1] - b);  // the layer's one neuron
      const y = [x[0] - active * w[0], x[1] - active * w[1]];
      if (active > 0) moved += 1;
      line(ways[i], x, y);
      set(before[i], {cx: x[0], cy: x[1]});
      set(after[i], {cx: y[0], cy: y[1]});
    });
    const show = v => v.toFixed(2).replace("-", "\\u2212");
    angle.nextElementSibling.textContent = angle.value + "\\u00b0";
    offset.nextElementSibling.textContent = show(b);
    part("text").textContent = "W\\u00b9 = (" + w.map(show).join(", ") + "), b = " + show(b)
      + ", W\\u00b2 = \\u2212W\\u00b9 transposed; the neuron is active for "
      + moved + " of " + points.length + " points.";
  }

  box.querySelectorAll(".grip").forEach(function (grip) {
    grip.addEventListener("pointerdown", e => grip.setPointerCapture(e.pointerId));
    grip.addEventListener("pointermove", function (e) {
      if (!grip.hasPointerCapture(e.pointerId)) return;
      const p = new DOMPoint(e.clientX, e.clientY)
        .matrixTransform(grip.parentNode.getScreenCTM().inverse());
      const t = angle.value * Math.PI / 180;
      if (grip.dataset.grip === "move") {
        offset.value = p.x * Math.cos(t) + p.y * Math.sin(t);
      } else {
        const b = +offset.value, foot = [b * Math.cos(t), b * Math.sin(t)];
        const turned = Math.atan2(p.y - foot[1], p.x - foot[0]) * 180 / Math.PI;
        angle.value = Math.round(turned + 360) % 360;
      }
      draw();
    });
  });
  angle.addEventListener("input", draw);
  offset.addEventListener("input", draw);
  draw();
});
</script>
</div>
""")


_FAR = 10  # beyond the frame


def _shown(value: float) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True)
class HalfspacePicture:
    """An interactive picture of :func:`mcnn.relu.project_halfspace` in the plane.

    Sliders, for the keyboard too, and grips turn the normal and move the offset; hollow points are
    the input of the layer, filled ones its output.
    Without JavaScript the first half space stands still.

    Attributes
    ----------
    points
        [n, 2], floating point, within 3 of the origin to be seen.
    angle
        Of the normal at first, in degrees, 0 to 360.
    offset
        Of the plane at first, -2.5 to 2.5.

    Raises
    ------
    TypeError
        If the points are not floating point.
    ValueError
        If they are not in the plane, or there is none.
    """

    points: Tensor
    angle: int = 30
    offset: float = 0.5

    def __post_init__(self) -> None:
        check_floating(points=self.points)
        if self.points.dim() != 2 or self.points.shape[1] != 2 or not len(self.points):
            raise ValueError(f"points must be [n, 2], got shape {tuple(self.points.shape)}")

    def _repr_html_(self) -> str:
        rounded = [[round(v, 3) for v in point] for point in self.points.tolist()]
        still, active = self._still(rounded)
        w = [cos(radians(self.angle)), sin(radians(self.angle))]
        first = {"angle": self.angle, "offset": self.offset, "shown": _shown(self.offset)}
        text = (
            f"W¹ = ({', '.join(map(_shown, w))}), b = {first['shown']}, "
            "W² = \N{MINUS SIGN}W¹ transposed; "
            f"the neuron is active for {active} of {len(rounded)} points."
        )
        points = html.escape(json.dumps(rounded))
        return _PAGE.substitute(first, points=points, still=still, text=text).strip()

    def _still(self, points: list[list[float]]) -> tuple[str, int]:
        """Draw the first half space as the script of the page does, and count the active points."""
        w, b = (cos(radians(self.angle)), sin(radians(self.angle))), self.offset

        def at(along: float, across: float) -> tuple[float, float]:
            return along * w[0] - across * w[1], along * w[1] + across * w[0]

        def line(kind: str, ends: Sequence[Sequence[float]]) -> str:
            (x1, y1), (x2, y2) = ends
            return f'<line {kind} x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"></line>'

        foot, tip = at(b, 0), at(b + 0.8, 0)
        corners = (at(b, -_FAR), at(b, _FAR), at(b + _FAR, _FAR), at(b + _FAR, -_FAR))
        outline = " ".join(f"{x},{y}" for x, y in corners)
        drawn, moved = [], 0
        for x in points:
            active = max(0.0, w[0] * x[0] + w[1] * x[1] - b)  # the layer's one neuron
            y = [x[0] - active * w[0], x[1] - active * w[1]]
            moved += active > 0
            drawn.append(line('class="way"', (x, y)))
            drawn += (
                f'<circle class="{kind}" r=".07" cx="{place[0]}" cy="{place[1]}"></circle>'
                for kind, place in (("before", x), ("after", y))
            )
        parts = (
            f'<polygon data-part="beyond" points="{outline}"></polygon>',
            line('data-part="plane"', (at(b, -_FAR), at(b, _FAR))),
            line('data-part="normal"', (foot, tip)),
            f'<g data-part="points">{"".join(drawn)}</g>',
            f'<circle data-part="turn" r=".13" cx="{tip[0]}" cy="{tip[1]}"></circle>',
            f'<rect data-part="move" width=".22" height=".22" x="{foot[0] - 0.11}" '
            f'y="{foot[1] - 0.11}"></rect>',
        )
        return "\n".join(parts), moved

    def __repr__(self) -> str:
        return f"{len(self.points)} points and a half space: sliders turn and move it in a browser"


def example() -> HalfspacePicture:
    """Return points on a spiral, and a half space that holds most of them."""
    i = torch.arange(40, dtype=torch.float64)
    way = torch.stack([i.mul(2.4).cos(), i.mul(2.4).sin()], 1)  # [40, 2]
    return HalfspacePicture(way * 0.38 * (i + 0.5).sqrt()[:, None])
