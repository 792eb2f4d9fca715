"""What a device hands back: every bit of the answers, which rows were asked, and that NaN survives the file."""

import io
import json
from fractions import Fraction

import numpy as np
import pytest
import tiny_models
from test_runtime_tasks import of_tensors

from edgekit_runtime.__main__ import main
from edgekit_runtime.bundle import Bundle, pack, verify
from edgekit_runtime.errors import MissingError, UsageError
from edgekit_runtime.evidence import LaneEvidence, array_json, collect, document, fingerprint, json_array, this_machine
from edgekit_runtime.model import Model
from edgekit_runtime.rows import RawRows, golden_rows, read_rows, require_fit

TEXTS = ("good film", "bad film", "film")


def answered(path, rows, **options):
    with Model(verify(path), engine="onnxruntime") as model:
        return collect(model, rows, **options)


def test_answers_are_those_of_the_model_to_the_bit(text_path):
    evidence = answered(text_path, RawRows(texts=TEXTS))
    with Model(verify(text_path), engine="onnxruntime") as model:
        feeds = [model.preprocess(text) for text in TEXTS]
        by_hand = np.concatenate([tiny_models.text_logits(f["input_ids"], f["attention_mask"]) for f in feeds])
    assert evidence.outputs.tobytes() == by_hand.astype(np.float32).tobytes()
    assert evidence.selftest == ()
    assert evidence.cost.cpu_ms_min > 0
    assert evidence.cost.instructions_min is None


def test_every_bit_and_nan_survive_the_json(text_path):
    evidence = answered(text_path, RawRows(texts=TEXTS))
    odd = np.array([[np.nan, np.inf], [-0.0, 1e-45], [0.1, -np.inf]], np.float32)
    held = LaneEvidence(**{**{name: getattr(evidence, name) for name in LaneEvidence.__slots__}, "outputs": odd})
    again = LaneEvidence.from_json(json.loads(json.dumps(held.as_json(), allow_nan=False)))
    assert again.outputs.tobytes() == odd.tobytes()
    assert again.machine == evidence.machine
    assert {name: rows.tolist() for name, rows in again.tensors.items()} == {
        name: rows.tolist() for name, rows in evidence.tensors.items()
    }


def test_arrays_of_another_length_or_kind_are_refused():
    held = array_json(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert json_array(held).tolist() == [[0, 1, 2], [3, 4, 5]]
    for change in ({"shape": [2, 4]}, {"dtype": "object"}, {"base64": "!"}):
        with pytest.raises(ValueError, match=r"."):
            json_array({**held, **change})


def test_fingerprint_of_integers_is_exact_so_that_no_order_of_summing_shows():
    ids = np.random.default_rng(5).integers(0, 250_000, (1, 512), np.int32)
    parts = [Fraction(int(4096 * (place * 0.6180339887498949 % 1.0)), 4096) for place in range(512)]
    exact = sum(int(value) * (1 + part) for value, part in zip(ids[0], parts, strict=True))
    assert Fraction(fingerprint(ids)) == exact
    assert fingerprint(ids[:, ::-1]) != fingerprint(ids)


def test_fingerprint_sees_swapped_channels_and_one_changed_entry():
    image = np.random.default_rng(0).random((1, 4, 4, 3)).astype(np.float32)
    changed = image.copy()
    changed[0, 2, 1, 0] += 1e-3
    prints = [fingerprint(image), fingerprint(image[..., ::-1]), fingerprint(changed)]
    assert len({round(value, 6) for value in prints}) == 3
    assert fingerprint(image) == pytest.approx(fingerprint(image.astype(np.float64)), rel=1e-12)


def test_marks_stand_right_before_and_after_each_inference(text_path):
    marks = []
    evidence = answered(text_path, RawRows(texts=TEXTS), timed=False, mark=lambda: marks.append(1))
    assert len(marks) == 2 * len(TEXTS)
    assert evidence.cost.cpu_ms_min is None


def test_rows_come_back_from_their_file_with_the_same_digest(tmp_path):
    images = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    for rows in (RawRows(texts=("é", "", "\ud800 half a pair")), RawRows(arrays={"images": images})):
        path = tmp_path / f"rows{rows.suffix}"
        rows.write(path)
        assert read_rows(path).digest() == rows.digest()
        assert read_rows(path).take([1]).digest() != rows.digest()
    assert RawRows(texts=("ab", "c")).digest() != RawRows(texts=("a", "bc")).digest()
    assert RawRows(arrays={"images": images}).digest() != RawRows(arrays={"images": images.astype("f4")}).digest()


def test_rows_that_are_none_are_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"texts": [1]}')
    (tmp_path / "x.npz").write_bytes(b"no zip")
    for path, kind, code in [
        (tmp_path / "absent.json", MissingError, "E0658"),
        (tmp_path / "x.json", UsageError, "E0917"),
        (tmp_path / "x.npz", UsageError, "E0917"),
    ]:
        with pytest.raises(kind) as caught:
            read_rows(path)
        assert caught.value.code == code
    with pytest.raises(UsageError):
        RawRows(arrays={"a": np.zeros(2), "b": np.zeros(3)})
    with pytest.raises(UsageError):
        RawRows()


def test_goldens_are_the_rows_when_none_are_given(text_path, image_path, tmp_path):
    for path, engine in ((text_path, "litert"), (image_path, "onnxruntime")):
        out = tmp_path / "out.json"
        assert main(["selftest", str(path), "--engine", engine, "--evidence", str(out)]) == 0
        held = json.loads(out.read_text())
        bundle = verify(path)
        assert held["bundle"]["sha256"] == bundle.digest
        assert held["rows"]["sha256"] == golden_rows(bundle).digest()
        (lane,) = map(LaneEvidence.from_json, held["lanes"])
        recorded = bundle.npy(f"golden/{engine}.npy")
        np.testing.assert_allclose(lane.outputs, recorded, rtol=1e-5)


def test_command_answers_rows_of_a_file(text_path, tmp_path, capsys):
    rows, out = tmp_path / "rows.json", tmp_path / "out.json"
    RawRows(texts=TEXTS).write(rows)
    command = ["selftest", str(text_path), "--rows", str(rows), "--evidence", str(out)]
    assert main(command) == 0
    assert "3 rows answered" in capsys.readouterr().out
    assert json.loads(out.read_text())["rows"]["count"] == 3
    assert main(["selftest", str(text_path), "--rows", str(rows)]) == 2
    assert "E0918" in capsys.readouterr().err
    for wrong in (tmp_path, tmp_path / "no" / "out.json"):
        assert main(["selftest", "none.edge", "--evidence", str(wrong)]) == 2  # before the bundle is looked at
        assert "E0195" in capsys.readouterr().err


def test_failed_goldens_are_in_the_evidence_and_in_the_exit_code(image_parts, tmp_path, capsys):
    recorded = image_parts["members"]["golden/onnxruntime.npy"]
    wrong = tiny_models.npy(-np.load(io.BytesIO(recorded)))
    members = {**image_parts["members"], "golden/onnxruntime.npy": wrong}
    path, out = tmp_path / "x.edge", tmp_path / "out.json"
    path.write_bytes(pack(**{**image_parts, "members": members}))
    assert main(["selftest", str(path), "--engine", "onnxruntime", "--evidence", str(out)]) == 3
    assert any("outputs" in fault for fault in json.loads(out.read_text())["lanes"][0]["selftest"])
    assert "FAIL outputs" in capsys.readouterr().out


def test_engine_without_delegates_answers_by_other_kernels(image_path):
    bundle = Bundle.from_bytes(image_path.read_bytes())
    answers = {}
    for engine in ("litert", "litert-builtin"):
        with Model(bundle, engine=engine) as model:
            answers[engine] = collect(model, golden_rows(bundle))
            held = document(model, golden_rows(bundle), [answers[engine]], source="goldens")
            assert held["lanes"][0]["engine"] == engine
    assert answers["litert"].kernels != answers["litert-builtin"].kernels
    np.testing.assert_allclose(answers["litert"].outputs, answers["litert-builtin"].outputs, atol=1e-4)


def test_arm_core_is_called_by_its_name_and_a_stranger_by_its_codes(tmp_path):
    for implementer, part, name in [
        ("0x41", "0xd08", "Cortex-A72"),
        ("0x41", "0xfff", "implementer 0x41 part 0xfff"),
        ("0x51", "0xd08", "implementer 0x51 part 0xd08"),
    ]:
        file = tmp_path / "cpuinfo"
        file.write_text(f"processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: {implementer}\nCPU part\t: {part}\n")
        found = this_machine(str(file))
        assert (found.cpu, found.features) == (name, ("asimd", "fp"))


def test_rows_of_another_task_or_shape_are_refused_before_they_are_answered(text_path, image_path):
    texts, images = RawRows(texts=TEXTS), RawRows(arrays={"images": np.zeros((2, 8, 8), np.uint8)})
    others = (
        RawRows(arrays={"x": np.zeros((2, 8, 8), np.uint8)}),
        RawRows(arrays={"images": np.zeros((2, 8), np.uint8)}),
    )
    for path, wrong in ((text_path, images), *((image_path, rows) for rows in (texts, *others))):
        with pytest.raises(UsageError) as caught:
            answered(path, wrong)
        assert caught.value.code == "E0198"
    tensors = Bundle.from_bytes(of_tensors())
    (spec,) = tensors.manifest.models["onnxruntime"].inputs
    require_fit(tensors, RawRows(arrays={spec.name: np.zeros((5, *spec.shape[1:]), spec.dtype)}))
    for name, shape, dtype in (
        ("y", spec.shape[1:], spec.dtype),
        (spec.name, (*spec.shape[1:], 1), spec.dtype),
        (spec.name, spec.shape[1:], "uint8"),
    ):
        with pytest.raises(UsageError, match="do not fit") as caught:
            require_fit(tensors, RawRows(arrays={name: np.zeros((5, *shape), dtype)}))
        assert f"it takes {spec.name} float32 (rows, 8, 8, 1); these are {name} " in caught.value.why
