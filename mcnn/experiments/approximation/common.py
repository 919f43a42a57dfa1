"""What built and trained networks share: how their errors fall with their weights."""

from collections.abc import Sequence

from mcnn.ledger.records import Record
from mcnn.stats import slope

NETS = ("tree", "shallow")


def slopes(records: Sequence[Record], dimensions: Sequence[int]) -> dict[str, list[float]]:
    """Return the slopes of both networks, and their differences between dimensions, one a seed."""
    readings: dict[str, list[float]] = {}
    for d in dimensions:
        chosen = [r for r in records if r.config.dimension == d]
        for name in NETS:
            values = [slope(r.metrics[name]["weights"], r.metrics[name]["error"]) for r in chosen]
            readings[f"{name}, d={d}"] = values
    first, last = dimensions[0], dimensions[-1]
    for one, other in (
        *((f"{name}, d={last}", f"{name}, d={first}") for name in NETS),
        (f"tree, d={last}", f"shallow, d={last}"),
    ):
        pairs = zip(readings[one], readings[other], strict=True)
        readings[f"{one} minus {other}"] = [a - b for a, b in pairs]
    return readings
