"""kdcache/store/schemas/ is what the classes of header, manifest and commit record say."""

import pytest
from format_schemas import CLASSES, FOLDER, text


@pytest.mark.parametrize("name", CLASSES)
def test_a_schema_is_up_to_date(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text(encoding="utf-8") == text(CLASSES[name]), (
        "run: python launch/format_schemas.py"
    )


def test_no_schema_is_left_over() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == {*CLASSES}
