"""A storage backend in one file: shards as .npz, which `numpy.load` opens, with no compression.

A block is the members `0/tokens.npy` and so on, one after the other. Where they lie is said at the end of the file, in
the zip's directory, so that this is the frame of the file.
"""

import io
import json
import math
import zipfile

import numpy as np

import kdcache


class Npz:
    suffix = ".npz"
    libraries = ("numpy",)

    def encode(self, fields, blocks, stamp):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for number, arrays in enumerate(blocks):
                text = json.dumps({**stamp, "block": number}, sort_keys=True).encode()
                archive.writestr(zipfile.ZipInfo(f"{number}/stamp.json"), text)
                for field in kdcache.array_fields(fields):
                    array = io.BytesIO()
                    np.save(array, np.ascontiguousarray(arrays[field.name]), allow_pickle=False)
                    archive.writestr(zipfile.ZipInfo(f"{number}/{field.name}.npy"), array.getvalue())
        return packed.getvalue()

    def layout(self, fields, data):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [f"{one}/stamp.json" for one in range(len(archive.namelist()))]
            starts = [archive.getinfo(name).header_offset for name in names if name in archive.namelist()]
            end = archive.start_dir
        blocks = zip(starts, [*starts[1:], end], strict=True)
        return kdcache.Layout(tuple((a, b - a) for a, b in blocks), (end, len(data) - end))

    def sizes(self, fields, block, frame):
        with Two(block, frame) as archive:
            return {field.level: _shape(archive, field, block)[0] for field in kdcache.array_fields(fields)}

    def decode(self, fields, block, frame, sizes):
        with Two(block, frame) as archive:
            stamp = json.loads(archive.read(f"{_number(archive, block)}/stamp.json"))
            arrays = {}
            for field in kdcache.array_fields(fields):
                shape = (sizes[field.level], *field.shape)
                if _shape(archive, field, block) != shape:
                    raise ValueError(f"got {field.name} {_shape(archive, field, block)}, expected {shape}")
                data = archive.read(_name(archive, field, block))
                values = data[len(data) - math.prod(shape) * np.dtype(field.dtype).itemsize :]
                arrays[field.name] = np.frombuffer(values, field.dtype).reshape(shape)
        return arrays, stamp


class Two(zipfile.ZipFile):
    """A zip of which one block is there, and the directory."""

    def __init__(self, block, frame):
        super().__init__(Parts(block, frame))


class Parts(io.RawIOBase):
    """A file of which two ranges are there; a zip's reader asks for no other."""

    def __init__(self, *parts):
        self.parts, self.at = parts, 0
        self.size = parts[-1].start + len(parts[-1].data)

    def seekable(self):
        return True

    def seek(self, offset, whence=io.SEEK_SET):
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        return self.at

    def tell(self):
        return self.at

    def read(self, size=-1):
        size = min(size, self.size - self.at) if size >= 0 else self.size - self.at
        for part in self.parts:
            first = self.at - part.start
            if first >= 0 and first + size <= len(part.data):
                self.at += size
                return bytes(part.data[first : first + size])
        raise ValueError(f"got a member at {self.at}, expected it inside its block")


def _number(archive, block):
    (name,) = [info.filename for info in archive.infolist() if info.header_offset == block.start]
    return int(name.removesuffix("/stamp.json"))


def _name(archive, field, block):
    return f"{_number(archive, block)}/{field.name}.npy"


def _shape(archive, field, block):
    """What the head of an array says, compared with its member's bytes before any memory is taken."""
    info = archive.getinfo(_name(archive, field, block))
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"got {info.filename} compressed, expected it as it is")
    with archive.open(info) as member:
        np.lib.format.read_magic(member)
        shape, _, dtype = np.lib.format.read_array_header_1_0(member)
        if dtype != field.dtype or info.file_size - member.tell() != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"got {field.name} {dtype}{[*shape]} in {info.file_size} bytes, expected {field.dtype}")
    return shape


kdcache.register_backend("npz", Npz())
