"""The quickstart says where its figures are not those of the README, and never fails for it."""

from pathlib import Path

import pytest
from compare_table import differences, main, table_of

REPO = Path(__file__).parents[2]
README = (REPO / "README.md").read_text(encoding="utf-8")


def test_the_readme_has_the_table_of_the_quickstart() -> None:
    table = table_of(README)
    assert {row for row, _ in table} == {"teacher SmolLM2-135M-Instruct", "untrained random", "random", "cut"}
    assert {column for _, column in table} == {
        *("parameters", "label NLL", "perplexity", "KL to teacher", "top-1 agreement")
    }


def test_figures_that_differ_are_named_with_their_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = table_of(README)
    block = README[README.index("                               parameters") :].split("```")[0]
    loss = table["cut", "label NLL"]
    page, printed = tmp_path / "README.md", tmp_path / "table.txt"
    page.write_text(README, encoding="utf-8")

    def said(text: str) -> str:
        printed.write_text(text, encoding="utf-8")
        monkeypatch.setattr("sys.argv", ["compare_table.py", str(printed), str(page)])
        main()
        return capsys.readouterr().out

    assert said(block) == "every figure is that of README.md\n"
    other = f"{float(loss) + 0.002:.3f}"
    assert said(block.replace(loss, other)) == (
        f"1 of 20 figures are not those of README.md:\n  cut, label NLL: {other} here, {loss} in README.md (+0.002)\n"
    )
    assert "holds no table of students" in said("Traceback")


def test_a_row_or_a_number_that_is_not_there_is_named() -> None:
    expected = {("a", "loss"): "1.000", ("b", "loss"): "49,850.6"}
    got = {("a", "loss"): "n/a", ("c", "loss"): "15.3%"}
    assert differences(got, expected, "P") == [
        "a, loss: n/a here, 1.000 in P",
        "b, loss: nothing here, 49,850.6 in P",
        "c, loss: 15.3% here, nothing in P",
    ]
