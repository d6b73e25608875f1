"""`kdcache plan --simulate`: a cache of 100 B tokens on 512 GPUs, on paper.

Nothing is read and nothing is run. The teacher of the defaults has 32B parameters and the student 1.5B; whoever plans
another pair gives their rates.
"""

from collections.abc import Mapping
from math import ceil

from kdcache.report.plan import Constant, Figure, Plan, made_plan

__all__ = ["CONSTANTS", "FIGURES", "simulated"]

SCALE = "tests/bench/scale.py: 100,000 shards"
CONSTANTS = (
    Constant("tokens", 100e9, "", "assumed", "the size that is planned", "tokens of the corpus", 1),
    Constant("gpus", 512, "", "assumed", "the cluster that is planned", "GPUs, of the dump and of training", 1),
    Constant("gpus_per_node", 8, "", "assumed", "as in most clusters", "GPUs of a node", 1),
    Constant("cores_per_node", 64, "", "assumed", "as in most clusters", "CPU cores of a node", 1),
    Constant("disk_rate", 3e9, "bytes/s", "assumed", "one NVMe disk", "what a node reads from its disks or its store"),
    Constant("network_rate", 25e9, "bytes/s", "assumed", "200 Gbit/s", "what a node's network carries"),
    Constant(
        "teacher_rate",
        6000,
        "tokens/s",
        "assumed",
        "2 x 32B FLOP per token at 40% of 989 TFLOPS (NVIDIA's data sheet of the H100, bfloat16)",
        "tokens that a teacher reads per GPU",
    ),
    Constant(
        "student_rate",
        44000,
        "tokens/s",
        "assumed",
        "6 x 1.5B FLOP per token at 40% of 989 TFLOPS (NVIDIA's data sheet of the H100, bfloat16)",
        "tokens that a student learns per GPU, on labels alone",
    ),
    Constant("epochs", 1, "", "assumed", "one pass", "times that a student reads the cache"),
    Constant(
        "dump_speed",
        0.95,
        "",
        "measured",
        "tests/bench/compression.py: compression takes 0 to 3% of the forward; .95 is the bar",
        "a dump's speed, in the bare forward's",
    ),
    Constant(
        "step_cost",
        1.03,
        "",
        "measured",
        "tests/bench/step.py: 1.02; 1.03 is the bar",
        "a step from the cache, in one on labels alone",
    ),
    Constant(
        "record_bytes",
        72,
        "bytes",
        "measured",
        "tests/bench/records.py: 66 to 73, the default record",
        "a record on disk, per position",
    ),
    Constant("token_bytes", 3, "bytes", "assumed", "ids of up to 18 bits", "a token on disk, with its example's share"),
    Constant(
        "decoded_bytes",
        120,
        "bytes",
        "measured",
        "tests/bench/payload.py: the default record of 4,096 classes",
        "a position when it is decoded",
    ),
    Constant("bus_bytes", 97, "bytes", "measured", "tests/bench/gpu.py", "a position from host to device"),
    Constant("shard_bytes", 64e6, "bytes", "assumed", "kdcache/corpus/cutting.py: 64 to 256 MB", "a shard on disk"),
    Constant("block_bytes", 2e6, "bytes", "assumed", "what block size auto aims at", "a block when it is decoded"),
    Constant("usual_lanes", 256, "", "assumed", "the most by default", "lanes of the stream, where ranks are fewer", 1),
    Constant(
        "decode_rate",
        280e6,
        "bytes/s",
        "measured",
        "tests/bench/loaders.py: 283 (Arrow) and 348 (Zarr) MB decoded per CPU second",
        "what a core decodes, checks and batches",
    ),
    Constant(
        "verify_rate",
        186e6,
        "bytes/s",
        "measured",
        "kdcache verify of 100,000 small shards, per CPU second",
        "what a core verifies, as it is on disk",
    ),
    Constant("row_bytes", 156, "bytes", "measured", "kdcache/store/FORMAT.md", "a shard in the manifest's table"),
    Constant("open_per_shard", 1.3e-6, "seconds", "measured", SCALE, "opening a cache, per shard"),
    Constant("restart_per_shard", 51e-6, "seconds", "measured", SCALE, "reading what is committed, per shard"),
    Constant(
        "plan_per_shard",
        0.33e-6,
        "seconds",
        "measured",
        "tests/bench/planning.py: 20 to 50 ms for 150,000 shards",
        "planning an epoch, per shard",
    ),
)

FIGURES = (
    Figure("nodes", "", "ceil(gpus / gpus_per_node)", lambda k: ceil(k.gpus / k.gpus_per_node), "nodes"),
    Figure(
        "cache_bytes",
        "bytes",
        "tokens * (record_bytes + token_bytes)",
        lambda k: k.tokens * (k.record_bytes + k.token_bytes),
        "bytes of the cache",
    ),
    Figure("shards", "", "ceil(cache_bytes / shard_bytes)", lambda k: ceil(k.cache_bytes / k.shard_bytes), "shards"),
    Figure(
        "blocks",
        "",
        "ceil(tokens * decoded_bytes / block_bytes)",
        lambda k: ceil(k.tokens * k.decoded_bytes / k.block_bytes),
        "blocks, the smallest thing that is read",
    ),
    Figure(
        "dump_seconds",
        "seconds",
        "tokens / (gpus * teacher_rate * dump_speed)",
        lambda k: k.tokens / (k.gpus * k.teacher_rate * k.dump_speed),
        "time of the dump",
    ),
    Figure(
        "dump_gpu_hours", "", "dump_seconds * gpus / 3600", lambda k: k.dump_seconds * k.gpus / 3600, "GPU hours of it"
    ),
    Figure(
        "write_per_node",
        "bytes/s",
        "cache_bytes / dump_seconds / nodes",
        lambda k: k.cache_bytes / k.dump_seconds / k.nodes,
        "what a node writes meanwhile",
    ),
    Figure("manifest_bytes", "bytes", "shards * row_bytes", lambda k: k.shards * k.row_bytes, "manifest"),
    Figure("open_seconds", "seconds", "shards * open_per_shard", lambda k: k.shards * k.open_per_shard, "opening it"),
    Figure(
        "restart_seconds",
        "seconds",
        "shards * restart_per_shard",
        lambda k: k.shards * k.restart_per_shard,
        "finding what is left, on a restart",
    ),
    Figure(
        "plan_seconds", "seconds", "shards * plan_per_shard", lambda k: k.shards * k.plan_per_shard, "planning an epoch"
    ),
    Figure(
        "read_amplification",
        "",
        "1 + (gpus - 1) / blocks",
        lambda k: 1 + (k.gpus - 1) / k.blocks,
        "reads of a byte in an epoch (a block that two ranks share is read by both)",
    ),
    Figure(
        "step_rate",
        "tokens/s",
        "student_rate / step_cost",
        lambda k: k.student_rate / k.step_cost,
        "tokens that a student learns per GPU, from the cache",
    ),
    Figure(
        "train_seconds",
        "seconds",
        "epochs * tokens / (gpus * step_rate)",
        lambda k: k.epochs * k.tokens / (k.gpus * k.step_rate),
        "time of a student",
    ),
    Figure(
        "read_per_node",
        "bytes/s",
        "gpus_per_node * step_rate * (record_bytes + token_bytes) * read_amplification",
        lambda k: k.gpus_per_node * k.step_rate * (k.record_bytes + k.token_bytes) * k.read_amplification,
        "what a node reads while it trains",
    ),
    Figure(
        "disk_share", "", "read_per_node / disk_rate", lambda k: k.read_per_node / k.disk_rate, "of its disks' rate"
    ),
    Figure(
        "network_share",
        "",
        "read_per_node / network_rate",
        lambda k: k.read_per_node / k.network_rate,
        "of its network's rate",
    ),
    Figure(
        "decoding_cores",
        "",
        "gpus_per_node * step_rate * decoded_bytes / decode_rate",
        lambda k: k.gpus_per_node * k.step_rate * k.decoded_bytes / k.decode_rate,
        "cores of a node that decode",
    ),
    Figure(
        "first_step_bytes",
        "bytes",
        "ceil(usual_lanes / gpus) * block_bytes * cache_bytes / (tokens * decoded_bytes)",
        lambda k: ceil(k.usual_lanes / k.gpus) * k.block_bytes * k.cache_bytes / (k.tokens * k.decoded_bytes),
        "what a rank reads before its first step",
    ),
    Figure(
        "bus_rate", "bytes/s", "step_rate * bus_bytes", lambda k: k.step_rate * k.bus_bytes, "over the bus, per GPU"
    ),
    Figure(
        "bus_total",
        "bytes",
        "epochs * tokens * bus_bytes",
        lambda k: k.epochs * k.tokens * k.bus_bytes,
        "over all buses, for a student",
    ),
    Figure(
        "verify_seconds",
        "seconds",
        "cache_bytes / min(disk_rate, cores_per_node * verify_rate)",
        lambda k: k.cache_bytes / min(k.disk_rate, k.cores_per_node * k.verify_rate),
        "verifying every byte, on one node",
    ),
    Figure(
        "break_even",
        "",
        "1 / (teacher_rate * dump_speed) / epochs / max(0, 1 / teacher_rate + 1 / student_rate - 1 / step_rate)",
        lambda k: (
            1
            / (k.teacher_rate * k.dump_speed)
            / k.epochs
            / max(0, 1 / k.teacher_rate + 1 / k.student_rate - 1 / k.step_rate)
        ),
        "students at which dump and cache cost less than the teacher in every run",
    ),
)


def simulated(given: Mapping[str, float | None]) -> Plan:
    """The plan of these constants, with what the user gave in place of defaults.

    Args:
        given: Name of a constant -> its value; None leaves the default.

    Raises:
        ConfigError: A value means nothing.
    """
    return made_plan(FIGURES, CONSTANTS, given)
