"""Every error a user can meet, as one tree.

KdcacheError               exit status 1: the work failed
├── CorpusError            a corpus file is missing, empty, not the format it claims, or lacks a field
├── CacheError             a cache is unfinished, damaged, of a newer format, or not the one that was asked for
│   └── DamagedShardError  a shard's bytes do not match its commit record
├── TeacherError           the teacher cannot be loaded, or gave logits that cannot be stored
├── StudentError           the student does not fit the cache
├── TrainError             training cannot go on
└── ConfigError            exit status 2: the command or its config was wrong

A message is one line: what was got, what was expected, what to do.
"""

__all__ = [
    "CacheError",
    "ConfigError",
    "CorpusError",
    "DamagedShardError",
    "KdcacheError",
    "StudentError",
    "TeacherError",
    "TrainError",
]


class KdcacheError(Exception):
    """Base of all errors that kdcache raises on purpose; the CLI prints it as one line."""

    exit_status = 1


class CorpusError(KdcacheError):
    pass


class CacheError(KdcacheError):
    pass


class DamagedShardError(CacheError):
    pass


class TeacherError(KdcacheError):
    pass


class StudentError(KdcacheError):
    pass


class TrainError(KdcacheError):
    pass


class ConfigError(KdcacheError):
    exit_status = 2
