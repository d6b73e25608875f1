"""The file of a basis: what the coefficients of all records of a cache stand for.

    basis-<12 digits of its sha256>.zarr.zip      mean float32 [classes], basis float16 [classes, rank]

Its stamp has the digest of the header's other settings (`Header.settings`): a basis serves no other cache.

Written before the header that pins it. Of several processes that begin one cache each may make a basis; the first
header wins, and the others take the basis that it names.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from kdcache.errors import CacheError, one_line
from kdcache.store.backend import Part, Stamp, backend, check_arrays, check_stamp
from kdcache.store.files import Root
from kdcache.store.limits import check_room
from kdcache.store.manifest import BasisPin, CalibrationPin, Header
from kdcache.store.pinned import read_pinned
from kdcache.store.shard import repair_command
from kdcache.targets.fields import Field, Level
from kdcache.targets.records import record_fields

if TYPE_CHECKING:
    from kdcache.targets.basis import Basis

__all__ = ["decode_basis", "encode_basis", "forget_other_bases", "is_basis", "read_basis", "write_basis"]

PREFIX = "basis-"


def encode_basis(settings: Header, basis: "Basis") -> bytes:
    """The bytes of its file."""
    arrays = {"mean": basis.mean_V.numpy(), "basis": basis.basis_VR.numpy()}
    return backend(settings.backend).encode(_fields(basis.rank), [arrays], _stamp(settings))


def write_basis(root: Root, settings: Header, basis: "Basis", calibration: CalibrationPin | None) -> Header:
    """Write the file, and add its pin, and the fields that depend on it, to a header without them."""
    data = encode_basis(settings, basis)
    digest = sha256(data).hexdigest()
    file = f"{PREFIX}{digest[:12]}{backend(settings.backend).suffix}"
    root.write(file, data)
    pin = BasisPin(
        file=file, rank=basis.rank, soft_cap=basis.soft_cap, bytes=len(data), sha256=digest, calibration=calibration
    )
    plain = {field.name: field for field in settings.fields}
    of_records = record_fields(settings.records, settings.num_classes, width=settings.features_width, rank=basis.rank)
    own = {field.name for field in of_records}
    fields = (*(field for name, field in plain.items() if name not in own), *of_records)
    return settings.model_copy(update={"basis": pin, "fields": fields})


def read_basis(root: Root, header: Header) -> bytes:
    """The bytes of the pinned file. Raises CacheError where they are missing or others."""
    assert header.basis is not None
    pin = header.basis
    check_room(f"{root.url}/{pin.file}", _fields(pin.rank), _sizes(header), pin.bytes)
    return read_pinned(root, pin.file, pin.sha256, pin.bytes)


def decode_basis(root: Root, header: Header, data: bytes) -> "Basis":
    """The basis in bytes that have the pinned digest. Raises CacheError where they do not hold it."""
    import torch

    from kdcache.targets.basis import Basis

    assert header.basis is not None
    fields = _fields(header.basis.rank)
    where = f"{root.url}/{header.basis.file}"
    try:
        arrays, stamp = _decoded(header, fields, data)
        check_arrays(fields, arrays)
        fault = check_stamp(stamp, {**_stamp(header.settings), "block": 0})
        if len(arrays["mean"]) != header.num_classes:
            fault = f"got {len(arrays['mean'])} classes, expected {header.num_classes}"
        elif not np.isfinite(arrays["basis"]).all() or not (arrays["mean"] < np.inf).all():
            fault = "holds NaN or infinity"  # but for classes that are never given, whose mean is −inf
    except Exception as error:  # whatever the library raises for bytes that are not its format
        raise CacheError(f"{where} is damaged: {one_line(error, 300)}; {repair_command(root)}") from error
    if fault:
        raise CacheError(f"{where} is damaged: {fault}; {repair_command(root)}")
    basis_VR, mean_V = (torch.from_numpy(arrays[name].copy()) for name in ("basis", "mean"))
    return Basis(basis_VR, mean_V, header.basis.soft_cap)


def _decoded(header: Header, fields: Sequence[Field], data: bytes) -> tuple[dict[str, np.ndarray], Stamp]:
    """A file of one block."""
    store, whole = backend(header.backend), memoryview(data)
    layout = store.layout(fields, data)
    if len(layout.blocks) != 1:
        raise ValueError(f"got {len(layout.blocks)} blocks, expected one")
    places = [*layout.blocks, *([layout.frame] if layout.frame else [])]
    block, *frame = (Part(start, whole[start : start + size]) for start, size in places)
    return store.decode(fields, block, frame[0] if frame else None, _sizes(header))


def forget_other_bases(root: Root, header: Header) -> None:
    """Delete the bases that lost, or of settings that were given up before a shard was written."""
    kept = header.basis.file if header.basis else None
    root.delete(name for name in root.list() if is_basis(name) and name != kept)


def is_basis(name: str) -> bool:
    """Whether this file in the folder of a cache is that of a basis, of this cache or of one that it was before."""
    return name.startswith(PREFIX)


def _fields(rank: int) -> tuple[Field, ...]:
    return Field("mean", "class", "float32"), Field("basis", "class", "float16", (rank,))


def _sizes(header: Header) -> dict[Level, int]:
    return {"class": header.num_classes}


def _stamp(settings: Header) -> Stamp:
    return {"basis_of_sha256": settings.digest()}
