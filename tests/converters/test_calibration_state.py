"""An interrupted calibration goes on as if nothing had happened, and only with the rows that it began with."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit_converters.quantize.calibration import state_file
from edgekit_converters.quantize.calibration.fingerprint import CalibrationFingerprint
from edgekit_converters.quantize.calibration.observers import Observer, make_observer
from edgekit_converters.quantize.calibration.spec import METHODS, ObserverSpec
from edgekit_converters.quantize.calibration.state_file import load_state, save_state
from edgekit_runtime.errors import ConversionError

SPECS = {
    f"{method}{'.symmetric' if symmetric else ''}": ObserverSpec(method=method, symmetric=symmetric, bins=512)
    for method in METHODS
    for symmetric in (False, True)
}
ROWS = 9


def row(number: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(5 + number, 16, generator=generator) * 1.7 ** (number % 5)  # the range grows and rests


def calibrate(observers: dict[str, Observer], rows: range) -> dict[str, Observer]:
    for number in rows:
        for observer in observers.values():
            observer.update(row(number))
    return observers


def fresh() -> dict[str, Observer]:
    return {name: make_observer(spec, name) for name, spec in SPECS.items()}


def everything(observers: dict[str, Observer]) -> dict[str, object]:
    states = {name: {k: a.tobytes() for k, a in observer.state().items()} for name, observer in observers.items()}
    return {"ranges": {name: observer.range() for name, observer in observers.items()}, "states": states}


@pytest.fixture
def saved(tmp_path) -> Path:
    path = tmp_path / "calibration.npz"
    save_state(path, calibrate(fresh(), range(4)), rows_done=4, fingerprint="abc")
    return path


@pytest.mark.parametrize("interrupted", [0, 1, 4, ROWS])
def test_resumed_calibration_is_bit_identical_to_an_uninterrupted_one(tmp_path, interrupted) -> None:
    path = tmp_path / "calibration.npz"
    save_state(path, calibrate(fresh(), range(interrupted)), rows_done=interrupted, fingerprint="abc")
    state = load_state(path, SPECS, fingerprint="abc")
    assert state.rows_done == interrupted
    resumed = calibrate(dict(state.observers), range(state.rows_done, ROWS))
    assert everything(resumed) == everything(calibrate(fresh(), range(ROWS)))


def test_shape_is_remembered_over_the_interruption(saved) -> None:
    state = load_state(saved, SPECS, fingerprint="abc")
    for observer in state.observers.values():
        with pytest.raises(ConversionError) as caught:
            observer.update(torch.ones(1, 5, 16))
        assert caught.value.code == "E0742"


def test_state_of_another_fingerprint_is_refused(saved) -> None:
    with pytest.raises(ConversionError) as caught:
        load_state(saved, SPECS, fingerprint="abd")
    assert caught.value.code == "E0741"
    assert "abc" in caught.value.what
    assert "abd" in caught.value.what


@pytest.mark.parametrize("change", ["setting", "missing", "more"])
def test_state_of_other_tensors_or_settings_is_refused(saved, change) -> None:
    specs = dict(SPECS)
    if change == "setting":
        specs["minmax"] = ObserverSpec(method="minmax", symmetric=True)
    elif change == "missing":
        del specs["minmax"]
    else:
        specs["another"] = ObserverSpec(method="minmax")
    with pytest.raises(ConversionError) as caught:
        load_state(saved, specs, fingerprint="abc")
    assert caught.value.code == "E0745"
    assert ("another" if change == "more" else "minmax") in caught.value.what


def test_file_that_is_cut_or_absent_is_refused(saved, tmp_path) -> None:
    whole = saved.read_bytes()
    broken = tmp_path / "broken.npz"
    for cut in range(0, len(whole), max(1, len(whole) // 40)):
        broken.write_bytes(whole[:cut])
        with pytest.raises(ConversionError) as caught:
            load_state(broken, SPECS, fingerprint="abc")
        assert caught.value.code == "E0745"
    with pytest.raises(ConversionError) as caught:
        load_state(tmp_path / "absent.npz", SPECS, fingerprint="abc")
    assert caught.value.code == "E0745"


def test_changed_bit_is_refused_or_changes_nothing(tmp_path) -> None:
    path = tmp_path / "small.npz"
    specs = {"minmax": SPECS["minmax"]}
    observers = calibrate({"minmax": make_observer(specs["minmax"], "minmax")}, range(4))
    save_state(path, observers, rows_done=4, fingerprint="abc")
    whole, expected = path.read_bytes(), everything(observers)
    refused = 0
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            state = load_state(path, specs, fingerprint="abc")
        except ConversionError as error:
            refused += error.code in {"E0741", "E0745"}
        else:  # a time stamp, say
            assert (everything(dict(state.observers)), state.rows_done) == (expected, 4)
    assert refused > len(whole) / 2


@pytest.mark.parametrize("change", [{"format": 2}, {"rows_done": -1}, {"observers": {}}, {"observers": [1]}])
def test_head_that_is_not_ours_is_refused(saved, change) -> None:
    with np.load(saved, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    head = json.loads(arrays["head"].tobytes()) | change
    arrays["head"] = np.frombuffer(json.dumps(head).encode(), np.uint8)
    np.savez(saved, **arrays)
    with pytest.raises(ConversionError) as caught:
        load_state(saved, SPECS, fingerprint="abc")
    assert caught.value.code == "E0745"


def test_file_holds_no_pickle(saved) -> None:
    with zipfile.ZipFile(saved) as archive:
        for member in archive.namelist():
            array = np.load(io.BytesIO(archive.read(member)), allow_pickle=False)
            assert not array.dtype.hasobject


def test_interrupted_write_leaves_the_file_of_before(saved, monkeypatch) -> None:
    before = saved.read_bytes()

    def fails(file, **arrays) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(state_file.np, "savez_compressed", fails)
    with pytest.raises(OSError, match="disk full"):
        save_state(saved, fresh(), rows_done=0, fingerprint="abc")
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


# --- fingerprint


def feeds() -> dict[str, np.ndarray]:
    return {"ids": np.array([[1, 2, 3]], np.int64), "mask": np.array([[1.0, 1.0, 0.0]], np.float32)}


def digest(*rows: dict[str, np.ndarray]) -> str:
    fingerprint = CalibrationFingerprint()
    for feed in rows:
        fingerprint.update(feed)
    assert fingerprint.rows == len(rows)
    return fingerprint.hexdigest()


def test_fingerprint_is_the_sha256_of_the_documented_bytes() -> None:
    import hashlib

    def part(content: bytes) -> bytes:
        return len(content).to_bytes(8, "little") + content

    stream = b"edgekit calibration 1\n" + (1).to_bytes(8, "little")
    stream += part(b"x") + part(b"<f4") + part(b"2,1") + part(bytes.fromhex("0000803f 00000040"))  # 1.0, 2.0
    assert digest({"x": np.array([[1.0], [2.0]], np.float32)}) == hashlib.sha256(stream).hexdigest()


@pytest.mark.parametrize("change", ["name", "dtype", "shape", "value", "order", "count", "cut", "negative zero"])
def test_every_part_of_the_rows_changes_the_fingerprint(change) -> None:
    first, second = feeds(), {**feeds(), "ids": np.array([[4, 5, 6]], np.int64)}
    other = {key: array.copy() for key, array in first.items()}
    rows = [other, second]
    if change == "name":
        other["mask2"] = other.pop("mask")
    elif change == "dtype":
        other["ids"] = other["ids"].view(np.uint64)
    elif change == "shape":
        other["ids"] = other["ids"].reshape(3, 1)
    elif change == "value":
        other["ids"][0, 2] = 4
    elif change == "order":
        rows.reverse()
    elif change == "count":
        rows.append(second)
    elif change == "cut":
        rows = [{"ids": other["ids"]}, {"mask": other["mask"]}, second]
    else:
        other["mask"][0, 2] = -0.0
    assert digest(*rows) != digest(first, second)


def test_strides_byte_order_and_order_of_names_do_not_change_the_fingerprint() -> None:
    row_of = feeds()
    same = {
        "mask": np.repeat(row_of["mask"], 2, axis=1)[:, ::2],
        "ids": np.asfortranarray(row_of["ids"]).astype(">i8"),
    }
    assert digest(same) == digest(row_of)


def test_feed_of_objects_is_refused_and_not_taken_in() -> None:
    fingerprint = CalibrationFingerprint()
    before = fingerprint.hexdigest()
    with pytest.raises(ConversionError) as caught:
        fingerprint.update({"a": np.zeros(1), "text": np.array(["a", None], object)})
    assert caught.value.code == "E0746"
    assert (fingerprint.hexdigest(), fingerprint.rows) == (before, 0)
