"""What `import kdcache` promises, and what it does not pull in."""

import subprocess
import sys

import kdcache


def test_the_public_names() -> None:
    assert kdcache.__all__ == [
        "Cache",
        "CacheWriter",
        "RecordSpec",
        "TeacherTargets",
        "compress",
        "distillation_loss",
        "open_cache",
        "register_student",
    ]
    assert all(getattr(kdcache, name).__doc__ for name in kdcache.__all__)


def test_import_is_light() -> None:
    code = "import sys, kdcache; print({'torch', 'zarr', 'pyarrow', 'transformers', 'deepspeed'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_only_train_imports_deepspeed_and_only_dump_loads_teachers() -> None:
    code = "import sys, kdcache.dump.run, kdcache.report.evaluate; print('deepspeed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
