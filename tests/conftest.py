"""What several tests share: an experiment that costs nothing, and processes that may be killed."""

import gc
import multiprocessing
import os
import shutil
import signal
from functools import cache

import fake_experiments
import pytest
import soak
import torch
from hypothesis import settings

from mcnn.ledger import cli, provenance, registry

ALL_EXPERIMENTS = registry.all_experiments  # as the package finds them

# How hard properties are tested; HYPOTHESIS_PROFILE chooses, and --hypothesis-profile. In CI runs
# repeat: what fails there fails here, under the same name.
settings.register_profile("default", deadline=None, max_examples=50)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True)
settings.register_profile("thorough", settings.get_profile("default"), max_examples=1000)
settings.register_profile("soak", settings.get_profile("default"), max_examples=soak.INPUTS)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "default")
)


def pytest_collection_finish():
    """Leave what is imported by now to itself: else each look for garbage goes through it all."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter):
    """Say what ``make soak`` did, also where it is stopped."""
    if soak.LONG:
        done = [terminalreporter.stats.get(word, ()) for word in ("passed", "failed")]
        passed, failed = ([report.nodeid for report in reports] for reports in done)
        terminalreporter.section("faults")
        terminalreporter.write_line(soak.table(soak.rows(passed, failed)))


@pytest.fixture(autouse=True)
def same_weights():
    """Start every test from one state: its networks do not depend on which test ran first."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def own_experiments(monkeypatch):
    """Give every test its own table of experiments: what one takes out or adds, no other sees."""
    monkeypatch.setattr(registry, "all_experiments", cache(lambda: dict(ALL_EXPERIMENTS())))


@pytest.fixture(scope="module")
def browser_page():
    """A page as narrow as a phone, for pictures that a test puts there."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = [path for path in map(shutil.which, names) if path]
    if not found:
        pytest.skip("no Chromium on the path")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=found[0], args=arguments)
        yield browser.new_page(viewport={"width": 390, "height": 844})
        browser.close()


@pytest.fixture
def interruptible():
    """Let Ctrl-C interrupt even where tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def fake(monkeypatch):
    """Register the experiment for one test."""
    for name in ("FAKE_FAULT", "FAKE_LOG", "MCNN_RESULTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(registry.all_experiments(), fake_experiments.NAME, fake_experiments.FAKE)
    state = provenance.code_state
    committed = fake_experiments.COMMITTED
    monkeypatch.setattr(provenance, "code_state", lambda roots: state(roots) | committed)
    return fake_experiments.FAKE


@pytest.fixture
def mcnn(fake):
    """Call the command line in a process of its own, which it may bring down; return its status."""

    def call(*argv):
        context = multiprocessing.get_context("fork")
        process = context.Process(target=_main, args=([str(a) for a in argv],))
        process.start()
        process.join(60)
        return process.exitcode

    return call


def _main(argv):
    raise SystemExit(cli.main(argv))
