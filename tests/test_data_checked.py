"""What is remembered of a check, and when it is not."""

import os

import pytest

from mcnn.data.checked import remembered
from mcnn.errors import DataError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/images").write_bytes(b"1234")
    return tmp_path / "set"


@pytest.fixture
def ask(folder):
    """Ask for a folder; returns how often it was checked by then."""
    checks = []

    def check():
        checks.append(1)
        return "whole"

    def ask(key="name", memory=folder.parent / "cache/checked.json"):
        assert remembered(key, folder, memory, check) == "whole"
        return len(checks)

    return ask


def test_what_was_checked_is_not_checked_again_until_a_file_changes(folder, ask):
    assert [ask(), ask()] == [1, 1]
    (folder / "images").write_bytes(b"1235")
    os.utime(folder / "images", ns=(1, 1))
    assert [ask(), ask()] == [2, 2]
    (folder / "labels").write_bytes(b"")
    assert [ask(), ask()] == [3, 3]
    assert [ask("other"), ask("other"), ask()] == [4, 4, 3 + 1]


def test_what_cannot_be_kept_is_checked_each_time(folder, ask):
    memory = folder.parent / "cache/checked.json"
    memory.parent.write_text("a file where the folder should be")
    assert [ask(), ask()] == [1, 2]


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", "{}"])
def test_a_damaged_memory_is_begun_anew(folder, ask, content):
    memory = folder.parent / "cache/checked.json"
    memory.parent.mkdir()
    memory.write_text(content)
    assert [ask(), ask()] == [1, 1]


def test_a_failure_is_not_remembered(folder, tmp_path):
    def check():
        raise DataError("damaged")

    for _ in range(2):
        with pytest.raises(DataError, match="damaged"):
            remembered("name", folder, tmp_path / "memory.json", check)
