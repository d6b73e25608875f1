from pathlib import Path

from kdcache.tasks.characters import character_tokenizer
from kdcache.tasks.tokenizer import load_tokenizer, tokenizer_digest

TEXTS = ["我爱北京 天安门", "北京 很大", "我们 爱 北京", "a b"]


def test_frequent_characters_are_tokens_and_rare_ones_unknown() -> None:
    tokenizer = character_tokenizer(TEXTS)
    assert tokenizer.convert_ids_to_tokens(tokenizer("我 爱京天")["input_ids"]) == [
        "[CLS]", "我", "爱", "京", "[UNK]", "[SEP]",
    ]  # fmt: skip
    pair = tokenizer("北", "京", return_token_type_ids=True)
    assert pair["token_type_ids"] == [0, 0, 0, 1, 1]
    assert tokenizer.pad_token_id == 0


def test_order_of_the_texts_does_not_matter_and_a_saved_copy_is_the_same(tmp_path: Path) -> None:
    tokenizer = character_tokenizer(TEXTS)
    tokenizer.save_pretrained(tmp_path)
    copies = [character_tokenizer(reversed(TEXTS)), load_tokenizer(tmp_path)]
    assert [tokenizer_digest(copy) for copy in copies] == [tokenizer_digest(tokenizer)] * 2
    assert copies[1].is_fast
