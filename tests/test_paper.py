"""What `make pdf` prints and `make archive` packs, on the book that was rendered."""

import hashlib
import importlib.util
import re
import shutil
import tarfile
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[1]


def extension(name):
    """Import a script of book/_ext, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "book" / "_ext" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pdf, archive = extension("pdf"), extension("archive")
needs_site = pytest.mark.skipif(
    not (pdf.SITE / "index.html").exists(), reason="no book in _build/html: run `make book`"
)


@needs_site
def test_the_sheet_is_whole_and_leads_nowhere_else():
    sheet = BeautifulSoup(pdf.assemble(), "html.parser")
    places = {tag["id"] for tag in sheet.find_all(id=True)}
    inside = {a["href"][1:] for a in sheet.select("a[href^='#']")}
    assert len(inside) > 100
    assert inside <= places
    for image in sheet.find_all("img"):
        assert image["src"].startswith("data:") or (pdf.SITE / image["src"]).is_file()
    assert not sheet.select("details:not([open])"), "a solution is shut"
    assert not [a["href"] for a in sheet.find_all("a", href=True) if a["href"].startswith("..")]
    titles = {h.get_text() for h in sheet.find_all("h1")}
    assert len(titles) >= len([f for _, files in pdf.pages() for f in files])


@needs_site
def test_a_page_is_printed(tmp_path, monkeypatch):
    if not any(map(shutil.which, pdf.BROWSERS)):
        pytest.skip("no Chromium on the path")
    target = tmp_path / "book.pdf"
    monkeypatch.setattr(pdf, "TARGET", target)
    monkeypatch.setattr(pdf, "pages", lambda: [("", ["book/intro", "book/notation"])])
    assert pdf.main() == 0
    content = target.read_bytes()
    assert content.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", content)) >= 4
    assert not (pdf.SITE / "print.html").exists()


def test_without_a_book_both_say_so(tmp_path, monkeypatch, capsys):
    for script in (pdf, archive):
        monkeypatch.setattr(script, "SITE", tmp_path)
        assert script.main() == 2
        assert "run `make book`" in capsys.readouterr().err


@needs_site
def test_the_archive_holds_what_its_checksums_say(tmp_path, monkeypatch):
    target = tmp_path / "archive.tar.gz"
    monkeypatch.setattr(archive, "TARGET", target)
    some = {k: v for n, (k, v) in enumerate(archive.files().items()) if n % 40 == 0}
    some |= {k: v for k, v in archive.files().items() if k in ("LICENSE", "CITATION.cff")}
    monkeypatch.setattr(archive, "files", lambda: some)
    assert archive.main() == 0
    with tarfile.open(target) as packed:
        members = {m.name: m for m in packed.getmembers()}
        assert all((m.uid, m.uname) == (0, "") for m in members.values())
        sums = packed.extractfile("mcnn/SHA256SUMS").read().decode()
        for line in sums.splitlines():
            digest, name = line.split("  ", 1)
            content = packed.extractfile(f"mcnn/{name}").read()
            assert hashlib.sha256(content).hexdigest() == digest
    assert set(members) == {"mcnn/SHA256SUMS", *(f"mcnn/{name}" for name in some)}


@needs_site
def test_the_archive_has_all_that_a_reader_needs():
    names = set(archive.files())
    for name in ("README.md", "CITATION.cff", "LICENSE", "LICENSE-PROSE", "claims.yml"):
        assert name in names
    assert {"html/index.html", "html/book/intro.html", "html/notebooks/paths.html"} <= names
    for folder, end in (("notebooks", ".ipynb"), ("results", ".jsonl"), ("mcnn", ".py")):
        assert any(n.startswith(f"{folder}/") and n.endswith(end) for n in names)
