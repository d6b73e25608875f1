import pytest
from pydantic import ValidationError

from kdcache.targets.spec import DEFAULT_NODES, CurveSpec, FactorSpec, RecordSpec


def test_the_defaults() -> None:
    spec = RecordSpec()
    assert spec.model_dump() == {
        "exact_top_k": 8,
        "samples": 25,
        "proposal_temperatures": (1.0,),
        "logit_dtype": "uint16",
        "tail": "ghost",
        "curve": {"nodes": (0.0, 0.225, 0.45, 0.675, 1.0, 1.35, 2.0), "temperatures": None},
    }
    assert RecordSpec.model_validate_json(spec.model_dump_json()) == spec


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
        ({"exact_top_k": 0, "samples": 0}, "got exact_top_k 0 and samples 0, expected at least one above 0"),
        (
            {"exact_top_k": "all", "logit_dtype": "uint8"},
            "got logit_dtype uint8 with exact_top_k all, expected uint16, float16 or float32",
        ),
        ({"tail": "renormalise"}, "got tail renormalise with samples, expected samples: 0"),
        ({"proposal_temperatures": []}, "got no proposal_temperatures, expected at least one"),
        ({"proposal_temperatures": [1.0, 2.0]}, r"got proposal temperature 2 without .* add 0.5 to curve.nodes"),
        ({"proposal_temperatures": [0.0]}, "got proposal temperature 0 without"),
        ({"curve": {"temperatures": [2.0]}}, "got proposal temperature 1 without"),
        ({"curve": {"nodes": [0, 1], "temperatures": [1]}}, "got nodes and temperatures, expected one of them"),
        ({"curve": {"nodes": [0.5, 1]}}, r"got nodes \[0.5, 1.0\], expected 0 and at least one"),
        ({"curve": {"nodes": [0]}}, "expected 0 and at least one"),
        ({"curve": {"nodes": [0, 1, "inf"]}}, "expected 0 and at least one"),
        ({"curve": {"temperatures": []}}, "expected at least one temperature, each above 0"),
        ({"curve": {"temperatures": [-1]}}, "expected at least one temperature, each above 0"),
        ({"exact_top_k": -1}, "greater than or equal to 0"),
        ({"exact_top_k": "all", "factor": {}}, "got factor with exact_top_k all, expected one of them"),
        ({"samples": 0, "tail": "renormalise", "factor": {}}, "got tail renormalise with a factor, expected none"),
        ({"factor": {"rank": 0}}, "greater than 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RecordSpec.model_validate(settings)


def test_a_top_k_record_needs_no_proposals_on_its_curve() -> None:
    spec = RecordSpec.model_validate({"samples": 0, "curve": {"temperatures": [2.0]}, "tail": "renormalise"})
    assert spec.proposals == ()


def test_a_factor_is_in_the_settings_only_where_it_is_used() -> None:
    spec = RecordSpec.model_validate({"samples": 0, "factor": {"rank": 64}})
    assert spec.model_dump()["factor"] == {"rank": 64, "dtype": "int8", "calibration_positions": "auto"}
    assert RecordSpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.factor is not None
    assert (spec.factor.positions_for(64), spec.factor.positions_for(4096)) == (4096, 32768)
    assert FactorSpec(calibration_positions=10).positions_for(64) == 10
