"""What someone's own script sees of the types, when the package is installed."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tests" / "typed_script.py"
# The stubs of PyTorch import onnxscript, on whose own code mypy gives up.
CONFIG = "[mypy]\n[mypy-onnxscript.*]\nfollow_imports = skip\n"


def call(*command, **environment):
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_the_script_runs():
    done = call(sys.executable, SCRIPT)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not importlib.util.find_spec("mypy"), reason="mypy is not installed")
def test_a_script_is_clean_under_strict_mypy(tmp_path):
    """As installed: what a package imports is silent, what the script itself does is not."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (packages,) = venv.glob("lib/python*/site-packages")
    installed = [x for x in sys.path if x.endswith("site-packages")]
    (packages / "all.pth").write_text("\n".join([*installed, str(ROOT)]))
    config = tmp_path / "mypy.ini"
    config.write_text(CONFIG)
    script = tmp_path / "script.py"
    options = ["--strict", "--config-file", config, "--cache-dir", ROOT / ".mypy_cache"]
    options += ["--python-executable", venv / "bin" / "python", script]
    text = SCRIPT.read_text(encoding="utf-8")
    script.write_text(text)
    done = call(sys.executable, "-m", "mypy", *options, PYTHONPATH="")
    assert done.returncode == 0, done.stdout
    script.write_text(text + "\nmcnn.density.quantize(3)\n")
    done = call(sys.executable, "-m", "mypy", *options, PYTHONPATH="")
    assert 'incompatible type "int"' in done.stdout
