"""Files behind a URL: fsspec's file systems, requests that are tried again, and errors in one line.

A request that failed for a reason that passes (no answer, a cut connection, a body too short or with a wrong checksum,
HTTP 408, 409, 429 and 5xx) is made again after a random wait of up to 0.5 s, 1 s, 2 s, … 15 s: exponential back-off
with full jitter (tenacity). Every rank says so in a line. After 60 s, or KDCACHE_RETRY_SECONDS, it is an error. What
does not pass is one at once: no permission, no credentials, no bucket, a wrong name.

The retries of s3fs and botocore, which are silent, are switched off, so that these are the only ones.
"""

import errno
import io
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from kdcache.errors import KdcacheError, one_line, printable

__all__ = ["RemoteError", "RemoteFile", "SeenBlocks", "create_file", "is_absent", "open_url", "retried"]

T = TypeVar("T")

RETRY_SECONDS = "KDCACHE_RETRY_SECONDS"
TIMEOUTS_S = {"connect_timeout": 5, "read_timeout": 15}
PASSING_STATUS = {408, 409, 429}
REFUSED = {401, 403}
PASSING_KINDS = {
    *("ConnectionError", "HTTPClientError", "IncompleteReadError", "FlexibleChecksumError", "ResponseParserError"),
    *("ClientConnectionError", "ClientPayloadError", "IncompleteRead", "TransportError", "TimeoutError"),
}
"""Classes of botocore, aiohttp, http.client and google.auth, by name, so that none of them is imported for it."""
LASTING_KINDS = {"SSLError", "SSLCertVerificationError", "InvalidURL"}
LASTING_ERRNO = {errno.EINVAL, errno.ENOSYS, errno.ENAMETOOLONG, errno.EMSGSIZE, errno.EPERM, errno.EACCES}
NO_FILE = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
LASTING = (*NO_FILE, PermissionError, NotImplementedError)
BUFFER = 4 << 20
BLOCK = 256 << 10


class RemoteError(OSError):
    """A request that failed for good, in one line. missing: whether what the URL names, such as a bucket, is not."""

    def __init__(self, words: str, *, missing: bool = False) -> None:
        super().__init__(words)
        self.missing = missing


def open_url(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL or a path, and the path in it. Raises ValueError, ImportError or OSError."""
    from fsspec.core import url_to_fs

    storage: dict[str, Any] = {}
    for protocol in re.findall(r"(?:^|::)(s3a?)://", url):
        from fsspec.config import conf

        given = conf.get(protocol, {}).get("config_kwargs", {})
        storage[protocol] = {"config_kwargs": {"retries": {"total_max_attempts": 1}, **TIMEOUTS_S, **given}}
    for protocol in re.findall(r"(?:^|::)(https?)://", url):
        from aiohttp import ClientTimeout
        from fsspec.config import conf

        given = conf.get(protocol, {}).get("client_kwargs", {})
        timeout = ClientTimeout(None, sock_connect=TIMEOUTS_S["connect_timeout"], sock_read=TIMEOUTS_S["read_timeout"])
        storage[protocol] = {"client_kwargs": {"timeout": timeout, **given}}
    filesystem, path = url_to_fs(url, use_listings_cache=False, **storage)
    if storage:
        inner = filesystem
        while inner is not None:
            if hasattr(type(inner), "retries"):
                inner.retries = 1
            inner = getattr(inner, "fs", None)
    return filesystem, path


def retried(do: Callable[[], T], what: str) -> T:
    """What `do` gives, which makes one request to a server and may be called several times.

    Args:
        do: makes the request.
        what: begins the line that is said before each further try, such as "cannot read s3://bucket/cache/cache.json".

    Raises:
        RemoteError: it failed for good, or for longer than the limit.
        FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError: what these say, of a file.
    """
    from tenacity import RetryCallState, Retrying, retry_if_exception, stop_before_delay, wait_random_exponential

    limit = _limit()

    def attempt() -> T:
        try:
            return do()
        except FileNotFoundError as error:
            if (cause := _failure_behind(error)) is not None:
                raise cause from None
            raise

    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        wait = state.next_action.sleep if state.next_action else 0
        words = one_line(error, 200) if error else ""
        rank = f"rank {os.environ['RANK']}: " if os.environ.get("RANK", "0") != "0" else ""
        line = printable(f"{rank}{what}: {words}; trying again in {wait:.1f} s")
        print(line, file=sys.stderr, flush=True)

    attempts = Retrying(
        retry=retry_if_exception(_passes),
        wait=wait_random_exponential(multiplier=0.5, max=15),
        stop=stop_before_delay(limit),
        before_sleep=tell,
        reraise=True,
    )
    try:
        return attempts(attempt)
    except (RemoteError, KdcacheError):
        raise
    except Exception as error:  # whatever a file system of fsspec and the library below it raise
        if _missing_bucket(error):
            raise RemoteError(
                "there is no such bucket, and kdcache makes none: mend its name, or make it first", missing=True
            ) from error
        if isinstance(error, NO_FILE):
            raise
        raise RemoteError(_words(error, limit)) from error


def create_file(filesystem: Any, path: str, data: bytes) -> None:
    """Put a file that is not there yet, in one conditional request where the store knows them. Raises FileExistsError.

    A store that refuses conditions is asked before writing; one that ignores them overwrites.
    """
    try:
        filesystem.pipe_file(path, data, mode="create")
        return
    except FileExistsError:
        raise
    except Exception as error:
        if _answer(error)[0] == 412:
            raise FileExistsError(path) from error
        if not _refuses_conditions(error):
            raise
    if filesystem.exists(path):
        raise FileExistsError(path)
    filesystem.pipe_file(path, data)


def is_absent(error: FileNotFoundError) -> bool:
    """Whether it says that a file is not there, and not that its bucket is not, or that nobody can know now."""
    return not _missing_bucket(error) and _failure_behind(error) is None


def _missing_bucket(error: BaseException) -> bool:
    """Whether it is the bucket that is not there."""
    return _answer(error)[1] == "NoSuchBucket" or "bucket does not exist" in str(error).lower()


class RemoteFile(io.RawIOBase):
    """A remote file to read, from `read(start, stop)`, which gives just these bytes. `open` buffers it."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read, self._size, self._offset = read, size, 0

    @classmethod
    def open(cls, read: Callable[[int, int], bytes], size: int) -> io.BufferedReader:
        return io.BufferedReader(cls(read, size), BUFFER)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._offset = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: self._size}[whence]
        return self._offset

    def tell(self) -> int:
        return self._offset

    def readinto(self, buffer: Any) -> int:
        stop = min(self._offset + len(buffer), self._size)
        if stop <= self._offset:
            return 0
        data = self._read(self._offset, stop)
        buffer[: len(data)] = data
        self._offset = stop
        return len(data)


class SeenBlocks:
    """CRC-32 of the blocks of a file that were read, 4 bytes for 256 KiB: the same bytes are read again, or none.

    A range of a remote file comes without a checksum of its own. Whole blocks are read, so up to 512 KiB too much.
    """

    def __init__(self) -> None:
        self._known: dict[int, int] = {}

    def known(self) -> list[int]:
        """The checksums of a file that was read from its start to its end, in order."""
        return [self._known[at] for at in sorted(self._known)]

    def learn(self, known: Sequence[int]) -> None:
        """What `known` gave, in this process or another."""
        self._known |= {number * BLOCK: crc for number, crc in enumerate(known)}

    def read(self, fetch: Callable[[int, int], bytes], start: int, stop: int, size: int) -> bytes | None:
        """Bytes start to stop of a file of this size; None where they stay others than before, at the third time too.

        fetch: (first, last) -> these bytes, from the server.
        """
        first = start // BLOCK * BLOCK
        last = min(-(-stop // BLOCK) * BLOCK, size)
        for again in range(2, -1, -1):
            data = fetch(first, last)
            found = {first + at: zlib.crc32(data[at : at + BLOCK]) for at in range(0, last - first, BLOCK)}
            if all(self._known.setdefault(at, crc) == crc for at, crc in found.items()):
                return data[start - first : stop - first]
            if again:
                words = f"bytes {first} to {last} are others than before"
                print(f"{words}; reading them again", file=sys.stderr, flush=True)
        return None


def _failure_behind(error: FileNotFoundError) -> Exception | None:
    """What really failed: fsspec's HTTP calls every failure a missing file."""
    cause = error.__cause__
    failed = isinstance(cause, Exception) and (_passes(cause) or _answer(cause)[0] in REFUSED)
    return cause if failed else None  # type: ignore[return-value]


def _limit() -> float:
    try:
        return float(os.environ.get(RETRY_SECONDS, "60"))
    except ValueError:
        raise RemoteError(f"got {RETRY_SECONDS}={os.environ[RETRY_SECONDS]}, expected seconds such as 60") from None


def _causes(error: BaseException) -> Iterator[Any]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _answer(error: BaseException) -> tuple[int | None, str]:
    """Status and code of the server's answer, None without one.

    Of the errors of botocore, aiohttp, gcsfs, Azure and huggingface_hub.
    """
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return status, str(response.get("Error", {}).get("Code", ""))
        if isinstance(status := getattr(response, "status_code", None), int):
            return status, ""
        for name in ("status", "status_code", "code"):
            if isinstance(status := getattr(cause, name, None), int):
                return status, ""
    return None, ""


def _kinds(error: BaseException) -> set[str]:
    return {cls.__name__ for cause in _causes(error) for cls in type(cause).__mro__}


def _passes(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    if not isinstance(error, Exception) or isinstance(error, LASTING):
        return False
    kinds = _kinds(error)
    if kinds & LASTING_KINDS or isinstance(error, RemoteError):
        return False
    if kinds & PASSING_KINDS:
        return True
    status, code = _answer(error)
    if code in ("IncompleteBody", "BadDigest", "RequestTimeout", "SlowDown", "XAmzContentSHA256Mismatch"):
        return True
    if status is not None and status >= 300:
        return status in PASSING_STATUS or (status >= 500 and status != 501)
    return isinstance(error, OSError) and error.errno not in LASTING_ERRNO


def _refuses_conditions(error: BaseException) -> bool:
    refused = isinstance(error, NotImplementedError | TypeError | ValueError)
    return refused or _answer(error)[0] == 501 or "ParamValidationError" in _kinds(error)


def _words(error: Exception, limit: float) -> str:
    """What is wrong and what to do."""
    words = one_line(error, 300)
    if _passes(error):
        return (
            f"{words}; tried for {limit:g} s: run the same command again when the server answers "
            f"({RETRY_SECONDS} says for how long kdcache tries)"
        )
    if isinstance(error, PermissionError) or _answer(error)[0] in REFUSED:
        how = " (HF_TOKEN, or hf auth login)" if "HfHubHTTPError" in _kinds(error) else ""
        return f"access denied ({words}): check the credentials{how} and what they may do there"
    if any("Credential" in kind or kind == "ProfileNotFound" for kind in _kinds(error)):
        return (
            f"{words.rstrip('.')}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; "
            "for a public bucket FSSPEC_S3_ANON=true"
        )
    return words if isinstance(error, OSError) else f"{type(error).__name__}: {words}"
