"""The entries of one distribution, in the forms in which JSON has them -> ids and log-probabilities.

{"9": {"logprob": -0.3, "rank": 1}}, {"token_id:9": -0.3}, [{"token": "token_id:9", "logprob": -0.3}],
[{"token_id": 9, "logprob": -0.3}] and, of SGLang and of pairs, [[-0.3, 9, "text"]].
"""

from typing import Any

from kdcache.errors import CorpusError

__all__ = ["Entries", "entries_of", "integers", "token_id"]

Entries = tuple[list[int], list[float]]
LARGEST = 1 << 62
"""No id is as large, and all below fit 64 bits."""


def entries_of(value: Any, where: str) -> Entries:
    """(ids, log-probabilities). Raises CorpusError for another form."""
    if isinstance(value, dict):
        pairs = [(key, one.get("logprob") if isinstance(one, dict) else one) for key, one in value.items()]
    elif isinstance(value, list):
        pairs = [_pair(one, where) for one in value]
    else:
        got = "null" if value is None else "no list and no object"
        raise CorpusError(f"{where}: a distribution is {got}, expected its entries")
    return [token_id(key, where) for key, _ in pairs], [_number(log_prob, key, where) for key, log_prob in pairs]


def _number(log_prob: Any, key: Any, where: str) -> float:
    if isinstance(log_prob, bool) or not isinstance(log_prob, int | float):
        got = "missing" if log_prob is None else f"{log_prob!r:.40}"
        raise CorpusError(f"{where}: the log-probability of class {key} is {got}, expected a number")
    return float(log_prob)


def _pair(one: Any, where: str) -> tuple[Any, Any]:
    if isinstance(one, dict):
        return one.get("token_id", one.get("token")), one.get("logprob")
    if isinstance(one, list) and len(one) >= 2:
        return one[1], one[0]
    raise CorpusError(f"{where}: got entry {one!r:.60}, expected an object with token and logprob")


def token_id(token: Any, where: str) -> int:
    """9 of 9, "9" and "token_id:9". Raises CorpusError for text, of which many classes may be."""
    if type(token) is int and abs(token) < LARGEST:
        return token
    if isinstance(token, str):
        digits = token.removeprefix("token_id:")
        if digits.isascii() and digits.removeprefix("-").isdigit() and len(digits) < 12:
            return int(digits)
    raise CorpusError(
        f"{where}: a class is told as {token!r:.40}, expected its id: ask the server for ids in place of text (vLLM: "
        "--return-tokens-as-token-ids)"
    )


def integers(value: Any, name: str, where: str) -> list[int]:
    """A list of token ids. Raises CorpusError for another value."""
    if not isinstance(value, list) or not all(type(one) is int and abs(one) < LARGEST for one in value):
        raise CorpusError(f"{where}: {name} is no list of integers, expected token ids")
    return value
