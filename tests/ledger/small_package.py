"""A small package to change: what counts of it is known."""

FILES = {
    "__init__.py": '"""A package."""\n\n__version__ = "1"\n',
    "sampling.h": "#define STEP 3\n",
    "lib/__init__.py": (
        "from probe.lib.leaf import leaf\nfrom probe.lib.other import double, halve\n\n"
        '__all__ = ["double", "halve", "leaf"]\n'
    ),
    "lib/leaf.py": "y = 1\n\n\ndef leaf():\n    return y\n",
    "lib/other.py": "def double(x):\n    return 2 * x\n\n\ndef halve(x):\n    return x / 2\n",
    "lib/unused.py": "z = 1\n",
    "native/__init__.py": '"""Loops."""\n',
    "native/loops.py": 'from pathlib import Path\n\nSOURCE = Path(__file__).parent / "loops.c"\n',
    "native/loops.c": '#include "sampling.h"\n/* Why. */\nint f() {\n  return STEP + 1; // so\n}\n',
    "ops.py": (
        "import torch\n\n\ndef act(x):\n    return torch.ops.probe.act(x)\n\n\n"
        'torch.library.define("probe::act", "(Tensor x) -> Tensor")\n'
    ),
    "kernels.py": (
        "import torch\n\n\n"
        '@torch.library.impl("probe::act", "CPU")\ndef _act(x):\n    return x + 1\n'
    ),
    "experiments/__init__.py": "",
    "experiments/one/__init__.py": (
        "from probe.experiments.one import first, second\n\n"
        "EXPERIMENTS = [*first.EXPERIMENTS, *second.EXPERIMENTS]\n"
    ),
    "experiments/one/common.py": (
        "from dataclasses import dataclass\n\n\n@dataclass\nclass Base:\n    seed: int = 0\n\n\n"
        "SCALE = 2\n\n\ndef scaled(x):\n    return SCALE * x\n\n\ndef unused(x):\n    return x\n"
    ),
    "experiments/one/first.py": (
        "from dataclasses import dataclass\nfrom functools import cache\n\n"
        "from probe import lib\nfrom probe.experiments.one.common import Base, scaled\n"
        "from probe.lib import halve as part\n\n\n"
        "@dataclass\nclass Trial(Base):\n    size: int = 3\n\n\n"
        "WIDTH = 4\n\n\n@cache\ndef _helper(x):\n    return part(x) + WIDTH\n\n\n"
        "def _run(trial, device):\n    return scaled(lib.double(_helper(trial.size)))\n\n\n"
        "def _measure(records):\n    return 1\n\n\n"
        "def _trials(profile, seeds):\n    return [Trial(seed=s) for s in seeds]\n\n\n"
        "SEEDS = [1, 2]\n"
        'EXPERIMENTS = [("first", "a summary", _trials, SEEDS, _measure, _run)]\n'
    ),
    "experiments/one/second.py": (
        "from probe import ops\nfrom probe.native.loops import SOURCE\n\n\n"
        "def _run(trial, device):\n    return ops.act(SOURCE)\n\n\nEXPERIMENTS = [_run]\n"
    ),
}
FIRST = ("probe.experiments.one.first:_run", "probe.experiments.one.first:Trial")
SECOND = ("probe.experiments.one.second:_run",)


def write(root, files=FILES):
    """Write the package into a folder and return its place."""
    for name, text in files.items():
        file = root / "probe" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root / "probe"
