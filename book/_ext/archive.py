"""Pack what a reader in ten years needs: book, notebooks, records, code, and checksums.

`make archive` calls this after the book was rendered.
"""

import hashlib
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "_build" / "html"
TARGET = ROOT / "_build" / "mcnn-archive.tar.gz"
SUMS = "SHA256SUMS"


def main() -> int:
    """Return the exit status: 2 if there is no book, or no list of files."""
    if not (SITE / "index.html").exists():
        print(f"archive: no book in {SITE}: run `make book`", file=sys.stderr)
        return 2
    try:
        packed = files()
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"archive: git cannot list the files of {ROOT}: {error}", file=sys.stderr)
        return 2
    sums = "".join(f"{_sha256(file)}  {name}\n" for name, file in packed.items())
    listed = ROOT / "_build" / SUMS
    listed.write_text(sums, encoding="utf-8")
    with tarfile.open(TARGET, "w:gz") as archive:
        archive.add(listed, f"mcnn/{SUMS}", filter=_anonymous)
        for name, file in packed.items():
            archive.add(file, f"mcnn/{name}", filter=_anonymous)
    print(f"The archive: {TARGET} ({len(packed)} files, {TARGET.stat().st_size / 1e6:.1f} MB)")
    return 0


def files() -> dict[str, Path]:
    """Return what is packed: what git tracks, the rendered book, and the PDF if there is one.

    Raises
    ------
    subprocess.CalledProcessError
        Outside a git checkout.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    )
    packed = {name: ROOT / name for name in listed.stdout.split("\0") if name}
    packed = {name: file for name, file in packed.items() if file.is_file()}
    built = (file for file in sorted(SITE.rglob("*")) if file.is_file())
    packed |= {f"html/{file.relative_to(SITE).as_posix()}": file for file in built}
    for pdf in sorted((ROOT / "_build").glob("*.pdf")):
        packed[pdf.name] = pdf
    return packed


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out who packed it."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    sys.exit(main())
