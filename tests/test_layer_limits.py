"""The page of limits says what layers do: each use works, or is refused by our own error."""

import layer_limits


def test_the_page_is_what_is_found():
    found = layer_limits.outcomes()
    refused = {key: message for key, message in found.items() if message}
    assert all("ResidualODE" in layer for layer, _ in refused), refused
    assert all(m.startswith(("UsageError", "ArithmeticError")) for m in refused.values()), refused
    text = layer_limits.PAGE.read_text(encoding="utf-8")
    assert layer_limits.page(found) == text, "python tests/layer_limits.py writes the page anew"
