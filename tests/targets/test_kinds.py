"""Record kinds: their settings, what they store, and which of them a cache may keep together."""

from typing import ClassVar, Literal

import pytest
from pydantic import ValidationError

from kdcache import RecordKind, register_record
from kdcache.errors import ConfigError
from kdcache.targets.captured import Captured
from kdcache.targets.curve_spec import DEFAULT_NODES, CurveSpec
from kdcache.targets.dense import Dense
from kdcache.targets.drawn import Drawn
from kdcache.targets.factored import Factored
from kdcache.targets.features import Features
from kdcache.targets.fields import Field
from kdcache.targets.records import distribution_of, features_at, record_fields, record_kinds
from kdcache.targets.registry import RECORDS
from kdcache.targets.sampled import Sampled
from kdcache.targets.top_k import TopK

CURVE = {"nodes": (0.0, 0.225, 0.45, 0.675, 1.0, 1.35, 2.0), "temperatures": None}


def test_the_defaults() -> None:
    assert Sampled().model_dump() == {
        "kind": "sampled",
        "exact_top_k": 8,
        "samples": 25,
        "proposal_temperatures": (1.0,),
        "logit_dtype": "uint16",
        "curve": CURVE,
    }
    assert Drawn().model_dump() == {"kind": "drawn", "samples": 32, "temperature": 1.0, "keep": ("entropy",)}
    assert TopK(k=50).model_dump() == {
        "kind": "top_k",
        "k": 50,
        "tail": "ghost",
        "logit_dtype": "uint16",
        "curve": CURVE,
    }
    assert Factored().model_dump() == {
        "kind": "factored",
        "rank": "full",
        "dtype": "int8",
        "calibration_positions": "auto",
        "exact_top_k": 8,
        "samples": 0,
        "proposal_temperatures": (1.0,),
        "logit_dtype": "uint16",
        "curve": CURVE,
    }
    assert Dense().model_dump() == {"kind": "dense", "logit_dtype": "float16"}
    assert Captured(k=5).model_dump() == {"kind": "captured", "k": 5, "temperature": 1.0, "tail": "ghost"}
    assert Features().model_dump() == {"kind": "features", "at": "positions"}


@pytest.mark.parametrize(
    "kind",
    [Sampled(samples=3), Drawn(keep=()), TopK(k=2, tail="renormalise"), Factored(rank=64), Dense(), Captured(k=3)],
)
def test_settings_come_back_by_their_kind(kind: RecordKind) -> None:
    assert record_kinds(kind.model_dump(mode="json")) == (kind,)
    assert type(kind).model_validate_json(kind.model_dump_json()) == kind
    assert kind.kind in kind.words


def test_a_curve_is_of_nodes_or_of_temperatures() -> None:
    assert CurveSpec().nodes == DEFAULT_NODES
    single = CurveSpec(temperatures=(2.0, 1.0, 1.0))
    assert (single.temperatures, single.nodes, single.betas) == ((1.0, 2.0), None, (1.0, 0.5))
    assert CurveSpec.model_validate_json(single.model_dump_json()) == single
    assert CurveSpec(nodes=(1.0, 0.0, 0.5)).nodes == (0.0, 0.5, 1.0)


def test_columns_are_found_by_temperature() -> None:
    assert CurveSpec(nodes=(0.0, 1 / 3, 1.0)).column(3.0) == 1
    assert CurveSpec(nodes=(0.0, 0.5, 1.0)).column(4.0) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 0}, "got samples 0, expected at least 1: record.kind top_k"),
        ({"kind": "factored", "exact_top_k": 0}, "got exact_top_k 0 and samples 0, expected at least one above 0"),
        ({"kind": "dense", "logit_dtype": "uint8"}, "logit_dtype: Input should be 'uint16', 'float16' or 'float32'"),
        ({"tail": "renormalise"}, "tail: Extra inputs are not permitted"),
        ({"proposal_temperatures": []}, "got no proposal_temperatures, expected at least one"),
        ({"proposal_temperatures": [1.0, 2.0]}, r"got proposal temperature 2 without .* add 0.5 to curve.nodes"),
        ({"proposal_temperatures": [0.0]}, "got proposal temperature 0 without"),
        ({"curve": {"temperatures": [2.0]}}, "got proposal temperature 1 without"),
        ({"kind": "factored", "samples": 3, "curve": {"temperatures": [2.0]}}, "got proposal temperature 1 without"),
        ({"curve": {"nodes": [0, 1], "temperatures": [1]}}, "got nodes and temperatures, expected one of them"),
        ({"curve": {"nodes": [0.5, 1]}}, r"got nodes \[0.5, 1.0\], expected 0 and at least one"),
        ({"curve": {"nodes": [0]}}, "expected 0 and at least one"),
        ({"curve": {"nodes": [0, 1, "inf"]}}, "expected 0 and at least one"),
        ({"curve": {"temperatures": []}}, "expected at least one temperature, each above 0"),
        ({"curve": {"temperatures": [-1]}}, "expected at least one temperature, each above 0"),
        ({"exact_top_k": -1}, "greater than or equal to 0"),
        ({"kind": "top_k"}, "k: Field required"),
        ({"kind": "top_k", "k": 0}, "greater than or equal to 1"),
        ({"kind": "top_k", "k": 4, "tail": "sampled"}, "'ghost' or 'renormalise'"),
        ({"kind": "factored", "rank": 0}, "greater than 0"),
        ({"kind": "features", "at": "tokens"}, "'positions' or 'pooled'"),
        ({"kind": "topk"}, "got kind topk; did you mean top_k"),
        ([{"kind": "dense"}, {}], "got records dense and sampled, expected one of them"),
        ([{"kind": "features"}, {"kind": "features"}], "got two records with a field features"),
        (["dense"], "got 'dense', expected a mapping such as {kind: sampled}"),
    ],
)
def test_bad_settings_are_refused(settings: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        record_kinds(settings)


def test_a_top_k_record_needs_no_proposals_on_its_curve() -> None:
    kind = TopK.model_validate({"k": 8, "curve": {"temperatures": [2.0]}, "tail": "renormalise"})
    assert kind.plan.proposals == ()
    assert kind.answers(2.0)
    assert not kind.answers(1.0)


def test_how_many_positions_a_factored_record_calibrates_with() -> None:
    kind = Factored(rank=64)
    assert (kind.positions_for(64), kind.positions_for(4096)) == (4096, 32768)
    assert Factored(calibration_positions=10).positions_for(64) == 10


def test_a_cache_keeps_one_distribution_and_others_beside_it() -> None:
    records = record_kinds([{"kind": "features", "at": "pooled"}, {"kind": "dense"}])
    assert distribution_of(records) == Dense()
    assert features_at(records) == "pooled"
    assert [field.name for field in record_fields(records, 3, width=4)] == ["features", "maximum", "logits"]
    assert record_kinds(None) == ()
    assert distribution_of(record_kinds({"kind": "features"})) is None


def test_a_late_field_comes_with_the_basis() -> None:
    kind = Factored(rank=64)
    names, late = ([field.name for field in kind.fields(100, rank=rank)] for rank in (None, 5))
    assert {*late} - {*names} == {*kind.late_fields}


def test_a_kind_of_ones_own_is_read_like_the_others() -> None:
    class Mass(RecordKind):
        distribution: ClassVar[bool] = False

        kind: Literal["mass_of_a_test"] = "mass_of_a_test"
        digits: int = 3

        def fields(self, num_classes: int, *, width: int | None = None, rank: int | None = None) -> list[Field]:
            return [Field("mass", "position", "float32")]

    register_record("mass_of_a_test", Mass)
    try:
        assert record_kinds([{}, {"kind": "mass_of_a_test", "digits": 5}]) == (Sampled(), Mass(digits=5))
        with pytest.raises(ConfigError, match="got a second record kind called dense, expected a name of its own"):
            register_record("dense", Mass)
    finally:
        RECORDS._found.pop("mass_of_a_test")


def test_frozen() -> None:
    with pytest.raises(ValidationError):
        Sampled().samples = 3  # type: ignore[misc]
