"""Sphinx extension: buttons to launch, edit and report, where the book knows its repository.

Whoever publishes the book names it: ``MCNN_REPOSITORY=https://github.com/OWNER/NAME make book``.
Then each page leads to its source, to an edit of it and to a new issue, and each chapter to Binder
and to Colab. Notebooks that are downloaded begin with a cell that installs what they import.
Without the variable nothing of this is shown: a link that leads nowhere is worse than none.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

_GITHUB = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+?")
_BRANCH = "main"
# Colab opens what is in a repository. The notebooks which install are those of the published site.
_PUBLISHED = "gh-pages"


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", _show_buttons)
    app.connect("html-page-context", _open_what_installs, priority=900)  # after the theme's
    app.connect("build-finished", _install_first, priority=400)  # before notebooks are packed
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def address() -> str:
    """Return the address of the repository, or nothing.

    Raises
    ------
    ExtensionError
        If ``MCNN_REPOSITORY`` is no address of a repository on GitHub.
    """
    given = os.environ.get("MCNN_REPOSITORY", "").removesuffix("/").removesuffix(".git")
    if given and not _GITHUB.fullmatch(given):
        raise ExtensionError(
            f"MCNN_REPOSITORY={given!r} is no repository: set it to https://github.com/OWNER/NAME"
        )
    return given


def _show_buttons(app: Sphinx, config: Any) -> None:
    if not address():
        return
    shown = dict.fromkeys(
        ("use_repository_button", "use_issues_button", "use_edit_page_button"), True
    )
    config.html_theme_options = {
        **config.html_theme_options,
        **shown,
        "repository_url": address(),
        "repository_branch": _BRANCH,
        "path_to_docs": "",
        "launch_buttons": {
            "notebook_interface": "jupyterlab",
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
        },
    }


def _open_what_installs(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Let Colab, which has only the notebook, open the one that begins with an installation."""
    for group in context.get("header_buttons", ()):
        for button in group.get("buttons", ()):
            if button.get("text") == "Colab":
                here, there = f"/blob/{_BRANCH}/", f"/blob/{_PUBLISHED}/_sources/"
                button["url"] = button["url"].replace(here, there)


def install_cell(repository: str) -> dict[str, Any]:
    """Return a cell that fetches the package and its records where they are missing."""
    name = repository.rpartition("/")[2]
    lines = [
        "import importlib.util",
        "",
        'if importlib.util.find_spec("mcnn") is None:  # as on Colab',
        f"    !git clone -q --depth 1 {repository}",
        f'    %pip install -q "./{name}[ledger,figures]"',
        f"    %cd -q {name}/notebooks",
    ]
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": "install",
        "metadata": {"tags": ["remove-cell"]},
        "outputs": [],
        "source": "\n".join(lines),
    }


def _install_first(app: Sphinx, error: Exception | None) -> None:
    if error or app.builder.format != "html" or not address():
        return
    for file in Path(app.outdir, "_sources", "notebooks").glob("*.ipynb"):
        notebook = json.loads(file.read_text(encoding="utf-8"))
        if notebook["cells"][0].get("id") != "install":
            notebook["cells"].insert(0, install_cell(address()))
            file.write_text(json.dumps(notebook, indent=1, ensure_ascii=False), encoding="utf-8")
