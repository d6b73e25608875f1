"""Every message that says what to type next is typed by a test, and a new one needs a new test."""

import ast
from pathlib import Path

from next_commands import spelt_out, told

TESTS = Path(__file__).parent
REPAIR = "report/test_repair.py"
TYPED = {
    "cli.entry.main: again": "test_cli.py::test_an_interrupted_command_says_so_and_goes_on",
    "disk.what_to_do: again": "faults/test_full_disk.py::test_dump",
    "dump.finish._check_own: again": "dump/test_writers.py::test_a_rank_whose_own_shard_does_not_stand_says_why",
    "dump.finish.finish: again": "dump/test_kill.py",
    "dump.placements.replica.Replica._fail: again":
        "dump/test_placements.py::test_a_killed_rank_ends_the_other_and_twice_as_many_go_on",
    "dump.run._make: verify": f"{REPAIR}::test_dump_makes_a_lost_shard_again_and_nothing_else",
    "dump.schedulers.ray._Dispatcher._lost: again":
        "dump/schedulers/test_ray.py::test_a_unit_that_kills_its_worker_is_named",
    "dump.teacher_files.TeacherFiles._changed: again":
        "dump/test_pinned_inputs.py::test_what_is_replaced_while_a_dump_runs_ends_it",
    "dump.units.check_share: again": "dump/test_resume.py::test_bad_rows_are_skipped_counted_and_listed",
    "owned.model.swap_in: again": "owned/test_model.py::test_a_link_or_a_file_in_the_place_stays",
    "remote._words: again": "remote/test_commands.py::test_a_server_that_is_gone_for_ten_seconds",
    "report.dump_settings.dump_settings: verify --config dump.yaml":
        f"{REPAIR}::test_settings_of_a_stranger_run_no_code",
    "report.repair.Repair._open: verify --repair --config dump.yaml":
        f"{REPAIR}::test_what_nothing_else_repairs_comes_from_a_copy",
    "report.verify.verify_and_repair: verify --repair": "store/test_unreadable.py::test_a_folder_in_place_of_a_shard",
    "report.verify.verify_and_repair: verify --repair --force":
        f"{REPAIR}::test_strangers_files_are_named_and_stay_without_force",
    "report.verify.verify_and_repair: verify --repair --from COPY":
        f"{REPAIR}::test_what_nothing_else_repairs_comes_from_a_copy",
    "report.verify.verify_cache: verify": "store/test_unreadable.py::test_a_folder_in_place_of_a_shard",
    "report.verify.verify_cache: verify --repair": f"{REPAIR}::test_the_next_command_repairs",
    "share.hub_push._Repository.ask: again": "share/test_push_hub.py::test_a_commit_of_somebody_else_meanwhile",
    "store.builder.CacheBuilder.commit: again": f"{REPAIR}::test_dump_makes_a_lost_shard_again_and_nothing_else",
    "store.builder.CacheBuilder.commit: verify --repair --from COPY":
        f"{REPAIR}::test_dump_makes_a_lost_shard_again_and_nothing_else",
    "store.builder.CacheBuilder.finalize: again": "store/test_writer.py",
    "store.cache.read_manifest: dump-logits dump.yaml":
        f"{REPAIR}::test_a_cache_that_is_begun_goes_on_with_the_command_that_is_told",
    "store.files.Root._unreadable: again": "store/test_unreadable.py::test_a_folder_in_place_of_a_shard",
    "store.files.Root.write: again": "faults/test_full_disk.py::test_dump",
    "store.repair: dump-logits dump.yaml":
        f"{REPAIR}::test_a_cache_that_is_begun_goes_on_with_the_command_that_is_told",
    "store.shard.repair_command: verify --repair": f"{REPAIR}::test_the_next_command_repairs",
    "store.shards.Shards._read: verify --repair":
        f"{REPAIR}::test_a_command_that_misses_a_commit_record_tells_what_repairs",
    "train.checkpoint.Checkpoints._not_written: again": "faults/test_full_disk.py::test_train",
    "train.done.check_steps: export --step --out DIR":
        "train/test_launched.py::test_an_earlier_student_is_written_by_the_command_that_is_told",
    "train.done.read_done: again": "train/test_damage.py::test_a_damaged_mark_of_a_finished_run",
    "train.leaving.Leaving.check: again":
        "train/test_command.py::test_a_run_survives_sigkill_sigterm_and_another_launcher",
    "train.leaving.how_to_go_on: again":
        "train/test_beats.py::test_a_rank_that_hangs_in_an_evaluation_or_a_save_is_named_and_nothing_is_lost",
    "train.watch.Watch._check_launchers: again": "train/test_leaving.py::test_a_rank_that_outlived_its_launcher_ends",
}  # fmt: skip
"""Where a message says what to type -> the test that types it, and finds the state mended."""


def test_every_message_that_tells_a_command_has_its_test() -> None:
    assert told().keys() == TYPED.keys()


def test_commands_are_made_and_not_written_out() -> None:
    """So that a path with a space in it, or with a quote, can be typed as it stands."""
    assert not spelt_out()


def test_each_of_those_tests_is_there_and_types_the_command() -> None:
    for place, test in TYPED.items():
        file, _, name = test.partition("::")
        tree = ast.parse((TESTS / file).read_text())
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
        found = [node for node in functions if node.name == name or not name]
        assert found, test
        calls = {ast.unparse(node.func) for one in found for node in ast.walk(one) if isinstance(node, ast.Call)}
        assert told()[place] == "again" or "next_typed" in calls, f"{test} does not type what {place} tells"
