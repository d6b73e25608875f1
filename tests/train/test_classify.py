"""Students of classifications: one cache, several kinds of student, no teacher while they train."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from classes import MOODS, TAGS, make_classifier, moods, tagged, teacher_scores, write_conll, write_rows
from helpers import kdcache
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from kdcache.dump.run import run_dump
from kdcache.dump.settings import DumpConfig
from kdcache.errors import CacheError, ConfigError, StudentError, TeacherError
from kdcache.launcher import World
from kdcache.losses.term import make_term
from kdcache.losses.terms import LossTerms
from kdcache.models.registry import register_student
from kdcache.registry import import_extensions
from kdcache.store.cache import Cache, open_cache
from kdcache.students.collate import Collator
from kdcache.students.loss import with_loss
from kdcache.students.making import make_student
from kdcache.students.scoring import check_held_out, evaluate_model
from kdcache.students.settings import StudentConfig
from kdcache.train.cautions import warn
from kdcache.train.settings import TrainConfig

BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
BERT |= {"intermediate_size": 32, "max_position_embeddings": 64, "initializer_range": 0.2}
BILSTM = {"model_type": "kdcache_bilstm", "embedding_size": 8, "hidden_size": 12}
BAG = {"model_type": "kdcache_embedding_bag", "embedding_size": 8, "hidden_size": 8}
MINE = """
import kdcache
import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class TinyConfig(PreTrainedConfig):
    model_type = "tiny_of_a_user"

    def __init__(self, vocab_size=10, hidden_size=8, **rest):
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        super().__init__(**rest)


class Tiny(PreTrainedModel):
    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.table = torch.nn.Embedding(config.vocab_size, config.hidden_size)
        self.classifier = torch.nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def get_input_embeddings(self):
        return self.table

    def get_output_embeddings(self):
        return None

    def forward(self, input_ids, attention_mask, **_):
        total = (self.table(input_ids) * attention_mask[:, :, None]).sum(1)
        return SequenceClassifierOutput(logits=self.classifier(total))


kdcache.register_student(TinyConfig, sequence_classification=Tiny)
"""


def dump(folder: Path, task: str, teacher: Path, count: int, seed: int, **sections: Any) -> Cache:
    folder.parent.mkdir(parents=True, exist_ok=True)
    corpus: dict = {"paths": str(folder) + ".rows", "unit_rows": 16}
    if task == "sequence_classification":
        write_rows(Path(corpus["paths"]), moods(count, seed))
        corpus |= {"format": "jsonl", "label_field": "label"}
    else:
        write_conll(Path(corpus["paths"]), tagged(count, seed, longest=30))
        corpus |= {"format": "conll"}
    settings = {
        "output": str(folder),
        "corpus": corpus,
        "teacher": {"path": str(teacher), "dtype": "float32"},
        "task": {"name": task, "max_length": 32},
        "record": [{"kind": "dense"}, {"kind": "features"}],
    }
    run_dump(DumpConfig.model_validate(settings | sections), World())
    return open_cache(folder)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Caches of two tasks, and their teachers, moved away."""
    root = tmp_path_factory.mktemp("classify")
    for task, names in (("sequence_classification", tuple(MOODS)), ("token_classification", TAGS)):
        make_classifier(root / "teacher", task, names)
        dump(root / task, task, root / "teacher", 64, 0)
        dump(root / f"{task}-held-out", task, root / "teacher", 30, 1)
        shutil.rmtree(root / "teacher")
    return root


def settings_of(root: Path, task: str, output: str, student: dict, **changes: Any) -> dict[str, Any]:
    return {
        "cache": str(root / task),
        "output": str(root / output),
        "student": {"config": student},
        "terms": [{"name": "divergence", "temperature": 2.0}, {"name": "cross_entropy", "weight": 0.1}],
        "deepspeed": {"zero_optimization": {"stage": 0}},
        "global_batch": 16,
        "micro_batch": 8,
        "epochs": 4,
        "stream": {"lanes": 4},
        "optimizer": {"learning_rate": 0.02, "clip_norm": 1.0},
        "checkpoint": {"every": 0},
        "eval": {"cache": str(root / f"{task}-held-out")},
        "device": "cpu",
    } | changes


def train(root: Path, task: str, output: str, student: dict, nproc: int | None = None, **changes: Any) -> Path:
    settings = settings_of(root, task, output, student, **changes)
    (root / f"{output}.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    ranks = () if nproc is None else ("--nproc", nproc)
    done = kdcache("train", root / f"{output}.yaml", *ranks, cwd=root)
    assert done.returncode == 0, done.stderr[-3000:]
    return root / output / "student"


@pytest.mark.launch
def test_bottlenecks_train_alike_under_zero_0_and_3_and_are_no_part_of_the_student(root: Path) -> None:
    terms = [
        {"name": "divergence", "temperature": 2.0, "weighting": "entropy"},
        {"name": "entropy", "weight": 0.1},
        {"name": "bottleneck", "width": 4, "weight": 0.5},
    ]
    optimizer = {"learning_rate": 0.01, "eps": 0.01, "clip_norm": 1.0}
    weights = []
    for stage in (0, 3):
        folder = train(
            root,
            "token_classification",
            f"stage{stage}",
            BERT | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
            nproc=2,
            terms=terms,
            optimizer=optimizer,
            deepspeed={"zero_optimization": {"stage": stage}},
            export_modules=stage == 3,
        )
        weights.append(load_file(folder / "model.safetensors"))
        assert not any("bottleneck" in name for name in weights[-1])
        assert AutoModelForTokenClassification.from_pretrained(folder).config.id2label == dict(enumerate(TAGS))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-3, atol=2e-5)
    assert not (root / "stage0" / "modules.safetensors").exists()
    learnt = load_file(root / "stage3" / "modules.safetensors")
    assert learnt["0.mean.weight"].shape == (4, 16)
    assert learnt["0.decoder.weight"].shape == (32, 4)
    *_, last = map(json.loads, (root / "stage0" / "log.jsonl").read_text().splitlines())
    assert last["group"] == "eval"
    assert {"accuracy", "macro_f1", "entity_f1", "ece", "kl"} <= last.keys()


@pytest.mark.launch
def test_students_of_several_kinds_from_one_cache_in_one_table(root: Path) -> None:
    (root / "mine.py").write_text(MINE, encoding="utf-8")
    task = "sequence_classification"
    folders = [
        train(root, task, "bilstm", BILSTM),
        train(root, task, "bag", BAG, epochs=40),
        train(root, task, "hard", BAG, epochs=40, terms=[{"name": "cross_entropy"}]),
    ]
    settings = settings_of(root, task, "mine", {"model_type": "tiny_of_a_user"})
    settings["module"] = "mine"
    (root / "mine.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    done = kdcache("train", root / "mine.yaml", cwd=root)
    assert done.returncode == 0, done.stderr[-3000:]
    held_out = root / f"{task}-held-out"
    command = ("eval", *folders, root / "mine" / "student", "--cache", held_out, "--module", "mine", "--json")
    done = kdcache(*command, cwd=root)
    assert done.returncode == 0, done.stderr[-3000:]
    teacher, *students = json.loads(done.stdout)
    assert [row["name"] for row in students] == ["bilstm", "bag", "hard", "mine"]
    assert teacher["agreement"] == 1.0
    assert teacher["accuracy"] == pytest.approx(teacher_scores(open_cache(held_out))["accuracy"])
    by_name = {row["name"]: row for row in students}
    assert by_name["hard"]["accuracy"] > 0.8  # words give the label away; the random teacher knows nothing of it
    assert by_name["bag"]["kl"] < by_name["hard"]["kl"]
    assert all(row["bytes"] > 0 and row["milliseconds"] > 0 and row["examples_per_second"] > 0 for row in students)
    assert "pipeline_tag: text-classification" in (folders[0] / "README.md").read_text()
    assert [one["name"] for one in teacher["classes"]] == [*MOODS]
    assert sum(one["support"] for one in by_name["bag"]["classes"]) == 30
    table = kdcache("eval", folders[1], "--cache", held_out, "--per-class").stdout.splitlines()
    assert "macro-F1" in table[0]
    assert [line.split(": ")[1].split()[0] for line in table[-4:]] == [*MOODS, *MOODS]
    assert table[-1].startswith("bag: dark")
    assert "perplexity" not in table[0]


@pytest.mark.parametrize(
    ("task", "config"),
    [
        ("sequence_classification", BERT),
        ("sequence_classification", BILSTM),
        ("sequence_classification", BAG),
        ("token_classification", BERT),
        ("token_classification", BILSTM),
    ],
)
def test_the_loss_is_that_of_each_example_alone(root: Path, task: str, config: dict) -> None:
    """Padding, masks and windows: a batch of ragged examples against one after the other, by the plain formula."""
    cache = open_cache(root / task)
    student = make_student(StudentConfig(config=config), cache, seed=1).eval()
    terms = LossTerms([make_term(name="divergence", temperature=2.0)], cache.manifest.header.num_classes)
    model = with_loss(student).eval()
    batch = cache.read(0, 9)
    loss, _ = model(Collator(student, cache)(batch), terms)
    expected = 0.0
    start = 0
    for i in range(9):
        tokens = torch.from_numpy(batch.tokens(i))[None]
        logits = student(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
        rows = logits if logits.ndim == 2 else logits[0, batch.positions(i)]
        log_p = batch.targets().dense_log_probs(2.0)[start : start + len(rows)]
        log_q = (rows / 2.0).log_softmax(-1)
        expected += 4.0 * (log_p.exp() * (log_p - log_q)).sum().item()
        start += len(rows)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_a_student_whose_head_has_a_name_of_its_own(root: Path) -> None:
    """XLNet's is called logits_proj; only a bottleneck has to find it."""
    cache = open_cache(root / "sequence_classification")
    config = {"model_type": "xlnet", "d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 32}
    student = make_student(StudentConfig(config=config), cache, seed=1, batch_examples=1).eval()
    terms = LossTerms([make_term(name="cross_entropy")], cache.manifest.header.num_classes)
    batch = cache.read(0, 1)
    inputs = Collator(student, cache)(batch)
    loss, _ = with_loss(student).eval()(inputs, terms)
    logits = student(**inputs.model.arguments).logits
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(batch.labels))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(("task", "config"), [("sequence_classification", BILSTM), ("token_classification", BILSTM)])
def test_small_students_load_as_they_were_saved(root: Path, tmp_path: Path, task: str, config: dict) -> None:
    cache = open_cache(root / f"{task}-held-out")
    student = make_student(StudentConfig(config=config), cache, seed=0).eval()
    student.save_pretrained(tmp_path)
    auto = AutoModelForSequenceClassification if task.startswith("seq") else AutoModelForTokenClassification
    figures = [evaluate_model(model, cache) for model in (student, auto.from_pretrained(tmp_path).eval())]
    assert figures[0] == figures[1]
    score = "entity_f1" if task == "token_classification" else "macro_f1"
    assert 0 <= figures[0][score] <= 1


def test_an_encoder_gets_a_fresh_head_and_other_labels_are_refused(root: Path, tmp_path: Path) -> None:
    cache = open_cache(root / "sequence_classification")
    from transformers import BertConfig, BertForSequenceClassification, BertModel, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = BertConfig(**{key: value for key, value in BERT.items() if key != "model_type"}, vocab_size=90)
    BertModel(config).save_pretrained(tmp_path / "encoder")
    first, second = (make_student(StudentConfig(path=str(tmp_path / "encoder")), cache, seed=3) for _ in range(2))
    assert torch.equal(first.classifier.weight, second.classifier.weight)
    assert first.config.id2label == {0: "bright", 1: "dark"}
    config.id2label, config.label2id = {0: "dark", 1: "bright"}, {"dark": 0, "bright": 1}
    BertForSequenceClassification(config).save_pretrained(tmp_path / "swapped")
    with pytest.raises(StudentError, match="class 0 is dark, expected bright"):
        make_student(StudentConfig(path=str(tmp_path / "swapped")), cache, seed=0)
    with_vocabulary = GPT2LMHeadModel(GPT2Config(vocab_size=90, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(StudentError, match="expected none for sequence_classification"):
        evaluate_model(with_vocabulary, cache)


def test_caches_that_do_not_go_together(root: Path) -> None:
    moods_cache, names_cache = (open_cache(root / f"{task}_classification") for task in ("sequence", "token"))
    with pytest.raises(CacheError, match=r"is of token_classification \(O, .*\), expected sequence_classification"):
        check_held_out(names_cache, moods_cache)


def test_a_class_without_examples_and_shared_rows_are_told(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_classifier(tmp_path / "teacher", "sequence_classification", ("bright", "dark", "grey"))
    cache = dump(tmp_path / "cache", "sequence_classification", tmp_path / "teacher", 20, 5)
    held_out = dump(tmp_path / "held-out", "sequence_classification", tmp_path / "teacher", 6, 5)
    capsys.readouterr()
    config = TrainConfig.model_validate(settings_of(root, "sequence_classification", "unused", BAG))
    warn(config.terms, cache, held_out)
    said = capsys.readouterr().err
    assert "has no example of grey" in said
    assert "6 of the 6 examples of eval.cache" in said
    warn(config.terms, cache, None)
    assert "eval.cache" not in capsys.readouterr().err


def test_classes_of_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(ConfigError, match="got module not_there, which cannot be imported"):
        import_extensions("not_there")
    with pytest.raises(ConfigError, match="got task ranking, expected some of causal_lm"):
        register_student(object, ranking=object)


def test_what_the_teacher_scores_is_in_the_cache(root: Path) -> None:
    cache = open_cache(root / "sequence_classification")
    batch = cache.read(0, len(cache))
    right = batch.targets().dense_log_probs(1.0).argmax(-1).numpy() == batch.labels
    assert teacher_scores(cache)["accuracy"] == pytest.approx(np.mean(right))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**BAG, "num_labels": 5}, r"got a student of 5 classes \(.*\), expected the cache's 2 \(bright, dark\)"),
        ({**BILSTM, "vocab_size": 10}, "it has embeddings of 10 tokens, expected the 90 of the tokenizer"),
        ({**BILSTM, "hidden_size": 7}, "it cannot be run on input_ids and attention_mask: RuntimeError"),
    ],
)
def test_students_that_do_not_fit_are_refused(root: Path, config: dict, message: str) -> None:
    with pytest.raises(StudentError, match=message) as caught:
        make_student(StudentConfig(config=config), open_cache(root / "sequence_classification"), 0)
    assert "\n" not in str(caught.value)


def test_a_class_of_a_user_that_gives_a_row_for_each_token_is_refused(root: Path) -> None:
    config = StudentConfig(config={**BERT, "num_labels": 2})
    per_token = AutoModelForTokenClassification.from_config(
        make_student(config, open_cache(root / "sequence_classification"), 0).config
    )
    with pytest.raises(StudentError, match=r"it gives logits \[1, \d+, 2\] for an example of .*, expected \[1, 2\]"):
        evaluate_model(per_token, open_cache(root / "sequence_classification"))


def test_a_model_of_more_classes_than_a_split_has_is_not_scored(root: Path, tmp_path: Path) -> None:
    make_classifier(tmp_path / "teacher", "sequence_classification", ("bright", "dark", "grey"))
    three = AutoModelForSequenceClassification.from_pretrained(tmp_path / "teacher")
    with pytest.raises(
        StudentError, match=r"got a student of 3 classes \(bright, dark, grey\), expected the cache's 2"
    ):
        evaluate_model(three, open_cache(root / "sequence_classification"))


def test_classes_that_are_numbers_are_in_order_of_value_and_label_i_is_the_ith_only(tmp_path: Path) -> None:
    rows = [{"text": f"word {i}", "label": str(i % 12)} for i in range(36)]
    write_rows(tmp_path / "rows", rows)
    settings = {
        "output": str(tmp_path / "cache"),
        "corpus": {"paths": str(tmp_path / "rows"), "format": "jsonl", "label_field": "label"},
        "teacher": "none",
        "tokenizer": "characters",
        "task": {"name": "sequence_classification", "max_length": 32},
    }
    run_dump(DumpConfig.model_validate(settings), World())
    cache = open_cache(tmp_path / "cache")
    assert cache.manifest.header.class_names == [str(i) for i in range(12)]
    assert cache.read(0, 36).labels.tolist() == [i % 12 for i in range(36)]
    student = make_student(StudentConfig(config=BAG), cache, 0)
    student.config.id2label = {i: f"LABEL_{i}" for i in range(12)}
    assert evaluate_model(student, cache)["positions"] == 36
    settings["output"], settings["task"] = (
        str(tmp_path / "other"),
        settings["task"]
        | {  # type: ignore[operator]
            "labels": sorted(cache.manifest.header.class_names)
        },
    )
    run_dump(DumpConfig.model_validate(settings), World())
    with pytest.raises(StudentError, match="got a student whose class 2 is LABEL_2, expected 10"):
        evaluate_model(student, open_cache(tmp_path / "other"))


def test_more_than_ten_tags_are_scored_by_their_own_names(tmp_path: Path) -> None:
    """JSON sorts 10 before 2."""
    kinds = ("ART", "DATE", "GPE", "LOC", "ORG", "PER")
    tags = ("O", *(f"{part}-{kind}" for kind in kinds for part in "BI"))
    rows = [(["a", "b", "c"], [f"B-{kinds[i % 6]}", f"I-{kinds[i % 6]}", "O"]) for i in range(12)]
    make_classifier(tmp_path / "teacher", "token_classification", tags)
    write_conll(tmp_path / "rows", rows)
    settings = {
        "output": str(tmp_path / "cache"),
        "corpus": {"paths": str(tmp_path / "rows"), "format": "conll"},
        "teacher": {"path": str(tmp_path / "teacher"), "dtype": "float32"},
        "task": {"name": "token_classification", "max_length": 32},
    }
    run_dump(DumpConfig.model_validate(settings), World())
    cache = open_cache(tmp_path / "cache")
    assert cache.manifest.header.class_names == [*tags]
    from seqeval.metrics import f1_score

    predicted = cache.read(0, 12).targets().dense_log_probs(1.0).argmax(-1).reshape(12, 3).tolist()
    expected = f1_score([row[1] for row in rows], [[tags[i] for i in row] for row in predicted], zero_division=0)
    assert teacher_scores(cache)["entity_f1"] == pytest.approx(expected)


def test_labels_alone_need_labels(root: Path, tmp_path: Path) -> None:
    from kdcache.train.plan import plan
    from kdcache.train.run import open_caches

    make_classifier(tmp_path / "teacher", "sequence_classification", tuple(MOODS))
    corpus = {"paths": str(write_rows(tmp_path / "rows", [{"text": r["text"]} for r in moods(20)])), "format": "jsonl"}
    dump(tmp_path / "cache", "sequence_classification", tmp_path / "teacher", 20, 5, corpus=corpus)
    settings = settings_of(root, "sequence_classification", "x", BAG, cache=str(tmp_path / "cache"), eval=None)
    open_caches(plan(TrainConfig.model_validate(settings)))
    with pytest.raises(CacheError, match="has no label, expected some for a cross_entropy term"):
        open_caches(plan(TrainConfig.model_validate(settings | {"terms": [{"name": "cross_entropy"}]})))


def test_bottlenecks_of_a_decoder_read_what_its_head_reads(root: Path) -> None:
    """GPT-2's score stands on every token, and its classification on the last."""
    cache = open_cache(root / "sequence_classification")
    gpt2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
    student = make_student(StudentConfig(config=gpt2), cache, 0).eval()
    term = make_term("bottleneck")
    model = with_loss(student, modules={0: torch.nn.Identity()})
    fed: list[torch.Tensor] = []
    model._with_those_beside = lambda *given: fed.append(given[5]) or given[:2]  # type: ignore[method-assign]
    inputs = Collator(student, cache)(cache.read(0, 7))
    model(inputs, LossTerms([term, make_term(name="divergence")], 2))
    logits = student(**inputs.model.arguments).logits
    torch.testing.assert_close(student.score(fed[0]), logits)


@pytest.mark.parametrize("task", ["sequence_classification", "token_classification"])
def test_a_small_model_of_kdcache_can_be_the_teacher(root: Path, tmp_path: Path, task: str) -> None:
    """It is not body and head: its features are what the head is fed with."""
    cache = open_cache(root / task)
    student = make_student(StudentConfig(config=BILSTM), cache, 0).eval()
    student.save_pretrained(tmp_path / "teacher")
    cache.save_tokenizer(tmp_path / "teacher")
    again = dump(tmp_path / "cache", task, tmp_path / "teacher", 12, 0)
    batch = again.read(0, 12)
    inputs = Collator(student, again)(batch)
    logits = inputs.at_positions(student(**inputs.model.arguments).logits)
    torch.testing.assert_close(batch.targets().dense_log_probs(1.0), logits.log_softmax(-1), rtol=0, atol=2e-3)
    assert batch.features is not None
    of_features = student.classifier(torch.from_numpy(batch.features).float())
    torch.testing.assert_close(of_features, logits, rtol=0, atol=2e-3)


def test_another_teacher_than_the_caches_is_not_timed(root: Path, tmp_path: Path) -> None:
    from kdcache.report.evaluate import evaluate_students

    make_classifier(tmp_path / "other", "sequence_classification", ("bright", "dark"))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "other")
    with torch.no_grad():
        model.classifier.weight.add_(1.0)
    model.save_pretrained(tmp_path / "other")
    with pytest.raises(TeacherError, match=r"the teacher .*other is not teacher, whose records"):
        evaluate_students([], cache=str(root / "sequence_classification"), teacher=str(tmp_path / "other"))
