"""Print the rendered book into one PDF, through headless Chromium.

`make pdf` calls this. The pages of the site become sections of one document: links between them
stay links, solutions are open, code that the site folds away is left out.
"""

import re
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml
from bs4 import BeautifulSoup, Tag
from playwright.sync_api import Error, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "_build" / "html"
TARGET = ROOT / "_build" / "monte-carlo-methods-and-neural-networks.pdf"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

# What a site needs and paper does not.
_LEFT_OUT = (
    ".headerlink, .prev-next-footer, .copybtn, .toggle-button, script, noscript, .mcnn-behind, "
    ".sd-tab-set > input, details.hide.above-input, details.hide-input, [data-part=steer]"
)
_STYLE = """
@page { size: A4; margin: 22mm 20mm 20mm; }
html { font-size: 10.5pt; }
body { background: white; }
body * { scrollbar-width: none; }
.bd-article { padding: 0; max-width: none; }
.chapter { break-before: page; }
.front { height: 230mm; display: flex; flex-direction: column; justify-content: center; }
.front h1 { font-size: 34pt; border: 0; } .front p { font-size: 13pt; }
.contents ol { list-style: none; padding: 0; }
.contents .part { font-weight: 600; margin-top: 1em; }
pre, code { font-size: 8.5pt; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
table { font-size: 9pt; width: 100%; }
.bd-article table :is(td, th, code, .pre) { white-space: normal; overflow-wrap: break-word; }
.bd-article table :is(td, th) { padding: .2em .5em; }
.mcnn-ledger td, .mcnn-ledger code { overflow-wrap: anywhere; }
.bd-article img { max-width: 125mm; max-height: 180mm; }
.bd-article .sd-col img { max-width: 100%; max-height: 90mm; }
.sd-row { flex-wrap: nowrap !important; break-inside: avoid; }
.sd-row > .sd-col { flex: 1 1 50% !important; width: 50% !important; }
mjx-container[display="true"] > svg { max-width: 100%; height: auto; }
mjx-container :is(path, use) { stroke-width: 0 !important; }
div.cell, div.cell_output, div.cell_output > div {
  margin-block: .3em !important; padding-block: 0 !important;
}
div.cell_output pre { margin: 0 !important; }
figure, img, svg, tr, .admonition-title { break-inside: avoid; }
h1, h2, h3, h4 { break-after: avoid; }
a { color: inherit; text-decoration-color: #999; }
"""


def main() -> int:
    """Return the exit status: 2 if there is no site or no browser."""
    if not (SITE / "index.html").exists():
        print(f"pdf: no book in {SITE}: run `make book`", file=sys.stderr)
        return 2
    sheet = SITE / "print.html"
    sheet.write_text(assemble(), encoding="utf-8")
    try:
        _print(sheet)
    except Error as error:
        print(f"pdf: no Chromium to print with: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    finally:
        sheet.unlink()
    print(f"The book on paper: {TARGET}")
    return 0


def pages() -> list[tuple[str, list[str]]]:
    """Return the pages, part by part, in the order of the table of contents.

    The reference stays on the site: nobody reads it on paper.
    """
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    found = [("", [toc["root"]])]
    for part in toc["parts"]:
        files = []
        for chapter in part["chapters"]:
            if chapter["file"] != "book/api":
                files += [chapter["file"], *(s["file"] for s in chapter.get("sections", ()))]
        found.append((part["caption"], files))
    return found


def assemble() -> str:
    """Return one HTML document, beside the site's own, of all pages."""
    parts = pages()
    names = {f"{name}.html" for _, files in parts for name in files}
    articles = {f: _article(f, names) for _, files in parts for f in files}
    head = BeautifulSoup(
        (SITE / f"{parts[0][1][0]}.html").read_text(encoding="utf-8"), "html.parser"
    )
    styles = [
        f'<link rel="stylesheet" href="{link["href"].removeprefix("../")}">'
        for link in head.find_all("link", rel="stylesheet")
    ]
    contents = []
    for caption, files in parts:
        contents.append(f'<li class="part">{caption}</li>')
        for name in files:
            title = articles[name].find("h1")
            text = title.get_text().strip() if title else name
            contents.append(f'<li><a href="#{_key(name)}">{text}</a></li>')
    body = "".join(f'<div class="chapter">{article}</div>' for article in articles.values())
    return f"""<!DOCTYPE html><html lang="en" data-theme="light" data-mode="light"><head>
<meta charset="utf-8"><title>Monte Carlo Methods and Neural Networks</title>
{"".join(styles)}<style>{_STYLE}</style>
<script>window.MathJax = {{options: {{processHtmlClass: "math", enableMenu: false}}}}</script>
<script src="_static/mathjax/tex-svg.js"></script></head>
<body><main class="bd-article">
<div class="front"><h1>Monte Carlo Methods and Neural Networks</h1>
<p>A book that works through Alexander Keller's talk, and measures what it claims.</p></div>
<div class="contents chapter"><h1>Contents</h1><ol>{"".join(contents)}</ol></div>
{body}</main></body></html>"""


def _key(page: str, place: str = "") -> str:
    return re.sub(r"\W+", "-", page) + (f"--{place}" if place else "")


def _article(name: str, names: set[str]) -> Tag:
    """Return a page's text, with ids of its own and links that lead into the same document."""
    page = SITE / f"{name}.html"
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    article = soup.find("article")
    for useless in article.select(_LEFT_OUT):
        useless.decompose()
    for folded in article.find_all("details"):
        folded["open"] = ""
    for shut in article.select(".toggle, .dropdown"):
        shut["class"] = [c for c in shut["class"] if c not in ("toggle", "dropdown")]
    for tag in article.find_all(id=True):
        tag["id"] = _key(name, tag["id"])
    article["id"] = _key(name)
    for tag, attribute in (("a", "href"), ("img", "src")):
        for item in article.find_all(tag, attrs={attribute: True}):
            item[attribute] = _moved(item[attribute], page, name, names)
    return article


def _moved(link: str, page: Path, name: str, names: set[str]) -> str:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return link
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    local = target.relative_to(SITE).as_posix() if target.is_relative_to(SITE) else ""
    if local in names:
        place = unquote(parts.fragment)
        return "#" + _key(local.removesuffix(".html"), place)
    return local


def _print(sheet: Path) -> None:
    found = [path for path in map(shutil.which, BROWSERS) if path]
    with sync_playwright() as playwright:
        options = {"executable_path": found[0] if found else None, "args": ["--no-sandbox"]}
        browser = playwright.chromium.launch(**options)
        page = browser.new_page()
        page.set_default_timeout(300_000)
        page.goto(sheet.as_uri(), wait_until="load")
        page.evaluate("async () => { await MathJax.startup.promise }")
        page.pdf(
            path=TARGET,
            prefer_css_page_size=True,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=(
                '<div style="font-size:8px;width:100%;text-align:center;color:#666">'
                '<span class="pageNumber"></span></div>'
            ),
            outline=True,
            tagged=True,
        )
        browser.close()


if __name__ == "__main__":
    sys.exit(main())
