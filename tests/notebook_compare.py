"""Whether a cell put out what is stored: words exactly, numbers and pixels within a tolerance.

Numbers: integers exactly; others within one part in a million, or 1e-12. So a changed digit shows
if it is among the first six that count. Space between words may differ in width.
Images: at most one pixel in ten thousand may look different, on a grey ground.

That holds on a processor of the kind that the notebook was recorded on. Another kind rounds
otherwise, and training carries the last bit as far as chance would: there, numbers and images need
only be alike, words are still exact, and the pages of another kind are not called wrong.
"""

import base64
import io
import json
import math
import re
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
from PIL import Image

SHADE = 24 / 255


class Tolerance(NamedTuple):
    """What may differ: numbers relatively and absolutely, integers too, and a share of pixels."""

    relative: float
    absolute: float
    integers: bool
    pixels: float


SAME_PROCESSOR = Tolerance(1e-6, 1e-12, integers=False, pixels=1e-4)
OTHER_PROCESSOR = Tolerance(0.5, 0.1, integers=True, pixels=0.15)

_NUMBER = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")
_IMAGES = ("image/png", "image/jpeg")


def difference(stored, new, allowed: Tolerance = SAME_PROCESSOR) -> str | None:
    """Say how two lists of outputs of a cell differ, or return None."""
    for number, (a, b) in enumerate(zip_longest(stored, new), 1):
        if a is None or b is None:
            return f"{len(stored)} outputs are stored, {len(new)} came out"
        found = _output(a, b, allowed)
        if found:
            return f"output {number}: {found}"
    return None


def _output(stored, new, allowed: Tolerance) -> str | None:
    if stored.output_type != new.output_type:
        return f"{stored.output_type} is stored, {new.output_type} came out"
    if stored.output_type == "stream":
        if stored.name != new.name:
            return f"{stored.name} is stored, {new.name} came out"
        return text_difference(stored.text, new.text, allowed)
    if stored.output_type == "error":
        texts = (f"{x.ename}: {x.evalue}" for x in (stored, new))
        return text_difference(*texts, allowed)
    if set(stored.data) != set(new.data):
        return f"{sorted(stored.data)} is stored, {sorted(new.data)} came out"
    for kind, value in stored.data.items():
        compare = image_difference if kind in _IMAGES else text_difference
        found = compare(_as_text(value), _as_text(new.data[kind]), allowed)
        if found:
            return f"{kind}: {found}"
    return None


def _as_text(value) -> str:
    if isinstance(value, list):
        return "".join(value)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def text_difference(stored: str, new: str, allowed: Tolerance = SAME_PROCESSOR) -> str | None:
    """Compare texts word by word and number by number."""
    # The odd pieces are the numbers, what stands between them are the even ones.
    pieces = zip_longest(_NUMBER.split(stored), _NUMBER.split(new), fillvalue="")
    for place, (a, b) in enumerate(pieces):
        same = _close(a, b, allowed) if place % 2 else a.split() == b.split()
        if not same:
            return f"{a.strip()!r} is stored, {b.strip()!r} came out"
    return None


def _close(stored: str, new: str, allowed: Tolerance) -> bool:
    if stored == new:
        return True
    try:
        a, b = float(stored), float(new)
    except ValueError:
        return False
    if not allowed.integers and stored.lstrip("+-").isdigit() and new.lstrip("+-").isdigit():
        return int(stored) == int(new)
    return math.isclose(a, b, rel_tol=allowed.relative, abs_tol=allowed.absolute)


def image_difference(stored: str, new: str, allowed: Tolerance = SAME_PROCESSOR) -> str | None:
    """Compare images, given in base64, pixel by pixel."""
    a, b = _pixels(stored), _pixels(new)
    if a.shape != b.shape:
        return f"{a.shape[1]}x{a.shape[0]} pixels are stored, {b.shape[1]}x{b.shape[0]} came out"
    share = (np.abs(a - b).max(axis=2) > SHADE).mean()
    return f"{share:.2%} of the pixels differ" if share > allowed.pixels else None


def _pixels(encoded: str) -> np.ndarray:
    """[height, width, 3] in 0 ... 1: the image on a grey ground."""
    image = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGBA")
    rgba = np.asarray(image, dtype=np.float64) / 255
    alpha = rgba[..., 3:]
    return rgba[..., :3] * alpha + 0.5 * (1 - alpha)
