"""Buttons to launch, edit and report: there where the book knows its repository, and only there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).parents[1]
ADDRESS = "https://github.com/somebody/the-book"
CONF = f"""
import sys
sys.path.insert(0, {str(ROOT / "book/_ext")!r})
extensions = ["myst_nb", "repository"]
html_theme = "sphinx_book_theme"
nb_execution_mode = "off"
"""


def build(folder, repository):
    """Build a book of one page and one chapter; return the finished process."""
    (folder / "notebooks").mkdir(parents=True)
    (folder / "conf.py").write_text(CONF)
    (folder / "index.md").write_text("# Page\n\n```{toctree}\nnotebooks/chapter\n```\n")
    cell = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# Chapter"}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python", "language": "python"}}
    notebook = {"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (folder / "notebooks" / "chapter.ipynb").write_text(json.dumps(notebook))
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", str(folder)]
    return subprocess.run(
        [*command, str(folder / "html")],
        env=os.environ | {"MCNN_REPOSITORY": repository},
        capture_output=True,
        text=True,
    )


def links(page):
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    return {a["href"] for a in soup.find_all("a", href=True) if a["href"].startswith("http")}


def cells(folder):
    text = (folder / "html/_sources/notebooks/chapter.ipynb").read_text(encoding="utf-8")
    return json.loads(text)["cells"]


@pytest.mark.parametrize("ending", ["", "/", ".git"])
def test_a_published_book_leads_to_its_source_and_to_places_where_it_runs(tmp_path, ending):
    built = build(tmp_path, ADDRESS + ending)
    assert built.returncode == 0, built.stderr
    found = links(tmp_path / "html/notebooks/chapter.html")
    path = "notebooks/chapter.ipynb"
    colab = "https://colab.research.google.com/github/somebody/the-book/blob/gh-pages/_sources"
    assert {
        ADDRESS,
        f"{ADDRESS}/edit/main/{path}",
        f"https://mybinder.org/v2/gh/somebody/the-book/main?urlpath=lab/tree/{path}",
        f"{colab}/{path}",
    } <= found
    assert any(link.startswith(f"{ADDRESS}/issues/new") for link in found)
    first, second = cells(tmp_path)
    assert f"git clone -q --depth 1 {ADDRESS}\n" in first["source"]
    assert second["source"] == "# Chapter"


def test_a_book_without_an_address_has_no_such_button(tmp_path):
    built = build(tmp_path, "")
    assert built.returncode == 0, built.stderr
    for page in (tmp_path / "html").rglob("*.html"):
        assert not [x for x in links(page) if "github.com/" in x or "binder" in x or "colab" in x]
    assert [cell["source"] for cell in cells(tmp_path)] == ["# Chapter"]


@pytest.mark.parametrize("wrong", ["somebody/the-book", "https://example.org/a/b", "git@x:a/b.git"])
def test_an_address_that_leads_nowhere_is_refused(tmp_path, wrong):
    built = build(tmp_path, wrong)
    assert built.returncode != 0
    assert "set it to https://github.com/OWNER/NAME" in built.stderr


def test_the_cell_that_installs_leaves_a_notebook_where_the_records_are(tmp_path, monkeypatch):
    """Run it as IPython does, with git and pip taking note of what they are asked."""
    monkeypatch.syspath_prepend(ROOT / "book/_ext")
    import repository
    from IPython.core.inputtransformer2 import TransformerManager

    cell = repository.install_cell(ADDRESS)
    code = TransformerManager().transform_cell(cell["source"])

    class Shell:
        asked = ()

        def system(self, line):
            self.asked += (line,)

        def run_line_magic(self, name, line):
            self.asked += (f"{name} {line}",)

    shell = Shell()
    exec(code, {"get_ipython": lambda: shell})
    assert shell.asked == ()  # mcnn is here
    missing = code.replace('find_spec("mcnn")', 'find_spec("mcnn_of_nobody")')
    exec(missing, {"get_ipython": lambda: shell})
    assert shell.asked == (
        f"git clone -q --depth 1 {ADDRESS}",
        'pip install -q "./the-book[ledger,figures]"',
        "cd -q the-book/notebooks",
    )


def test_binder_installs_what_the_lock_file_has():
    folder = ROOT / ".binder"
    named = (folder / "requirements.txt").read_text().split()
    assert named[0] == "-r"
    assert (folder / named[1]).resolve() == ROOT / "requirements.txt"
    assert os.access(folder / "postBuild", os.X_OK)
