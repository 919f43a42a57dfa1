"""The talk: quotations against its decks, where they are at hand, and the page about its slides."""

import json
import os
import re
import unicodedata
from functools import cache
from pathlib import Path

import pytest

from mcnn.ledger import claims

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "book/talk.md"
KNOWN = claims.load()
DECKS = {"later": "000_*.txt", "earlier": "001_*.txt"}
# What stands around the talk: by the first word of a claim's source, else the list of papers.
AROUND = {"Zelener": "003_*.txt", "Yao": "004_*.txt", "": "002_*.txt"}
# One sign, written in two ways by the programs that made text of the decks.
SAME = str.maketrans({"−": "-", "\N{NO-BREAK SPACE}": " "})


def plain(text: str) -> str:
    """Compose letters and accents (NFC), take a minus for a hyphen, and white space for a space."""
    return " ".join(unicodedata.normalize("NFC", text).translate(SAME).split())


@cache
def deck(name: str) -> str:
    """The text of a deck; the decks are not part of the project."""
    return document(DECKS[name])


@cache
def document(pattern: str) -> str:
    folder = Path(os.environ.get("MCNN_TALK") or ROOT.parent / "shared/seeds")
    found = sorted(folder.glob(pattern))
    if not found:
        pytest.skip(f"the decks are not at hand: no {pattern} in {folder} (MCNN_TALK names it)")
    (file,) = found
    return plain(file.read_text(encoding="utf-8"))


def decks(which: str) -> list[str]:
    return [deck(name) for name in (DECKS if which == "both" else [which])]


def test_white_space_and_the_minus_are_all_that_may_differ():
    assert plain("a\n b\t −1") == "a b -1"
    assert plain("ab") != plain("a b")
    assert plain("A") != plain("a")
    assert plain("e\N{COMBINING ACUTE ACCENT}") == "é"


@pytest.mark.parametrize("name", [n for n, c in KNOWN.items() if c.source == claims.TALK])
def test_a_quote_is_word_for_word(name):
    claim = KNOWN[name]
    for text in decks(claim.deck):
        assert plain(claim.quote) in text
    assert any(plain(claim.slide) in text for text in decks(claim.deck)), "no slide of this title"


@pytest.mark.parametrize("name", [n for n, c in KNOWN.items() if c.deck != "both"])
def test_a_quote_of_one_deck_is_not_in_the_other(name):
    claim = KNOWN[name]
    if claim.deck is not None:
        (other,) = DECKS.keys() - {claim.deck}
        assert plain(claim.quote) not in deck(other), "in both decks"


@pytest.mark.parametrize("name", [n for n, c in KNOWN.items() if c.role == "source"])
def test_a_quote_of_another_source_is_word_for_word(name):
    claim = KNOWN[name]
    text = document(AROUND.get(claim.source.split()[0].strip(":,"), AROUND[""]))
    assert plain(claim.quote) in text
    assert plain(claim.slide) in text, "no paper or slide of this title"


# The page


def statements() -> list[tuple[str, list[str]]]:
    """Rows of the page with the deck that they are of."""
    found, of = [], ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            of = line.removeprefix("## The ").removesuffix(" deck")
        elif line.startswith("|") and not line.startswith(("|---", "| the slide ")):
            found.append((of, [cell.strip() for cell in line.strip("|").split("|")]))
    return found


def named(cell: str) -> set[str]:
    """Ids of claims in a cell."""
    return set(re.findall(r"(?<!\})`([^`]+)`", cell))


def test_every_statement_has_a_place_a_claim_or_a_reason():
    counts = {"claim": 0, "section": 0, "reason": 0}
    for of, cells in statements():
        assert of in DECKS
        assert len(cells) == 3, cells
        statement, section, why = cells
        assert statement
        if named(why):
            assert named(why) <= KNOWN.keys(), statement
            counts["claim"] += 1
        elif why == "–":
            assert section != "–", f"neither place, nor claim, nor reason: {statement}"
            counts["section"] += 1
        else:
            assert len(why.split()) > 3, statement
            counts["reason"] += 1
    total = sum(counts.values())
    said = "The decks have {} statements: {} with a claim, {} with a section only, {} with a reason"
    assert said.format(total, *counts.values()) + " only." in PAGE.read_text(encoding="utf-8")


def test_every_claim_of_the_talk_is_on_the_page_beside_a_statement_of_its_deck():
    for claim in KNOWN.values():
        if claim.role == "talk":
            found = {of for of, cells in statements() if claim.id in named(cells[2])}
            assert found >= (set(DECKS) if claim.deck == "both" else {claim.deck}), claim.id


def test_links_name_headings_that_exist():
    for _, (_, section, _) in statements():
        links = re.findall(r"\[([^]]+)\]\(([^)]+)\)", section)
        assert bool(links) == (section != "–")
        for heading, target in links:
            file = PAGE.parent / target
            assert file.is_file(), target
            cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
            prose = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
            assert re.search(rf"^#+ {re.escape(heading)}$", prose, re.MULTILINE), heading


def test_quotations_on_the_page_are_short():
    for quotation in re.findall("“([^”]*)”", PAGE.read_text(encoding="utf-8")):
        assert 1 <= len(quotation.split()) <= 15, quotation


def test_quotations_on_the_page_are_word_for_word():
    for of, (statement, _, _) in statements():
        for quotation in re.findall("“([^”]*)”", statement):
            assert plain(quotation) in deck(of), f"{of}: {quotation}"
