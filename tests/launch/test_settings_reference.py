"""configs/SETTINGS.md is what the classes of settings say, and they say something of every setting."""

import pytest
from settings_reference import PAGE, RUNS, described, page, sections


def test_the_page_is_up_to_date() -> None:
    printed = page()
    assert PAGE.read_text(encoding="utf-8") == printed, "run: python launch/settings_reference.py > configs/SETTINGS.md"


@pytest.mark.parametrize("command", RUNS)
def test_every_setting_is_described(command: str) -> None:
    for place, cls in sections(RUNS[command]):
        told = {name for name, field in cls.model_fields.items() if f"{name}: {field.default}" in place}
        silent = cls.model_fields.keys() - described(cls)[1].keys() - told
        assert not silent, f"{place or command}: {sorted(silent)} have no entry in the docstring of {cls.__name__}"


def test_kinds_have_a_section_each() -> None:
    places = [place for place, _ in sections(RUNS["kdcache dump-logits CONFIG"])]
    assert {"corpus", "teacher", "task, name: causal_lm", "task, name: token_classification"} <= {*places}
