import hashlib
import io
import json
import os
import random
import struct
import zipfile
import zlib

import numpy as np
import pytest
import tiny_models

from edgekit_runtime.bundle import Bundle, pack, verify, write_bundle
from edgekit_runtime.errors import BundleError, MissingError, UsageError
from edgekit_runtime.manifest import MAX_MANIFEST_BYTES, Manifest, canonical_json

MASKS = (0x01, 0x80, 0xFF)


def small_parts(**members: bytes) -> dict[str, object]:
    return {
        "name": "small",
        "version": "1.2.3",
        "task": "image-classification",
        "target": "rpi5",
        "models": {"onnxruntime": tiny_models.entry("model.onnx", tiny_models.IMAGE_IO)},
        "members": {
            "model.onnx": b"not a model",
            "labels.json": b'["a","b"]',
            "golden/image.npy": b"\0" * 40,
            **members,
        },
    }


@pytest.fixture(scope="module")
def data() -> bytes:
    return pack(**small_parts())


def refused(data: bytes) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.from_bytes(data)
    return caught.value.code


def with_manifest(data: bytes, change) -> bytes:
    """Write the container anew, by zipfile's rules and ours, around a manifest that ``change`` has edited."""
    bundle = Bundle.from_bytes(data)
    manifest = json.loads(bundle.manifest.to_bytes())
    contents = {member["name"]: bundle.read(member["name"]) for member in manifest["members"]}
    raw = change(manifest)
    raw = canonical_json(manifest) if raw is None else raw
    rows = [("manifest.json", raw)]
    rows += [(m["name"], contents.get(m["name"], b"")) for m in manifest["members"] if isinstance(m.get("name"), str)]
    return container(rows)


def container(rows) -> bytes:
    body, directory = b"", b""
    for name, content in rows:
        path, crc, size = name.encode("utf-8", "surrogatepass"), zlib.crc32(content), len(content)
        fields = (20, 0, 0, 0, 0x21, crc, size, size, len(path))
        directory += struct.pack("<4s6H3I5H2I", b"PK\1\2", 788, *fields, 0, 0, 0, 0, 0o100644 << 16, len(body)) + path
        body += struct.pack("<4s5H3I2H", b"PK\3\4", *fields, 0) + path + content
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, len(rows), len(rows), len(directory), len(body), 0)
    return body + directory + end


def test_what_is_written_can_be_read_back(tmp_path):
    parts = small_parts()
    digest = write_bundle(tmp_path / "a.edge", **parts)
    bundle = verify(tmp_path / "a.edge")
    assert bundle.digest == digest == hashlib.sha256((tmp_path / "a.edge").read_bytes()).hexdigest()
    assert {name: bundle.read(name) for name in bundle.names} == parts["members"]
    assert bundle.manifest.models == parts["models"]
    assert bundle.json("labels.json") == ["a", "b"]


def test_zip_tools_read_it_too(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert archive.namelist()[0] == "manifest.json"
        assert archive.read("model.onnx") == b"not a model"
        info = archive.getinfo("labels.json")
    assert (info.date_time, info.compress_type, info.external_attr >> 16) == ((1980, 1, 1, 0, 0, 0), 0, 0o100644)


def test_container_written_independently_is_accepted(data):
    assert with_manifest(data, lambda manifest: None) == data


def test_same_members_in_any_order_give_the_same_bytes(data):
    parts = small_parts()
    names = list(parts["members"])
    for seed in range(10):
        random.Random(seed).shuffle(names)
        assert pack(**{**parts, "members": {name: parts["members"][name] for name in names}}) == data


@pytest.mark.parametrize("mask", MASKS)
def test_every_flipped_byte_is_refused(data, mask):
    missed = []
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= mask
        try:
            Bundle.from_bytes(bytes(changed))
        except BundleError:
            continue
        missed.append(place)
    assert missed == []


def test_a_reader_that_checks_only_digests_would_miss_flips(data):
    """Negative control: the flips above do reach bytes that only the canonical rule protects."""
    manifest = Bundle.from_bytes(data).manifest
    missed = 0
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 0x01
        try:
            with zipfile.ZipFile(io.BytesIO(bytes(changed))) as archive:
                found = Manifest.from_bytes(archive.read("manifest.json"))
                digests = [hashlib.sha256(archive.read(m.name)).hexdigest() == m.sha256 for m in found.members]
                missed += found == manifest and all(digests)
        except Exception:  # noqa: BLE001 - any complaint of zipfile counts as a refusal
            continue
    assert missed > 50


def test_every_truncation_is_refused(data):
    codes = {refused(data[:size]) for size in range(len(data))}
    assert codes <= {"E0501", "E0502"}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda data: data + b"\0",
        lambda data: data + data,
        lambda data: data + b"#!/bin/sh\nrm -rf /\n",
        lambda data: b"\0" + data,
        lambda data: b"MZ" + data,
        lambda data: b"\x7fELF" + b"\0" * 60 + data,
        lambda data: data[:-2] + b"\2\0hi",
    ],
)
def test_added_bytes_are_refused(data, wrap):
    assert refused(wrap(data)) in {"E0501", "E0503"}


HOSTILE_NAMES = [
    "../evil", "/etc/passwd", "a/../../b", "a//b", "a/", "/", "", ".", "..", ".hidden", "a/.hidden", "a\\b", "C:evil",
    "c:/evil", "//server/share", "A.json", "caf\u00e9", "cafe\u0301", "a\0b", "a\nb", "a b", "\u202egnp.exe", "a" * 101,
    "-rf", "_x", "~", "a/../b", "manifest.json", "a\u2044b", "\uff0e\uff0e/x", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_name_is_refused_by_reader_and_writer(data, name):
    def rename(manifest):
        manifest["members"][-1]["name"] = name
        return json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()

    assert refused(with_manifest(data, rename)) in {"E0508", "E0506"}
    parts = small_parts()
    with pytest.raises(BundleError) as caught:
        pack(**{**parts, "members": {**parts["members"], name: b""}})
    assert caught.value.code == "E0508"


def test_name_inside_another_member_is_refused():
    with pytest.raises(BundleError) as caught:
        pack(**small_parts(**{"a": b"", "a/b": b""}))
    assert caught.value.code == "E0508"


def test_member_listed_twice_is_refused(data):
    def double(manifest):
        manifest["members"].append(manifest["members"][-1])

    assert refused(with_manifest(data, double)) == "E0508"


def edit(path, value):
    def change(manifest):
        place = manifest
        for key in path[:-1]:
            place = place[key]
        if value is KeyError:
            del place[path[-1]]
        else:
            place[path[-1]] = value

    return change


ONNX_INPUT = ("models", "onnxruntime", "inputs", 0)


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        (("format",), "other", "E0507"),
        (("schema",), 2, "E0509"),
        (("schema",), "1", "E0509"),
        (("name",), "Bad Name", "E0507"),
        (("name",), 5, "E0507"),
        (("name",), KeyError, "E0507"),
        (("extra",), 1, "E0507"),
        (("version",), "1.0", "E0507"),
        (("version",), "01.0.0", "E0507"),
        (("task",), "translation", "E0507"),
        (("target",), "", "E0507"),
        (("members",), {}, "E0507"),
        (("members",), [], "E0507"),
        (("members", 0, "sha256"), "0" * 64, "E0505"),
        (("members", 0, "sha256"), "A" * 64, "E0507"),
        (("members", 0, "role"), "program", "E0507"),
        (("members", 0, "size"), True, "E0507"),
        (("members", 0, "size"), -1, "E0507"),
        (("members", 0, "size"), 2**33, "E0507"),
        (("members", 0, "size"), 10, "E0503"),
        (("members", 0, "size"), 12, "E0502"),
        (("members", 0, "mode"), 511, "E0507"),
        (("models",), {}, "E0507"),
        (("models", "npu"), {}, "E0507"),
        (("models", "onnxruntime", "member"), "absent.onnx", "E0507"),
        (("models", "onnxruntime", "precision"), "int3", "E0507"),
        (("models", "onnxruntime", "inputs"), [], "E0507"),
        ((*ONNX_INPUT, "dtype"), "float64", "E0507"),
        ((*ONNX_INPUT, "shape"), [], "E0507"),
        ((*ONNX_INPUT, "shape"), [1, 0], "E0507"),
        ((*ONNX_INPUT, "shape"), [1, -1], "E0507"),
        ((*ONNX_INPUT, "shape"), [True], "E0507"),
        ((*ONNX_INPUT, "shape"), "8", "E0507"),
        ((*ONNX_INPUT, "tensor"), "", "E0507"),
    ],
)
def test_wrong_field_is_refused(data, path, value, code):
    assert refused(with_manifest(data, edit(path, value))) == code


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"format":"edgekit-bundle","format":"edgekit-bundle"}',
        b'{"schema":1.0}',
        b'{"schema":NaN}',
        b'{"schema":1e999}',
        b'{"schema":' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 50_000,
    ],
)
def test_manifest_that_is_not_strict_json_is_refused(data, raw):
    assert refused(with_manifest(data, lambda manifest: raw)) in {"E0506", "E0507"}


@pytest.mark.parametrize(
    "restyle",
    [
        lambda m: json.dumps(m, sort_keys=True).encode(),
        lambda m: json.dumps(dict(reversed(m.items())), separators=(",", ":")).encode(),
        lambda m: canonical_json(m) + b"\n",
        lambda m: b"\xef\xbb\xbf" + canonical_json(m),
        lambda m: canonical_json(m).replace(b"small", b"\\u0073mall"),
    ],
)
def test_manifest_in_another_spelling_is_refused(data, restyle):
    assert refused(with_manifest(data, restyle)) == "E0506"


def test_duplicate_key_inside_an_otherwise_canonical_manifest_is_refused(data):
    assert refused(with_manifest(data, lambda m: canonical_json(m)[:-1] + b',"version":"1.2.3"}')) == "E0506"


def test_manifest_carries_the_fingerprint_of_the_calibration_rows_or_none(data):
    assert b"calibration" not in Bundle.from_bytes(data).manifest.to_bytes()
    told = pack(**small_parts(), calibration_sha256="0f" * 32)
    assert Bundle.from_bytes(told).manifest.calibration_sha256 == "0f" * 32
    assert json.loads(Bundle.from_bytes(told).manifest.to_bytes())["calibration_sha256"] == "0f" * 32
    for wrong in ("", "0F" * 32, 7, None):  # none is left out, never empty
        code = refused(with_manifest(data, lambda m, w=wrong: m.update(calibration_sha256=w)))
        assert code in {"E0506", "E0507"}


def test_oversize_manifest_is_refused_before_it_is_parsed(data):
    assert refused(container([("manifest.json", b"[" * (MAX_MANIFEST_BYTES + 1))])) == "E0510"
    with pytest.raises(BundleError) as caught:
        pack(**small_parts(**{f"extra/{place:070}": b"" for place in range(6000)}))
    assert caught.value.code == "E0510"


def test_member_order_other_than_the_manifest_is_refused(data):
    bundle = Bundle.from_bytes(data)
    names = [member.name for member in bundle.manifest.members]
    rows = [("manifest.json", bundle.manifest.to_bytes()), *((name, bundle.read(name)) for name in reversed(names))]
    assert refused(container(rows)) == "E0505"


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS"),
        (b"\n <!DOCTYPE html><html>Not found</html>", "web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "web page"),
        (b"PK\3\4" + b"\x14\0\0\0\x08\0" + b"\0" * 40, "zip file"),
        (b"ONNX" * 100, "does not start"),
    ],
)
def test_wrong_file_is_named_for_what_it_is(tmp_path, content, hint):
    path = tmp_path / "x.edge"
    path.write_bytes(content)
    with pytest.raises(BundleError) as caught:
        verify(path)
    assert caught.value.code == "E0501"
    assert hint in caught.value.why
    assert caught.value.fix


def test_missing_file_folder_and_fifo_are_refused(tmp_path):
    with pytest.raises(MissingError):
        verify(tmp_path / "absent.edge")
    with pytest.raises(UsageError):
        verify(tmp_path)
    # A device file never ends, and a pipe that nobody writes to would wait for ever.
    os.mkfifo(tmp_path / "fifo")
    for odd in ("/dev/zero", tmp_path / "fifo"):
        with pytest.raises(UsageError):
            verify(odd)


def test_failed_write_leaves_the_old_bundle_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "a.edge"
    write_bundle(path, **small_parts())
    before = path.read_bytes()
    real = os.fsync

    def full(descriptor):
        real(descriptor)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError):
        write_bundle(path, **small_parts(**{"more.txt": b"more"}))
    assert [file.name for file in tmp_path.iterdir()] == ["a.edge"]
    assert path.read_bytes() == before


def test_write_into_a_missing_folder_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError):
        write_bundle(tmp_path / "absent" / "a.edge", **small_parts())


def test_members_are_read_strictly():
    objects = io.BytesIO()
    np.save(objects, np.array([{}], dtype=object), allow_pickle=True)
    hostile = {
        "twice.json": b'{"a":1,"a":2}',
        "nan.json": b"[NaN]",
        "o.npy": objects.getvalue(),
        "cut.npy": b"\x93NUMPY",
    }
    bundle = Bundle.from_bytes(pack(**small_parts(**hostile)))
    for read, name in [(bundle.json, "twice.json"), (bundle.json, "nan.json"), (bundle.read, "absent"),
                       (bundle.npy, "o.npy"), (bundle.npy, "cut.npy")]:  # fmt: skip
        with pytest.raises(BundleError) as caught:
            read(name)
        assert caught.value.code == "E0511"
