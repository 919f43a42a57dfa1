"""The book holds together: one stem per idea, no dangling link, nothing from another machine."""

import html.parser
import json
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from mcnn.ledger import claims, records, report

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_build" / "html"
# A chapter has one word; `density_networks` is a further page of the chapter `density`.
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
STEMS = [name for name in NOTEBOOKS if "_" not in name]
FURTHER = [name for name in NOTEBOOKS if "_" in name]
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}

needs_site = pytest.mark.skipif(not SITE.exists(), reason="no book in _build/html: run `make book`")


@pytest.mark.parametrize("stem", STEMS)
def test_an_idea_has_one_stem_everywhere(stem):
    def exists(folder):
        return (ROOT / folder / f"{stem}.py").is_file() or (ROOT / folder / stem).is_dir()

    assert exists("mcnn"), "the notebook explains what no module does"
    assert exists("mcnn/experiments"), "no experiments"
    assert list((ROOT / "tests").glob(f"test_{stem}*.py")), "no tests"
    assert any(name.startswith(f"{stem}-") for name in claims.load()), "no claims"


def test_records_and_claims_belong_to_a_chapter_of_the_talk():
    known = claims.load().values()
    chapters = {Path(claim.notebook).stem.partition("_")[0] for claim in known}
    for claim in known:
        stem = Path(claim.notebook).stem.partition("_")[0]
        assert claim.id.startswith(f"{stem}-")
        assert all(name.startswith(f"{stem}-") for name in claim.experiments)
    for file in (ROOT / "results").glob("*-*.jsonl"):
        assert file.stem.split("-")[0] in chapters


def test_committed_records_can_be_trusted():
    for file in sorted((ROOT / "results").glob("*.jsonl")):
        if file.name != records.REVALIDATIONS:
            assert records.scan(file)[1] == []
    records.revalidations(ROOT / "results")  # raises where one is altered


def test_pages_carry_the_verdicts_of_the_records():
    late = report.update_pages(claims.judge_all(ROOT / "results"), write=False)
    assert late == [], "out of date: run `make notebooks`"


def test_every_notebook_is_a_chapter():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter for part in toc["parts"] for chapter in part["chapters"]]
    files = [chapter["file"] for chapter in chapters]
    listed = [Path(file).stem for file in files if file.startswith("notebooks/")]
    assert sorted(listed) == STEMS
    pages = {path.stem for path in (ROOT / "book").iterdir() if path.suffix in (".md", ".rst")}
    assert {Path(file).stem for file in (*files, toc["root"]) if file.startswith("book/")} == pages
    sections = {chapter["file"]: chapter.get("sections", ()) for chapter in chapters}
    below = {section["file"] for listed in sections.values() for section in listed}
    for name in FURTHER:
        of = [
            chapter
            for chapter, listed in sections.items()
            if {"file": f"notebooks/{name}"} in listed
        ]
        assert of == [f"notebooks/{name.partition('_')[0]}"], f"{name} is not below its chapter"
    assert below >= {f"book/api/{path.stem}" for path in (ROOT / "book" / "api").iterdir()}
    ideas = yaml.safe_load((ROOT / "book" / "chapters.yml").read_text(encoding="utf-8"))
    assert sorted(ideas) == STEMS, "the first page does not say what each chapter asks"


def test_part_two_is_linked_from_where_it_goes_on():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    (part,) = [p for p in toc["parts"] if p.get("caption", "").startswith("Part two")]
    ideas = yaml.safe_load((ROOT / "book" / "chapters.yml").read_text(encoding="utf-8"))
    for chapter in part["chapters"]:
        stem = Path(chapter["file"]).stem
        for before in ideas[stem]["from"]:
            text = (ROOT / "notebooks" / f"{before}.ipynb").read_text(encoding="utf-8")
            assert f"({stem}.ipynb)" in text, f"{before} does not say that {stem} goes on from it"


@pytest.mark.parametrize("stem", STEMS)
def test_a_chapter_and_its_reference_lead_to_each_other(stem):
    text = (ROOT / "book" / "api" / f"{stem}.rst").read_text(encoding="utf-8")
    assert f":doc:`/notebooks/{stem}`" in text
    assert f".. automodule:: mcnn.{stem}\n" in text
    if SITE.exists():
        links = _Page(SITE / "notebooks" / f"{stem}.html").links
        assert f"../book/api/{stem}.html" in links
        claim = next(name for name in claims.load() if name.startswith(f"{stem}-"))
        assert f"../book/ledger.html#claim-{claim}" in links


@pytest.mark.parametrize("stem", STEMS)
def test_an_answer_quotes_the_talk_and_states_no_result_of_its_own(stem):
    notebook = json.loads((ROOT / "notebooks" / f"{stem}.ipynb").read_text(encoding="utf-8"))
    first = "".join(notebook["cells"][0]["source"])
    head, _, box = first.partition("\n\n:::{admonition} Answer\n:class: tip\n")
    assert re.fullmatch(rf"\({stem}\)=\n# [^\n]+", head), "the box is not below the title"
    box, own = box.partition("\n:::\n")[0], [c for c in claims.load().values() if c.chapter == stem]
    quotes = [" ".join(quote.split()) for quote in re.findall("“(.+?)”", box, re.S)]
    assert quotes
    for quote in quotes:
        assert any(quote in claim.quote for claim in own), f"no slide says “{quote}”"
    cited = re.findall(r"\{verdict\}`([^`]+)`", box)
    assert cited
    assert set(cited) <= {claim.id for claim in own}
    (figure,) = re.findall(r"\{numref\}`([^`]+)`", box)
    drawn = [c["metadata"].get("mystnb", {}).get("figure", {}) for c in notebook["cells"]]
    assert figure in [shown.get("name") for shown in drawn]
    assert box.count("**Caveat.**") == 1
    assert not re.search(r"\d", re.sub("“.+?”|`[^`]+`", "", box, flags=re.S)), "a typed number"


class _Page(html.parser.HTMLParser):
    """Collects what a page links to, what it loads, and where it can be linked to."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.loads, self.anchors = [], [], {"", "top"}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors |= {attributes.get("id"), attributes.get("name")} - {None}
        if tag == "a":
            self.links.append(attributes.get("href", ""))
        elif tag == "link" and attributes.get("rel") not in ("canonical", "index", "search"):
            self.loads.append(attributes["href"])
        elif tag in LOADED:
            self.loads.append(attributes.get(LOADED[tag], ""))


@pytest.fixture(scope="module")
def pages() -> dict[Path, _Page]:
    found = (path for path in SITE.rglob("*.html") if "_static" not in path.parts)
    return {path.resolve(): _Page(path) for path in found}


@needs_site
def test_local_links_and_anchors_lead_somewhere(pages):
    dangling = []
    for path, page in pages.items():
        for link in (*page.links, *page.loads):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                dangling.append(f"{path.name}: {link}")
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                dangling.append(f"{path.name}: no such place: {link}")
    assert not dangling


@needs_site
def test_pages_load_nothing_from_another_machine(pages):
    assert {
        path.stem: load for path, page in pages.items() for load in page.loads if "//" in load
    } == {}
    for sheet in SITE.rglob("*.css"):
        style = sheet.read_text(encoding="utf-8")
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", style), sheet


@needs_site
def test_no_page_names_the_machine_it_was_built_on(pages):
    assert not [path.name for path in pages if str(ROOT) in path.read_text(encoding="utf-8")]


MEGABYTE = 1_000_000


@needs_site
def test_the_site_is_light(pages):
    sizes = {path: path.stat().st_size for path in SITE.rglob("*") if path.is_file()}
    assert sum(sizes.values()) <= 20 * MEGABYTE
    assert {path.name: sizes[path] for path in pages if sizes[path] > 1.5 * MEGABYTE} == {}
    assert not list(SITE.rglob("*.map"))
    for file in (*SITE.rglob("*.js"), *SITE.rglob("*.css")):
        assert "# sourceMappingURL=" not in file.read_text(encoding="utf-8"), file


@needs_site
def test_a_picture_is_small_and_needs_nothing(pages):
    text = (SITE / "book" / "play.html").read_text(encoding="utf-8")
    figures = re.findall(r"<figure class=\"mcnn-picture.*?</figure>", text, re.S)
    assert len(figures) == 6
    for figure in figures:
        assert len(figure.encode()) <= 50_000
        assert not re.search(r"fetch\(|XMLHttpRequest|import\(|https?://", figure)


@needs_site
def test_a_page_says_what_it_is_about(pages):
    told = {}
    for path in pages:
        text = path.read_text(encoding="utf-8")
        if path.parent == SITE.resolve():
            continue  # the index, the search and the forwarding page
        (told[path.name],) = re.findall(r'<meta name="description" content="([^"]{40,})"', text)
        (card,) = re.findall(r'<meta property="og:image" content="([^"]+)"', text)
        assert (path.parent / card).is_file() or "//" in card
    assert len(set(told.values())) == len(told), "two pages describe themselves alike"


@needs_site
def test_a_claim_of_the_ledger_can_be_linked_to(pages):
    ledger = pages[(SITE / "book" / "ledger.html").resolve()]
    assert {f"claim-{name}" for name in claims.load()} <= ledger.anchors
