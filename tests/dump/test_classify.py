"""Dumps of classifications by a small real BERT."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from classes import MOODS, TAGS, make_classifier, moods, tagged, teacher_scores, write_conll, write_rows
from helpers import files_of, kdcache
from store.making import BACKENDS
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

import kdcache as public
from kdcache.dump.run import run_dump
from kdcache.dump.settings import DumpConfig
from kdcache.errors import ConfigError, CorpusError, KdcacheError, TeacherError
from kdcache.launcher import World
from kdcache.targets.fields import NO_LABEL

Make = Callable[..., DumpConfig]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("teachers")
    make_classifier(folder / "mood", "sequence_classification", tuple(MOODS))
    make_classifier(folder / "names", "token_classification", TAGS)
    return {"sequence_classification": folder / "mood", "token_classification": folder / "names"}


@pytest.fixture
def make(teachers: dict[str, Path], tmp_path: Path) -> Make:
    write_rows(tmp_path / "moods.jsonl", moods(40))
    write_conll(tmp_path / "names.conll", tagged(40, longest=40))
    corpora = {
        "sequence_classification": {"paths": str(tmp_path / "moods.jsonl"), "format": "jsonl", "label_field": "label"},
        "token_classification": {"paths": str(tmp_path / "names.conll"), "format": "conll"},
    }

    def config(name: str, output: Path, **sections: Any) -> DumpConfig:
        settings: dict = {
            "output": str(output),
            "corpus": {**corpora[name], "unit_rows": 8},
            "teacher": {"path": str(teachers[name]), "dtype": "float32"},
            "task": {"name": name, "max_length": 32},
            "compute": {"batch_tokens": 160, "threads": 1},
        }
        for section, value in sections.items():
            old = settings.get(section)
            settings[section] = {**old, **value} if isinstance(value, dict) and isinstance(old, dict) else value
        return DumpConfig.model_validate(settings)

    return config


def test_dense_records_are_the_teachers_at_every_temperature(make: Make, teachers: dict, tmp_path: Path) -> None:
    """float32 to 1e-5 in log-probability, float16 to 1e-3 in probability."""
    folder = teachers["sequence_classification"]
    teacher = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    rows = moods(40)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [row["text"] for row in rows]
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")
    with torch.no_grad():
        logits_PC = teacher(**inputs).logits.double()
    for dtype in ("float32", "float16"):
        output = tmp_path / dtype
        run_dump(make("sequence_classification", output, record={"logit_dtype": dtype}), World())
        cache = public.open_cache(output)
        assert cache.manifest.header.id2label == {0: "bright", 1: "dark"}
        batch = cache.read(0, len(cache))
        assert batch.labels.tolist() == [[*MOODS].index(row["label"]) for row in rows]
        for temperature in (0.3, 1.0, 2.0, 8.0):
            exact_PC = (logits_PC / temperature).log_softmax(-1)
            stored_PC = batch.targets().dense_log_probs(temperature).double()
            if dtype == "float32":
                torch.testing.assert_close(stored_PC, exact_PC, rtol=0, atol=1e-5 / min(temperature, 1))
            else:
                torch.testing.assert_close(stored_PC.exp(), exact_PC.exp(), rtol=0, atol=1e-3)


def test_tags_of_long_rows_are_the_teachers_in_each_window(make: Make, teachers: dict, tmp_path: Path) -> None:
    run_dump(make("token_classification", tmp_path / "cache", record={"logit_dtype": "float32"}), World())
    cache = public.open_cache(tmp_path / "cache")
    batch = cache.read(0, len(cache))
    assert batch.continues.any()
    assert cache.manifest.totals.notes["windowed"] > 0
    expected = [TAGS.index(tag) for _, tags in tagged(40, longest=40) for tag in tags]
    assert batch.labels.tolist() == expected
    teacher = AutoModelForTokenClassification.from_pretrained(teachers["token_classification"]).eval()
    start = 0
    for i in range(0, len(batch), 7):
        start = int(batch.arrays["position_counts"][:i].sum())
        with torch.no_grad():
            logits_LC = teacher(torch.from_numpy(batch.tokens(i))[None]).logits[0]
        own_PC = logits_LC[batch.positions(i)].log_softmax(-1)
        stored_PC = batch.targets().dense_log_probs(1.0)[start : start + len(own_PC)]
        torch.testing.assert_close(stored_PC, own_PC, rtol=0, atol=1e-5)


@pytest.mark.parametrize("task", ["sequence_classification", "token_classification"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_bytes_are_the_same_at_every_world_size(make: Make, tmp_path: Path, task: str, backend: str) -> None:
    features = "pooled" if task == "sequence_classification" else "positions"
    for size in (1, 3):
        config = make(
            task,
            tmp_path / str(size),
            backend=backend,
            record=[{"kind": "dense"}, {"kind": "features", "at": features}],
        )
        for rank in range(size):
            run_dump(config, World(rank, size))
    assert files_of(tmp_path / "1") == files_of(tmp_path / "3")
    assert kdcache("verify", tmp_path / "1").returncode == 0


@pytest.mark.parametrize("features", ["pooled", "positions"])
def test_features_are_the_teachers_hidden_states(make: Make, teachers: dict, tmp_path: Path, features: str) -> None:
    run_dump(
        make(
            "sequence_classification",
            tmp_path / "cache",
            record=[{"kind": "dense"}, {"kind": "features", "at": features}],
        ),
        World(),
    )
    batch = public.open_cache(tmp_path / "cache").read(0, 6)
    teacher = AutoModelForSequenceClassification.from_pretrained(teachers["sequence_classification"]).eval()
    for i in range(6):
        with torch.no_grad():
            hidden_LD = teacher.bert(torch.from_numpy(batch.tokens(i))[None]).last_hidden_state[0]
        own_D = hidden_LD.mean(0) if features == "pooled" else hidden_LD[0]
        assert batch.features is not None
        np.testing.assert_allclose(batch.features[i].astype(np.float32), own_D.numpy(), rtol=2e-3, atol=2e-3)


def test_features_of_a_language_model(teacher_folder: Path, make_config: Make, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    run_dump(
        make_config(
            tmp_path / "cache", record=[{"kind": "sampled"}, {"kind": "features"}], task={"attention": "causal"}
        ),
        World(),
    )
    batch = public.open_cache(tmp_path / "cache").read(0, 1)
    teacher = AutoModelForCausalLM.from_pretrained(teacher_folder).eval()
    with torch.no_grad():
        hidden_LD = teacher.model(torch.from_numpy(batch.tokens(0))[None]).last_hidden_state[0]
    assert batch.features is not None
    np.testing.assert_allclose(batch.features, hidden_LD[batch.positions(0)].half(), rtol=5e-3, atol=5e-3)


def test_without_a_teacher_labels_and_characters_come_from_the_corpus(make: Make, tmp_path: Path) -> None:
    config = make("sequence_classification", tmp_path / "cache", teacher="none", tokenizer="characters")
    for rank in range(2):
        run_dump(config, World(rank, 2))
    cache = public.open_cache(tmp_path / "cache")
    assert cache.manifest.header.records == ()
    assert cache.manifest.header.id2label == {0: "bright", 1: "dark"}
    text = moods(1)[0]["text"].replace(" ", "")
    assert cache.manifest.header.tokenizer is not None
    assert len(cache.read(0, 1).tokens(0)) == min(len(text) + 2, 32)


def test_rows_without_labels_get_records(make: Make, tmp_path: Path) -> None:
    write_rows(tmp_path / "more.jsonl", [{"text": row["text"]} for row in moods(5, seed=9)])
    paths = [str(tmp_path / "moods.jsonl"), str(tmp_path / "more.jsonl")]
    run_dump(make("sequence_classification", tmp_path / "cache", corpus={"paths": paths}), World())
    cache = public.open_cache(tmp_path / "cache")
    assert (cache.read(0, len(cache)).labels == NO_LABEL).sum() == 5
    assert cache.manifest.totals.notes["unlabelled"] == 5


@pytest.mark.parametrize(
    ("name", "sections", "error", "message"),
    [
        ("sequence_classification", {"teacher": "none", "tokenizer": "characters", "corpus": {"label_field": None}},
         CorpusError, "got no labels"),
        ("sequence_classification", {"task": {"labels": ["dark", "bright"]}}, ConfigError, "those of the teacher"),
        ("sequence_classification", {"task": {"max_length": 65}}, ConfigError, "got task.max_length 65"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit(
    make: Make, tmp_path: Path, name: str, sections: dict, error: type[KdcacheError], message: str
) -> None:
    with pytest.raises(error, match=message):
        run_dump(make(name, tmp_path / "cache", **sections), World())
    assert not (tmp_path / "cache" / "cache.json").exists()


def test_labels_that_the_teacher_does_not_have_stop_at_their_row(make: Make, tmp_path: Path) -> None:
    write_rows(tmp_path / "moods.jsonl", [*moods(9), {"text": "cache", "label": "grey"}])
    with pytest.raises(CorpusError, match=r"moods.jsonl:10: got label grey, expected one of bright, dark"):
        run_dump(make("sequence_classification", tmp_path / "cache"), World())


def test_an_encoder_without_a_trained_head_is_no_teacher(make: Make, teachers: dict, tmp_path: Path) -> None:
    from transformers import AutoModel

    teacher = teachers["sequence_classification"]
    AutoModel.from_pretrained(teacher).save_pretrained(tmp_path / "encoder")
    AutoTokenizer.from_pretrained(teacher).save_pretrained(tmp_path / "encoder")
    message = r"lacks 2 of the weights of BertForSequenceClassification, the first classifier"
    with pytest.raises(TeacherError, match=message):
        run_dump(make("sequence_classification", tmp_path / "c", teacher={"path": str(tmp_path / "encoder")}), World())


def test_records_that_a_task_cannot_have(make: Make, tmp_path: Path) -> None:
    for task, record, message in (
        ("token_classification", {"kind": "features", "at": "pooled"}, "expected at: positions"),
        ("sequence_classification", {"kind": "sampled"}, "got record.kind sampled, expected dense"),
    ):
        with pytest.raises(ValueError, match=message):
            make(task, tmp_path / "cache", record=record)


@pytest.mark.parametrize(("change", "got"), [("multi_label_classification", "multi_label"), (None, "regression")])
def test_a_teacher_whose_outputs_are_no_classes_is_refused(
    make: Make, tmp_path: Path, change: str | None, got: str
) -> None:
    names = ("only",) if change is None else tuple(MOODS)
    make_classifier(tmp_path / "teacher", "sequence_classification", names)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "teacher")
    model.config.problem_type = change
    model.save_pretrained(tmp_path / "teacher")
    config = make("sequence_classification", tmp_path / "c", teacher={"path": str(tmp_path / "teacher")})
    if change is None:
        config = config.model_copy(update={"corpus": config.corpus.model_copy(update={"label_field": None})})
    with pytest.raises(TeacherError, match=f"got a teacher for {got}"):
        run_dump(config, World())


def test_a_misspelt_label_field_is_told_before_anything_is_made(make: Make, tmp_path: Path) -> None:
    config = make("sequence_classification", tmp_path / "c", corpus={"label_field": "lable"})
    with pytest.raises(CorpusError, match="no row of the corpus has a label in its field lable"):
        run_dump(config, World())
    assert not (tmp_path / "c" / "header.json").exists()
    with pytest.raises(ValueError, match=r"got corpus.label_field for token_classification, expected tags_field"):
        make("token_classification", tmp_path / "c", corpus={"format": "jsonl", "label_field": "tags"})


def test_a_wrong_label_in_the_last_row_costs_no_shard(make: Make, tmp_path: Path) -> None:
    rows = moods(40)
    write_rows(tmp_path / "moods.jsonl", [*rows[:-1], {**rows[-1], "label": "grey"}])
    config = make("sequence_classification", tmp_path / "c")
    with pytest.raises(CorpusError, match=r"moods.jsonl:40: got label grey, expected one of bright, dark"):
        run_dump(config, World())
    assert not (tmp_path / "c" / "header.json").exists()
    write_rows(tmp_path / "moods.jsonl", rows)
    run_dump(config, World())


def test_features_of_a_decoder_are_of_the_token_that_its_head_reads(make: Make, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    make_classifier(tmp_path / "teacher", "sequence_classification", tuple(MOODS))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "teacher")
    names = dict(enumerate(MOODS))
    torch.manual_seed(0)
    model = GPT2ForSequenceClassification(
        GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64, id2label=names)
    ).eval()
    model.save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    record = [{"kind": "dense", "logit_dtype": "float32"}, {"kind": "features"}]
    teacher = {"path": str(tmp_path / "gpt2")}
    run_dump(make("sequence_classification", tmp_path / "c", teacher=teacher, record=record), World())
    batch = public.open_cache(tmp_path / "c").read(0, 8)
    heads = model.score(torch.from_numpy(np.array(batch.features)).float()).log_softmax(-1)
    torch.testing.assert_close(heads, batch.targets().dense_log_probs(1.0), rtol=0, atol=2e-3)


class BagConfig(PreTrainedConfig):
    model_type = "bag_of_a_user"

    def __init__(self, vocab_size: int = 10, width: int = 6, **rest: Any) -> None:
        self.vocab_size, self.width = vocab_size, width
        super().__init__(**rest)


class Bag(PreTrainedModel):
    config_class = BagConfig

    def __init__(self, config: BagConfig) -> None:
        super().__init__(config)
        self.table = torch.nn.Embedding(config.vocab_size, config.width)
        self.classifier = torch.nn.Linear(config.width, config.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.table

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> SequenceClassifierOutput:
        return SequenceClassifierOutput(
            logits=self.classifier((self.table(input_ids) * attention_mask[..., None]).sum(1))
        )


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        ({}, ConfigError, "a teacher whose config has no hidden_size"),
        ({"hidden_size": 7}, TeacherError, "got Bag, whose head is fed with 6 numbers, expected the 7 of its config's"),
        ({"hidden_size": 6}, None, ""),
    ],
)
def test_the_features_width_is_in_the_config_of_a_users_teacher(
    make: Make, teachers: dict, tmp_path: Path, said: dict, error: type[Exception] | None, message: str
) -> None:
    public.register_student(BagConfig, sequence_classification=Bag)
    tokenizer = AutoTokenizer.from_pretrained(teachers["sequence_classification"])
    model = Bag(BagConfig(vocab_size=len(tokenizer), id2label=dict(enumerate(MOODS)), **said))
    model.save_pretrained(tmp_path / "bag")
    tokenizer.save_pretrained(tmp_path / "bag")
    for features in ("pooled", "positions"):
        config = make(
            "sequence_classification",
            tmp_path / features,
            teacher={"path": str(tmp_path / "bag"), "dtype": "float32"},
            record=[{"kind": "dense"}, {"kind": "features", "at": features}],
        )
        with pytest.raises(error, match=message) if error else nullcontext():
            run_dump(config, World())
    if error is None:
        batch = public.open_cache(tmp_path / "pooled").read(0, 8)
        heads = model.classifier(torch.from_numpy(np.array(batch.features)).float()).log_softmax(-1)
        torch.testing.assert_close(heads, batch.targets().dense_log_probs(1.0), rtol=0, atol=2e-3)


class HeadlessConfig(BagConfig):
    model_type = "headless_bag_of_a_user"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)


class Headless(Bag):
    """Its last layer has a name of its own."""

    config_class = HeadlessConfig

    def __init__(self, config: BagConfig) -> None:
        super().__init__(config)
        self.top = self.classifier
        del self.classifier

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> SequenceClassifierOutput:
        return SequenceClassifierOutput(logits=self.top((self.table(input_ids) * attention_mask[..., None]).sum(1)))


def test_features_need_a_body_or_a_head_by_a_usual_name(make: Make, teachers: dict, tmp_path: Path) -> None:
    task = "sequence_classification"
    public.register_student(HeadlessConfig, sequence_classification=Headless)
    tokenizer = AutoTokenizer.from_pretrained(teachers[task])
    names = dict(enumerate(MOODS))
    Headless(HeadlessConfig(vocab_size=len(tokenizer), id2label=names, hidden_size=6)).save_pretrained(tmp_path / "bag")
    tokenizer.save_pretrained(tmp_path / "bag")
    teacher = {"path": str(tmp_path / "bag"), "dtype": "float32"}
    with pytest.raises(TeacherError, match=r"a teacher, Headless, with neither a body .* nor a head called classifier"):
        run_dump(
            make(
                task, tmp_path / "c", teacher=teacher, record=[{"kind": "dense"}, {"kind": "features", "at": "pooled"}]
            ),
            World(),
        )
    run_dump(make(task, tmp_path / "d", teacher=teacher), World())
    assert public.open_cache(tmp_path / "d").num_positions == 40


def test_integers_with_names_and_tags_that_the_teacher_lacks(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ["O", "B-PERSON", "I-PERSON", "B-MISC", "I-MISC", "B-LOC", "I-LOC"]
    rows = pa.table({"tokens": [["ada", "byron", "york", "cache", "token"]] * 9, "ner_tags": [[1, 2, 5, 3, 4]] * 9})
    feature = {"feature": {"names": names, "_type": "ClassLabel"}, "_type": "List"}
    features = {"huggingface": json.dumps({"info": {"features": {"ner_tags": feature}}})}
    pq.write_table(rows.replace_schema_metadata(features), tmp_path / "a.parquet")
    corpus = {"paths": str(tmp_path / "a.parquet"), "format": "parquet", "tags_field": "ner_tags"}
    with pytest.raises(CorpusError, match=r"a.parquet row 1: got label B-PERSON, expected one of O.* task.rest_class"):
        run_dump(make("token_classification", tmp_path / "cache", corpus=corpus), World())
    task = {"label_map": {"PERSON": "PER", "GPE": "LOC"}, "rest_class": "O"}
    run_dump(make("token_classification", tmp_path / "cache", corpus=corpus, task=task), World())
    said = capsys.readouterr().err
    assert "18 labels became task.rest_class O: B-MISC 9, I-MISC 9" in said
    assert "warning: task.label_map names GPE, which no row of the corpus has" in said
    cache = public.open_cache(tmp_path / "cache")
    expected = [TAGS.index(tag) for tag in ("B-PER", "I-PER", "B-LOC", "O", "O")]
    assert cache.read(0, 1).labels.tolist() == expected
    assert cache.manifest.header.task["label_map"] == task["label_map"]
    assert cache.manifest.header.task["rest_class"] == "O"


def test_names_that_are_nearly_one_are_told(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": "cache", "label": label} for label in ("good", "good ", "bad")]
    write_rows(tmp_path / "moods.jsonl", rows)
    alone = {"teacher": "none", "tokenizer": "characters"}
    run_dump(make("sequence_classification", tmp_path / "a", **alone), World())
    said = capsys.readouterr().err
    assert "warning: the classes 'good', 'good ' differ in no more than white space" in said
    assert "set task.label_map: {'good ': 'good'}" in said
    run_dump(make("sequence_classification", tmp_path / "b", **alone, task={"label_map": {"good ": "good"}}), World())
    assert "warning" not in capsys.readouterr().err
    assert public.open_cache(tmp_path / "b").manifest.header.id2label == {0: "bad", 1: "good"}


def test_windows_of_a_long_text_are_scored_as_one(make: Make, teachers: dict, tmp_path: Path) -> None:
    """By the mean of the teacher's probabilities of them, in the dump's summary, in the cache and in an evaluation."""
    from kdcache.students.scoring import evaluate_model

    rows = [{**row, "text": " ".join([row["text"]] * (1 + 5 * (i % 2)))} for i, row in enumerate(moods(20))]
    paths = str(write_rows(tmp_path / "long.jsonl", rows))
    task = {"max_length": 40, "overlong": "windows"}
    record = {"logit_dtype": "float32"}
    run_dump(
        make("sequence_classification", tmp_path / "cache", corpus={"paths": paths}, task=task, record=record), World()
    )
    cache = public.open_cache(tmp_path / "cache")
    batch = cache.read(0, len(cache))
    assert len(cache) > len(rows) == (~batch.continues).sum()
    teacher = AutoModelForSequenceClassification.from_pretrained(teachers["sequence_classification"]).eval()
    texts = np.cumsum(~batch.continues) - 1
    sums_RC = np.zeros((len(rows), 2))
    for i in range(len(cache)):
        with torch.no_grad():
            sums_RC[texts[i]] += teacher(torch.from_numpy(batch.tokens(i))[None]).logits[0].softmax(-1).numpy()
    right = sums_RC.argmax(1) == [[*MOODS].index(row["label"]) for row in rows]
    assert teacher_scores(cache)["accuracy"] == pytest.approx(right.mean())
    assert evaluate_model(teacher, cache, batch_examples=3)["accuracy"] == pytest.approx(right.mean())
    score = cache.manifest.totals.score
    assert score is not None
    assert score["labelled"] == len(rows)
    assert sum(found.get(label, 0) for label, found in score["confusion"].items()) == right.sum()
