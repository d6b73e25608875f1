"""The quickstart's text is pinned: what else is in a library, or missing there, moves no other row."""

from make_corpus import PINNED, chosen, digest, pins, read_pins

LIBRARY = [(f"module{i % 40:02d}.py", f"The docstring number {i}. " * 20) for i in range(400)]


def test_the_pins_name_each_docstring_once_and_no_module_in_both_parts() -> None:
    pinned = read_pins(PINNED)
    assert [sum(part == name for part, _, _ in pinned) for name in ("train", "heldout")] == [280, 40]
    assert len({sha256 for _, sha256, _ in pinned}) == 320
    modules = {name: {module for part, _, module in pinned if part == name} for name in ("train", "heldout")}
    assert not modules["train"] & modules["heldout"]


def test_files_more_or_less_in_a_library_move_no_other_row() -> None:
    pinned = [tuple(line.split()) for line in pins(LIBRARY, 60, 5)]
    found = {digest(text): text for _, text in LIBRARY}
    rows, missing = chosen(found, pinned, "train")  # type: ignore[arg-type]
    assert (len(rows), missing) == (60, 0)
    more = {digest("another"): "another", **found}
    assert chosen(more, pinned, "train") == (rows, 0)  # type: ignore[arg-type]
    fewer = {key: text for key, text in found.items() if text != rows[7]["text"]}
    assert chosen(fewer, pinned, "train") == (rows[:7] + rows[8:], 1)  # type: ignore[arg-type]
