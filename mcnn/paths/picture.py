"""Two small networks that grow path by path, drawn by the page itself: no kernel, no network."""

import html
import json
from dataclasses import dataclass
from itertools import pairwise
from string import Template
from typing import Any

from mcnn.paths.generators import sample_paths

_PAGE = Template("""
<div class="mcnn-paths" data-networks="$networks">
<style>
.mcnn-paths { max-width: 40rem; margin: 0 auto; }
.mcnn-paths .pair { display: grid; grid-template-columns: 1fr 1fr; gap: .8rem; }
.mcnn-paths .name { margin: 0 0 .2rem; font-weight: bold; text-align: center; }
.mcnn-paths svg { display: block; width: 100%; height: auto; }
.mcnn-paths dl { display: grid; grid-template-columns: 1fr auto; margin: .3rem 0; gap: 0 .4rem;
  font-variant-numeric: tabular-nums; }
.mcnn-paths dt { font-weight: normal; margin: 0; }
.mcnn-paths dd { margin: 0; text-align: right; }
.mcnn-paths .steer { display: flex; gap: .4rem; align-items: center; margin: .5rem 0; }
.mcnn-paths:not([data-ready]) .steer { display: none; }
.mcnn-paths input { flex: 1; min-width: 0; height: 2rem; }
.mcnn-paths button { min-width: 2.4rem; min-height: 2.2rem; padding: 0 .5rem; cursor: pointer;
  color: inherit; background: transparent; border: 1px solid #767676; border-radius: .3rem; }
.mcnn-paths output { flex: 0 0 5.2rem; text-align: right; font-variant-numeric: tabular-nums; }
.mcnn-paths .edge { stroke: #767676; stroke-width: .05; }
.mcnn-paths .last { stroke: #d1730c; stroke-width: .12; }
.mcnn-paths .unit { fill: none; stroke: #767676; stroke-width: .06; }
.mcnn-paths .used { fill: #2b83ba; stroke: #2b83ba; }
</style>
<div class="pair">$panels</div>
<div class="steer" data-part="steer">
<button type="button" data-part="less" aria-label="one path less">&minus;</button>
<button type="button" data-part="more" aria-label="one path more">+</button>
<button type="button" data-part="play" aria-label="play">&#9654;</button>
<input type="range" data-part="count" min="0" max="$most" step="1" value="$shown"
aria-label="number of paths"><output>$shown paths</output></div>
<p role="status" data-part="text">$text</p>
<script>
document.querySelectorAll(".mcnn-paths:not([data-ready])").forEach(function (box) {
  box.dataset.ready = "yes";
  const data = JSON.parse(box.dataset.networks), widths = data.widths;
  const part = name => box.querySelector("[data-part=" + name + "]");
  const count = part("count"), play = part("play");
  const tallest = Math.max.apply(null, widths), gap = 3;
  const x = l => gap * l + 0.5;
  const y = (l, i) => (i + 0.5) * tallest / widths[l];
  const wide = gap * (widths.length - 1) + 1;
  const units = widths.reduce((a, b) => a + b, 0);
  const pairs = widths.slice(1).reduce((sum, n, l) => sum + n * widths[l], 0);
  const line = (l, a, b, kind) => '<line class="' + kind + '" x1="' + x(l) + '" y1="' + y(l, a)
    + '" x2="' + x(l + 1) + '" y2="' + y(l + 1, b) + '"/>';
  const names = ["paths", "edges", "collisions", "units used"];
  box.querySelector(".pair").innerHTML = data.networks.map(net =>
    '<div data-network="' + net.method + '"><div class="name">' + net.title
    + '</div><svg viewBox="0 0 ' + wide + " " + tallest
    + '" role="img" aria-label="' + net.title + '"></svg><dl>'
    + names.map(n => "<dt>" + n + '</dt><dd data-count="' + n + '"></dd>').join("")
    + "</dl></div>").join("");

  function draw() {
    const p = +count.value, said = [];
    data.networks.forEach(function (net) {
      const panel = box.querySelector('[data-network="' + net.method + '"]');
      const edges = new Map(), used = new Set();
      net.paths.slice(0, p).forEach(path => path.forEach(function (i, l) {
        used.add(l + "," + i);
        if (l) edges.set([l - 1, path[l - 1], i].join(), [l - 1, path[l - 1], i]);
      }));
      let drawing = "";
      edges.forEach(e => drawing += line(e[0], e[1], e[2], "edge"));
      if (p) net.paths[p - 1].slice(1).forEach((i, l) =>
        drawing += line(l, net.paths[p - 1][l], i, "last"));
      widths.forEach(function (n, l) {
        for (let i = 0; i < n; i++) drawing += '<circle class="unit'
          + (used.has(l + "," + i) ? " used" : "") + '" cx="' + x(l) + '" cy="' + y(l, i)
          + '" r=".2"/>';
      });
      panel.querySelector("svg").innerHTML = drawing;
      const twice = p * (widths.length - 1) - edges.size;
      const values = [p, edges.size + " of " + pairs, twice, used.size + " of " + units];
      names.forEach((n, k) =>
        panel.querySelector('[data-count="' + n + '"]').textContent = values[k]);
      said.push(net.title + ": " + edges.size + " edges, " + twice + " collisions, " + used.size
        + " of " + units + " units");
    });
    count.nextElementSibling.textContent = p + (p === 1 ? " path" : " paths");
    part("text").textContent = said.join("; ") + ".";
  }

  let timer = 0;
  function stop() {
    clearInterval(timer);
    timer = 0;
    play.textContent = "\\u25b6";
    play.setAttribute("aria-label", "play");
  }
  function step(by) {
    count.value = +count.value + by;
    draw();
  }
  part("less").addEventListener("click", () => { stop(); step(-1); });
  part("more").addEventListener("click", () => { stop(); step(1); });
  play.addEventListener("click", function () {
    if (timer) return stop();
    if (+count.value === +count.max) count.value = 0;
    play.textContent = "\\u23f8";
    play.setAttribute("aria-label", "pause");
    timer = setInterval(function () {
      step(1);
      if (+count.value === +count.max) stop();
    }, 300);
  });
  count.addEventListener("input", () => { stop(); draw(); });
  draw();
});
</script>
</div>
""")

_TITLES = {"uniform": "random walks", "sobol": "Sobol\N{RIGHT SINGLE QUOTATION MARK} paths"}


@dataclass(frozen=True)
class PathsPicture:
    """An interactive picture of paths that make two small networks, one path at a time.

    A slider, buttons and the keyboard add and remove paths; edges, collisions and the units in use
    are counted below each network.
    Without JavaScript the first networks stand still.

    Attributes
    ----------
    widths
        Units of each layer.
    paths
        The most paths that can be added.
    shown
        Paths at first.
    methods
        Of the two networks, see :data:`mcnn.paths.METHODS`.
    seed
        Of both.

    Raises
    ------
    ValueError
        As :func:`mcnn.paths.sample_paths`, and for more paths at first than there are.
    """

    widths: tuple[int, ...] = (8, 8, 8, 8)
    paths: int = 64
    shown: int = 8
    methods: tuple[str, str] = ("uniform", "sobol")
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.shown <= self.paths:
            raise ValueError(f"shown must be in 0 ... {self.paths}, got {self.shown}")
        self._networks()

    def _networks(self) -> list[dict[str, Any]]:
        return [
            {
                "method": method,
                "title": _TITLES.get(method, method),
                "paths": sample_paths(self.widths, self.paths, method, self.seed).T.tolist(),
            }
            for method in self.methods
        ]

    def _repr_html_(self) -> str:
        networks = self._networks()
        data = html.escape(json.dumps({"widths": self.widths, "networks": networks}))
        counts = [self._counts(net["paths"]) for net in networks]
        told = [
            f"{net['title']}: {edges} edges, {twice} collisions, {used} of {sum(self.widths)} units"
            for net, (edges, twice, used) in zip(networks, counts, strict=True)
        ]
        panels = "".join(map(self._panel, networks, counts))
        shown = {"networks": data, "most": self.paths, "shown": self.shown}
        return _PAGE.substitute(shown, panels=panels, text=f"{'; '.join(told)}.").strip()

    def _edges(self, paths: list[list[int]]) -> dict[tuple[int, int, int], None]:
        """Return the edges of the paths at first, as (layer, from, to), each once."""
        some = paths[: self.shown]
        return {(n, p[n], p[n + 1]): None for p in some for n in range(len(p) - 1)}

    def _counts(self, paths: list[list[int]]) -> tuple[int, int, int]:
        """Return edges, collisions and units in use, of the paths at first."""
        edges = len(self._edges(paths))
        used = {(n, i) for path in paths[: self.shown] for n, i in enumerate(path)}
        return edges, self.shown * (len(self.widths) - 1) - edges, len(used)

    def _panel(self, net: dict[str, Any], counts: tuple[int, int, int]) -> str:
        """Draw one network as the script of the page does."""
        tallest, wide = max(self.widths), 3 * (len(self.widths) - 1) + 1
        pairs = sum(a * b for a, b in pairwise(self.widths))
        last = net["paths"][self.shown - 1] if self.shown else []
        used = {(n, i) for path in net["paths"][: self.shown] for n, i in enumerate(path)}

        def at(layer: int, unit: int) -> tuple[float, float]:
            return 3 * layer + 0.5, (unit + 0.5) * tallest / self.widths[layer]

        def line(layer: int, a: int, b: int, kind: str) -> str:
            (x1, y1), (x2, y2) = at(layer, a), at(layer + 1, b)
            return f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'

        drawn = [line(*edge, "edge") for edge in self._edges(net["paths"])]
        drawn += [line(n, *ends, "last") for n, ends in enumerate(pairwise(last))]
        for n, width in enumerate(self.widths):
            for i in range(width):
                x, y = at(n, i)
                kind = "unit used" if (n, i) in used else "unit"
                drawn.append(f'<circle class="{kind}" cx="{x}" cy="{y}" r=".2"/>')
        edges, twice, units = counts
        told = {
            "paths": self.shown,
            "edges": f"{edges} of {pairs}",
            "collisions": twice,
            "units used": f"{units} of {sum(self.widths)}",
        }
        counted = "".join(f'<dt>{k}</dt><dd data-count="{k}">{v}</dd>' for k, v in told.items())
        return (
            f'<div data-network="{net["method"]}"><div class="name">{net["title"]}</div>'
            f'<svg viewBox="0 0 {wide} {tallest}" role="img" aria-label="{net["title"]}">'
            f"{''.join(drawn)}</svg><dl>{counted}</dl></div>"
        )

    def __repr__(self) -> str:
        names = " and ".join(_TITLES.get(method, method) for method in self.methods)
        return f"{names}, up to {self.paths} paths: buttons in a browser add them one by one"


def example() -> PathsPicture:
    """Return the networks that the book shows."""
    return PathsPicture()
