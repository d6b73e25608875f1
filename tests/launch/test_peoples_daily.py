"""Lines of word/tag pairs become characters with BIO tags."""

import pytest
from peoples_daily import cut_long, parse_line, people


def spans(line: str) -> list[tuple[str, str]]:
    """(entity, its characters), read back from the tags."""
    text, tags = parse_line(line)
    found: list[tuple[str, str]] = []
    for character, tag in zip(text, tags, strict=True):
        if tag[0] == "B":
            found.append((tag[2:], character))
        elif tag[0] == "I":
            entity, so_far = found.pop()
            assert entity == tag[2:]
            found.append((entity, so_far + character))
    return found


def test_a_line_as_it_stands_in_the_corpus() -> None:
    text, tags = parse_line("新华社/nt  记者/n  兰/nr  红光/nr  在/p  北京/ns")
    assert text == "新华社记者兰红光在北京"
    assert " ".join(tags) == "B-ORG I-ORG I-ORG O O B-PER I-PER I-PER O B-LOC I-LOC"


def test_neighbours_of_one_kind_stay_apart() -> None:
    assert spans("安徽/ns  黄山/ns") == [("LOC", "安徽"), ("LOC", "黄山")]


@pytest.mark.parametrize(
    ("run", "sizes"),
    [
        ("江 泽民", [2]),
        ("克林顿", [1]),
        ("欧阳 修", [2]),
        ("杜 中武 孙 传刚", [2, 2]),
        ("雪村 守仁", [1, 1]),
        ("马克思 恩格斯", [1, 1]),
        ("陈 方 安生", [3]),
        ("若愚 肖 荻", [1, 2]),
        ("龙 益飞 石雄", [2, 1]),
        ("胡 桃 汉仙 湘国", [2, 1, 1]),
        ("周", [1]),
    ],
)
def test_people_of_a_run(run: str, sizes: list[int]) -> None:
    assert people(run.split()) == sizes


def test_a_run_of_names_ends_at_another_word() -> None:
    assert spans("李/nr  、/w  鲁迅/nr  和/c  周/nr  恩来/nr") == [("PER", "李"), ("PER", "鲁迅"), ("PER", "周恩来")]


def test_a_bracketed_organisation_is_one_span() -> None:
    assert spans("在/p  [中国/ns  国际/n  广播/vn  电台/n]nt  ，/w") == [("ORG", "中国国际广播电台")]


def test_the_outermost_entity_wins() -> None:
    assert spans("[[北京/ns  大学/n]nt  中文系/n]nt  王/nr  力/nr") == [("ORG", "北京大学中文系"), ("PER", "王力")]
    assert spans("[[香港/ns  特别/a  行政区/n]ns  政府/n]nt") == [("ORG", "香港特别行政区政府")]
    assert spans("[香港/ns]nt") == [("ORG", "香港")]


def test_a_bracket_of_another_kind_hides_nothing() -> None:
    assert spans("[[上海/ns  证券/n]nt  指数/n]nz") == [("ORG", "上海证券")]
    assert spans("[深圳/ns  特区/n]l") == [("LOC", "深圳")]


def test_marks_that_look_like_the_format() -> None:
    text, tags = parse_line("１/m  //w  ２/m  [/w  ]/w  A/B/nx")
    assert text == "１/２[]A/B"
    assert set(tags) == {"O"}


def test_a_word_without_a_tag_is_an_error() -> None:
    with pytest.raises(ValueError, match="got '北京', expected word/tag"):
        parse_line("在/p  北京")


def test_long_lines_are_cut_after_sentences_as_late_as_possible() -> None:
    text = "一二三。四五！”六七八？九"
    tags = tuple(str(at) for at in range(len(text)))
    assert [piece for piece, _ in cut_long(text, tags, longest=8)] == ["一二三。四五！”", "六七八？九"]
    assert [piece for piece, _ in cut_long(text, tags, longest=7)] == ["一二三。", "四五！”", "六七八？九"]
    assert [piece for piece, _ in cut_long(text, tags, longest=2)] == ["一二三。", "四五！”", "六七八？", "九"]
    assert list(cut_long(text, tags, longest=13)) == [(text, tags)]
    for longest in range(1, 14):
        pieces = list(cut_long(text, tags, longest))
        assert "".join(piece for piece, _ in pieces) == text
        assert sum((tags for _, tags in pieces), ()) == tags


def test_no_sentence_end_no_cut() -> None:
    text = "名单，" * 100
    assert list(cut_long(text, ("O",) * 300)) == [(text, ("O",) * 300)]
    assert list(cut_long("", ())) == []
