"""What `import kdcache` promises, and what it does not pull in."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import kdcache

PUBLIC = """
    Batch Cache CacheError CacheWriter Collator CommitRecord ConfigError CorpusError DamagedShardError Field
    Head HeadLoss Header Inputs KdcacheError Layout Loader LockedError LossTerms Manifest Mixture Prefetched Prefetcher
    RecordKind RowError SparseTargets
    StudentConfig StudentError StudentWithLoss Supervision TailCurve TeacherError TeacherPin TeacherRows
    TeacherTargets TokenizerPin TrainError array_fields compress distillation_loss evaluate_model from_arrow
    loss_terms make_student make_term open_cache register_backend register_divergence register_engine register_import
    register_record register_student
    register_task register_term to_arrow with_loss
"""


def run(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_public_names() -> None:
    assert kdcache.__all__ == PUBLIC.split()
    assert set(kdcache.__all__) <= set(dir(kdcache))
    assert all(getattr(kdcache, name).__doc__ for name in kdcache.__all__)


def test_functions_and_what_is_made_by_hand_are_documented_in_google_form() -> None:
    public = {name: getattr(kdcache, name) for name in kdcache.__all__}
    made = (
        "Batch",
        "Cache",
        "CacheWriter",
        "Collator",
        "Head",
        "HeadLoss",
        "Inputs",
        "Loader",
        "LossTerms",
        "Prefetcher",
    )
    for name, thing in public.items():
        if inspect.isfunction(thing) or name in made:
            text = f"{inspect.getdoc(thing)}\n{inspect.getdoc(getattr(thing, '__init__', None))}"
            assert re.search(r"^(Args|Attributes):$", text, re.MULTILINE), name


def test_editors_and_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(kdcache.__file__).read_text(encoding="utf-8"))
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    homes = {alias.name: node.module for node in typed.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert homes == kdcache._HOME
    assert sorted(homes) == kdcache.__all__
    assert Path(kdcache.__file__).with_name("py.typed").is_file()


def test_import_is_light() -> None:
    loaded = run("import sys, kdcache; print(*sys.modules)").split()
    assert not {"torch", "zarr", "pyarrow", "numpy", "pydantic", "transformers", "deepspeed"} & set(loaded)


READ = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[2:]:
            raise ImportError(f"{name} is not to be imported")
sys.meta_path.insert(0, Refuse())
import kdcache
cache = kdcache.open_cache(sys.argv[1])
batch = cache.read(0, len(cache))
with kdcache.Loader(cache, global_batch=2) as loader:
    (micro_batch,) = next(loader)
print(batch.tokens(0).tolist(), batch.labels.tolist(), len(micro_batch), "torch" in sys.modules)
print(batch.targets().num_positions if "torch" not in sys.argv else 4)
"""


def test_a_cache_is_read_without_what_trains(tmp_path: Path) -> None:
    with kdcache.CacheWriter(tmp_path, num_classes=6) as writer:
        for tokens in ([3, 1, 2], [5, 4, 0]):
            writer.add(tokens, [[0.0, 1, 2, 3, 4, 5]] * 2)
    for refused in (("deepspeed", "transformers"), ("deepspeed", "transformers", "torch", "numba")):
        assert run(READ, tmp_path, *refused) == "[3, 1, 2] [1, 2, 4, 0] 2 False\n4\n"


def test_nothing_but_training_with_deepspeed_imports_it() -> None:
    code = "import sys, kdcache, kdcache.dump.run, kdcache.report.evaluate\nfor name in kdcache.__all__:\n"
    assert run(code + "    getattr(kdcache, name)\nprint('deepspeed' in sys.modules)") == "False\n"
