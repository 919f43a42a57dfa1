"""The page of the book on speed: tables and figures from the records of each device."""

import io
import json
import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.measure import break_even, exponent, middle, ratio
from mcnn import figures
from mcnn.errors import DataError, UsageError
from mcnn.ledger import records

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "benchmarks" / "records"
PAGE = ROOT / "book" / "benchmarks.md"
PICTURES = ROOT / "book" / "_static"
_BEGIN, _END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
_DIGITS = 4


def load() -> dict[str, dict[str, Any]]:
    """Return the records of every device, by the stem of its file.

    Raises
    ------
    DataError
        If a file is damaged.
    """
    found = {}
    for file in sorted(RECORDS.glob("*.json")):
        try:
            found[file.stem] = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{file} is damaged ({error}): delete it and measure again") from error
    return found


def rounded(value: Any) -> Any:
    """Return JSON with its times to four digits: more would only record the noise."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list | tuple) else value


def _times(value: tuple[float, float, float]) -> str:
    mid, low, high = value
    digits = 0 if mid >= 100 else 1 if mid >= 10 else 2
    return f"{mid:.{digits}f} ({low:.{digits}f} … {high:.{digits}f})"


def _time(values: list[float]) -> str:
    time = middle(values)[0]
    return f"{time:.3g} s" if time >= 1 else f"{time * 1e3:.3g} ms"


def _met(value: tuple[float, float, float], low: float, high: float = math.inf) -> str:
    """Say whether a value with its interval reaches a goal."""
    _, least, most = value
    if low <= least and most <= high:
        return "✔"
    return "✘" if most < low or high < least else "≈"


def race_rows(result: dict[str, Any]) -> list[list[str]]:
    """Return a row a baseline: ours, baseline, times, ratio, goal, and whether it was reached."""
    times = result["seconds"]
    ours = next(iter(times))
    rows = []
    for baseline in list(times)[1:]:
        factor = ratio(times[ours], times[baseline])
        goal = result["goals"].get(baseline)
        met = "" if goal is None else _met(factor, goal)
        slower = "slower" if factor[2] < 1 else ""
        if baseline in result.get("floors", ()):
            slower = f"floor: {factor[0]:.0%} of that speed"
        shown = [ours, _time(times[ours]), baseline, _time(times[baseline])]
        rows.append([*shown, _times(factor), "" if goal is None else f"{goal:g}", met or slower])
    return rows


def spread_rows(result: dict[str, Any]) -> list[list[str]]:
    """Return a row a baseline: ours, baseline, variances, and their ratio."""
    variances = result["variances"]
    ours = next(iter(variances))
    return [
        [
            *(ours, f"{middle(variances[ours])[0]:.2g}"),
            *(baseline, f"{middle(variances[baseline])[0]:.2g}"),
            _times(ratio(variances[ours], variances[baseline])),
        ]
        for baseline in list(variances)[1:]
    ]


def curve_rows(result: dict[str, Any]) -> list[list[str]]:
    """Return a row for each exponent and each break-even point."""
    points = result["points"]
    ours = next(iter(points[0]["seconds"]))
    rows = []
    for candidate in points[0]["seconds"]:
        kept = [p for p in points if candidate in p["seconds"]]
        sizes = [p["size"] for p in kept]
        times = [p["seconds"][candidate] for p in kept]
        slope = exponent(sizes, times)
        goal = result["exponent"] if candidate == ours else None
        aim = f"{goal[0]:g} … {goal[1]:g}" if goal else ""
        met = "" if goal is None else _met(slope, *goal)
        if result["break_even"]:
            if candidate == ours:
                continue
            even = break_even(sizes, [p["seconds"][ours] for p in kept], times)
            shown = f"above {sizes[-1]:g}" if even is None else f"{even:.2f}"
            aimed = result["break_even"].get(candidate)
            met = "" if aimed is None else "✔" if even is None or even >= aimed else "✘"
            rows.append(
                [
                    f"break-even with {candidate}",
                    shown,
                    "" if aimed is None else f"≥ {aimed:g}",
                    met,
                ]
            )
        else:
            rows.append([f"exponent of {candidate}", _times(slope), aim, met])
    return rows


def lines(name: str, result: dict[str, Any]) -> str:
    """Return a benchmark for a terminal."""
    head = f"{name}: {result['summary']}"
    if "points" in result:
        rows = [
            f"  {what:<44} {value:<24} goal {aim or '–':<12} {met}"
            for what, value, aim, met in curve_rows(result)
        ]
    elif "variances" in result:
        rows = [
            f"  {ours} {a} / {baseline} {b}: {factor}"
            for ours, a, baseline, b, factor in spread_rows(result)
        ]
    else:
        rows = [
            f"  {ours} {a} / {baseline} {b}: {factor}  goal {goal or '–'} {met}"
            for ours, a, baseline, b, factor, goal, met in race_rows(result)
        ]
    return "\n".join([head, *rows])


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def _section(stem: str, found: dict[str, Any]) -> str:
    made = next(iter(found.values()))["made"]
    threads = {r["made"]["threads"] for r in found.values()}
    commits = ", ".join(sorted({(r["made"]["commit"] or "?")[:7] for r in found.values()}))
    minutes = sum(r["made"]["wall"] for r in found.values()) / 60
    parts = [
        f"## {made['device']}",
        f"torch {made['torch']}, threads: {', '.join(map(str, sorted(threads)))}; all of it took "
        f"{minutes:.0f} minutes; commit {commits}; "
        f"records: [`benchmarks/records/{stem}.json`](../benchmarks/records/{stem}.json).",
    ]
    for result in found.values():
        parts.append(f"**{result['summary'][0].upper()}{result['summary'][1:]}**")
        if "points" in result:
            parts.append(_table(["", "measured", "goal", ""], curve_rows(result)))
        elif "variances" in result:
            head = ["ours", "variance", "peer", "variance", "peer / ours"]
            parts.append(_table(head, spread_rows(result)))
        else:
            head = ["ours", "time", "peer", "time", "peer / ours", "goal", ""]
            parts.append(_table(head, race_rows(result)))
    for name in _curves(found):
        variable = found[name]["variable"]
        parts.append(
            f"```{{figure}} _static/{_picture(stem, name).name}\n"
            f":name: fig-{stem}-{name}\n"
            f":alt: Time of both passes against {variable}, for each kind of layer\n\n"
            f"{found[name]['summary'][0].upper()}{found[name]['summary'][1:]}: time of a forward "
            f"and a backward pass against {variable}, medians with the range of all rounds.\n```"
        )
    return "\n\n".join(parts)


def _curves(found: dict[str, Any]) -> list[str]:
    return [name for name, result in found.items() if "points" in result]


def _picture(stem: str, name: str) -> Path:
    return PICTURES / f"bench-{stem}-{name}.png"


def _draw(result: dict[str, Any]) -> bytes:
    figures.use_style()
    fig, ax = plt.subplots(layout="constrained")
    candidates = dict.fromkeys(candidate for p in result["points"] for candidate in p["seconds"])
    for candidate in candidates:
        kept = [p for p in result["points"] if candidate in p["seconds"]]
        x = [p["size"] for p in kept]
        times = [p["seconds"][candidate] for p in kept]
        (line,) = ax.plot(x, [middle(t)[0] * 1e3 for t in times], label=candidate)
        low, high = [min(t) * 1e3 for t in times], [max(t) * 1e3 for t in times]
        ax.fill_between(x, low, high, color=line.get_color(), alpha=0.25, linewidth=0)
        if candidate in result["break_even"]:
            even = break_even(x, [p["seconds"][next(iter(candidates))] for p in kept], times)
            if even is not None:
                logs = np.log(x), np.log([middle(t)[0] * 1e3 for t in times])
                height = np.exp(np.interp(np.log(even), *logs))
                style = {"marker": "o", "markersize": 10, "fillstyle": "none", "linestyle": "none"}
                label = f"break-even with {candidate}: {even:.2f}"
                ax.plot([even], [height], color=line.get_color(), label=label, **style)
    ax.set(xscale="log", yscale="log", xlabel=result["variable"], ylabel="milliseconds")
    width, height = fig.get_size_inches()
    fig.set_size_inches(width, height + 0.25 * len(ax.get_legend_handles_labels()[0]))
    fig.legend(loc="outside lower center")  # away from the lines
    file = io.BytesIO()
    fig.savefig(file, format="png", metadata={"Software": None})
    plt.close(fig)
    return file.getvalue()


def update(*, write: bool) -> list[Path]:
    """Put the tables into the page; with ``write`` also draw the figures.

    Returns
    -------
    list of Path
        What was, or is, out of date; pictures are only looked at when they are missing, for their
        bytes depend on the fonts of the machine.

    Raises
    ------
    UsageError
        If the page has lost its markers.
    """
    text = PAGE.read_text(encoding="utf-8")
    if _BEGIN not in text or _END not in text:
        raise UsageError(f"{PAGE} has no {_BEGIN} ... {_END} to put the tables between")
    found = load()
    before, after = text.partition(_BEGIN)[0], text.partition(_END)[2]
    sections = [_section(stem, result) for stem, result in found.items()]
    tables = "\n\n".join(sections or ["There are no records yet: `make bench` makes them."])
    new = f"{before}{_BEGIN}\n\n{tables}\n\n{_END}{after}"
    late = [] if new == text else [PAGE]
    if write and late:
        records.replace_file(PAGE, new.encode())
    for stem, result in found.items():
        for name in _curves(result):
            picture = _picture(stem, name)
            if write:
                records.replace_file(picture, _draw(result[name]))
            elif not picture.exists():
                late.append(picture)
    return late
