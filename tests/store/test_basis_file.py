"""Caches with a factored tail: the basis is written once, agreed on, checked, shared and converted."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from store.making import BACKENDS, tree

from kdcache import CacheWriter, open_cache
from kdcache.errors import CacheError, TeacherError
from kdcache.store.convert import convert
from kdcache.store.files import Root
from kdcache.store.manifest import canonical
from kdcache.store.verify import verify
from kdcache.targets.factored import Factored
from kdcache.targets.output_layer import OutputLayer
from kdcache.targets.sampled import Sampled

CLASSES, HIDDEN = 60, 12
RECORD = Factored(rank="full", exact_top_k=4)
RNG = torch.Generator().manual_seed(0)
LAYER = OutputLayer(torch.randn(CLASSES, HIDDEN, generator=RNG), torch.randn(CLASSES, generator=RNG))
CALIBRATION = torch.randn(500, HIDDEN, generator=RNG)
EXAMPLES = [
    (torch.randint(CLASSES, (n + 1,), generator=RNG), torch.randn(n, HIDDEN, generator=RNG)) for n in (5, 1, 9, 0, 7)
]


def write(path: Path | str, calibration: object = CALIBRATION, **settings: object) -> None:
    arguments = {"record": RECORD, "output_layer": (LAYER.weight_VD, LAYER.bias_V), "examples_per_shard": 2, **settings}
    with CacheWriter(path, num_classes=CLASSES, calibration=calibration, **arguments) as writer:  # type: ignore[arg-type]
        for tokens, hidden_PD in EXAMPLES:
            writer.add(tokens, hidden=hidden_PD)


@pytest.fixture
def cache_folder(tmp_path: Path, backend_name: str) -> Path:
    write(tmp_path / "cache", backend=backend_name)
    return tmp_path / "cache"


def basis_of(folder: Path) -> Path:
    (path,) = folder.glob("basis-*")
    return path


def test_what_is_written_comes_back(cache_folder: Path) -> None:
    cache = open_cache(cache_folder)
    targets = cache.read(0, 5).targets()
    logits_PV = LAYER.logits(torch.cat([hidden_PD for _, hidden_PD in EXAMPLES]))
    for temperature in (1.0, 2.0):
        exact_PV = (logits_PV / temperature).log_softmax(-1)
        log_p_PV = targets.dense_log_probs(temperature)
        assert (exact_PV.exp() * (exact_PV - log_p_PV)).sum(-1).mean() < 2e-3
    pin = cache.manifest.header.basis
    assert pin is not None
    assert (pin.rank, pin.soft_cap, pin.file) == (HIDDEN, None, basis_of(cache_folder).name)
    assert verify(cache_folder) == []


def test_all_batches_share_one_basis(cache_folder: Path) -> None:
    cache = open_cache(cache_folder)
    first, other = cache.read(0, 1), cache.read(3, 5)
    assert first.targets().basis is other.take([1]).targets().basis is cache.read(0, 0).targets().basis


def test_logits_are_compared_with_the_hidden_states(tmp_path: Path) -> None:
    tokens, hidden_PD = EXAMPLES[0]
    settings = {"num_classes": CLASSES, "record": RECORD, "output_layer": LAYER, "calibration": CALIBRATION}
    for logits in (LAYER.logits(hidden_PD), lambda: LAYER.logits(hidden_PD)):
        with CacheWriter(tmp_path / "cache", **settings) as writer:
            writer.add(tokens, logits, hidden=hidden_PD)
    with pytest.raises(TeacherError, match="not its output layer's"), CacheWriter(tmp_path / "2", **settings) as writer:
        writer.add(tokens, LAYER.logits(hidden_PD).flip(1), hidden=hidden_PD)


def test_a_soft_cap_is_kept(tmp_path: Path) -> None:
    layer = OutputLayer(LAYER.weight_VD, soft_cap=2.0, scale=1.5)
    write(tmp_path / "cache", output_layer=layer)
    targets = open_cache(tmp_path / "cache").read(0, 1).targets()
    exact_PV = layer.logits(EXAMPLES[0][1]).log_softmax(-1)
    torch.testing.assert_close(targets.dense_log_probs(1.0), exact_PV, rtol=0, atol=0.25)
    assert targets.basis is not None
    assert targets.basis.soft_cap == 2.0


def test_a_run_that_goes_on_uses_the_stored_basis(cache_folder: Path, backend_name: str) -> None:
    before = tree(cache_folder)
    for name in ("cache.json", "shards/000/000001.json"):
        (cache_folder / name).unlink()

    def not_again() -> torch.Tensor:
        raise AssertionError("calibrated twice")

    write(cache_folder, not_again, backend=backend_name)
    assert tree(cache_folder) == before


def test_the_first_header_wins(tmp_path: Path) -> None:
    """Two writers that calibrate differently, at the same time: both go on with one basis, and the other is gone."""
    barrier, bases = threading.Barrier(2), []

    def begin(seed: int) -> None:
        def calibration() -> torch.Tensor:
            barrier.wait()
            return torch.randn(100, HIDDEN, generator=torch.Generator().manual_seed(seed))

        writer = CacheWriter(tmp_path, num_classes=CLASSES, record=RECORD, output_layer=LAYER, calibration=calibration)
        bases.append((canonical(writer.header), writer.builder.basis))

    threads = [threading.Thread(target=begin, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (first, one), (second, other) = bases
    assert first == second == (tmp_path / "header.json").read_bytes()
    assert one is not None
    assert other is not None
    assert torch.equal(one.basis_VR, other.basis_VR)
    assert basis_of(tmp_path).name.encode() in first


def test_other_settings_before_a_shard_is_written_begin_anew(tmp_path: Path) -> None:
    for rank in (3, 4):
        record = RECORD.model_copy(update={"rank": rank})
        writer = CacheWriter(tmp_path, num_classes=CLASSES, record=record, output_layer=LAYER, calibration=CALIBRATION)
        assert writer.builder.basis is not None
        assert writer.builder.basis.rank == rank
    assert basis_of(tmp_path).is_file()


def test_other_settings_are_refused_before_calibrating(cache_folder: Path) -> None:
    record = RECORD.model_copy(update={"rank": 3})
    with pytest.raises(CacheError, match=r"was begun with records\.factored\.rank full, got 3"):
        write(cache_folder, None, record=record, backend=open_cache(cache_folder).manifest.header.backend)


def damage_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "message"), [(damage_byte, "has sha256"), (Path.unlink, "is missing, expected the file with sha256")]
)
def test_a_damaged_basis_is_found(cache_folder: Path, damage: Callable[[Path], None], message: str) -> None:
    cache, path = open_cache(cache_folder), basis_of(cache_folder)
    damage(path)
    faults = verify(cache_folder)
    assert [(fault.shard, message in fault.what) for fault in faults] == [(path.name, True)]
    for read in (lambda: open_cache(cache_folder), lambda: cache.read(0, 1).targets()):
        with pytest.raises(CacheError, match=message):
            read()
    assert cache.read(0, 1).num_positions == 5


def test_conversion_keeps_the_basis(cache_folder: Path, backend_name: str, tmp_path: Path) -> None:
    convert(cache_folder, tmp_path / "other", BACKENDS[BACKENDS.index(backend_name) - 1])
    assert verify(tmp_path / "other") == []
    convert(tmp_path / "other", tmp_path / "back", backend_name)  # type: ignore[arg-type]
    assert tree(tmp_path / "back") == tree(cache_folder)
    theirs, ours = (open_cache(folder).read(0, 5).targets() for folder in (tmp_path / "other", cache_folder))
    assert torch.equal(theirs.dense_log_probs(2.0), ours.dense_log_probs(2.0))


def test_a_remote_cache_with_local_copies(tmp_path: Path) -> None:
    url = "memory://factored/cache"
    write(url)
    for _ in range(2):
        cache = open_cache(url, local_cache=tmp_path / "copies")
        assert cache.basis.rank == HIDDEN
        file = cache.manifest.header.basis.file  # type: ignore[union-attr]
        Root(url).delete(file)  # the second time it is there already


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output_layer": None}, "got no output_layer for this record, expected one"),
        ({"record": Sampled()}, "got an output_layer for this record, expected none"),
        ({"calibration": None}, "got no calibration for a factored record"),
        ({"output_layer": (LAYER.weight_VD[:50], None)}, "got an output layer of 50 classes, expected num_classes 60"),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(CacheError, match=message):
        write(tmp_path / "cache", **settings)


def test_hidden_states_of_the_wrong_shape_or_none(tmp_path: Path) -> None:
    tokens, hidden_PD = EXAMPLES[0]
    settings = {"num_classes": CLASSES, "record": RECORD, "output_layer": LAYER, "calibration": CALIBRATION}
    for given, message in (
        ({"hidden": hidden_PD[:, 1:]}, r"got hidden states \[5, 11\], expected \[5, 12\]"),
        ({"logits": LAYER.logits(hidden_PD)}, "got no hidden states with an example, expected them"),
    ):
        with pytest.raises(CacheError, match=message):
            CacheWriter(tmp_path / "cache", **settings).add(tokens, **given)
    plain = CacheWriter(tmp_path / "plain", num_classes=CLASSES)
    with pytest.raises(CacheError, match="got hidden states with an example, expected none"):
        plain.add(tokens, np.zeros((5, CLASSES), np.float32), hidden=hidden_PD)
