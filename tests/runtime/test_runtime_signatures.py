"""Signatures are checked as DSSE says, before anything parses the bundle; envelopes here are made by hand."""

import base64
import dataclasses
import hashlib
import json

import numpy as np
import pytest
from signed_bundles import ORDER, OTHER, OURS, RFC_PEM, TYPE, b64, dsse, identify, signed_by, statement

import edgekit_runtime
from edgekit_runtime import signature
from edgekit_runtime.bundle import Bundle, write_bundle
from edgekit_runtime.errors import BundleError, MissingError, UsageError
from edgekit_runtime.signature import Release, check, key_id, pae, read_envelope, read_public_key


def test_encoding_is_that_of_the_specification():
    # DSSE 1.0.0, protocol.md, "Test Vectors"
    wanted = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pae("http://example.com/HelloWorld", b"hello world") == wanted


def test_lengths_are_of_bytes():
    assert pae("é", "日".encode()) == b"DSSEv1 2 \xc3\xa9 3 \xe6\x97\xa5"
    assert pae("", b"") == b"DSSEv1 0  0 "


def test_signature_of_another_implementation_is_true(tmp_path):
    # Made by the Ed25519 in pure Python of securesystemslib 1.6.0 with the key of RFC 8032, TEST 1.
    other = (
        "636b8711c64bce6a7d7957a58517c1006d465a1223ce2d9eaeb0fe2dd704a93a"
        "10ccac0481a74a9929f658ab12bea13843060e2a5978825c06a9cab8ffb7170c"
    )
    payload = (
        b'{"format":"edgekit-release","name":"tiny","release_counter":7,"schema":1,"sha256":"'
        b'1e6ed65d77d6364eeaed5a745ba5c4985ae2b700dd85d7cf7f027bdf294a33fc","size":6,"version":"1.2.3"}'
    )
    digest = hashlib.sha256(b"bundle").hexdigest()
    release = Release(name="tiny", version="1.2.3", sha256=digest, size=6, release_counter=7)
    assert release.to_bytes() == payload
    (tmp_path / "k.pub").write_bytes(RFC_PEM)
    key = read_public_key(tmp_path / "k.pub")
    assert (
        key_id(key) == "06e3fd8fda29bb60ab59557de61edb0aecdb231134be30e75b455f8e1b792fa9"
    )  # sha256sum of openssl's DER
    envelope = {"payload": b64(payload), "payloadType": TYPE, "signatures": [{"sig": b64(bytes.fromhex(other))}]}
    parsed = read_envelope(json.dumps(envelope).encode(), "x")
    assert signature._signer(parsed, [key], "x") == key_id(key)
    assert signature.read_release(parsed, "x") == release


def test_signed_bundle_is_opened_and_says_by_whom_and_which_release(signed):
    checked = signed.check()
    assert checked.key == identify(OURS)
    assert dataclasses.asdict(checked.release) == {
        "name": "tiny-image",
        "version": "1.0.0",
        "sha256": hashlib.sha256(signed.data).hexdigest(),
        "size": len(signed.data),
        "release_counter": 7,
    }
    assert checked.bundle.digest == checked.release.sha256
    with edgekit_runtime.load(signed.bundle, key=signed.key) as model:
        assert model(np.zeros((8, 8), np.uint8)).label in model.labels


def test_without_a_key_a_signature_is_no_obstacle_and_proves_nothing(signed):
    signed.write(b"no envelope")
    assert check(signed.bundle, None)[1:] == (None, None)


def test_unsigned_bundle_is_refused_where_a_key_is_given(signed):
    signed.sig.unlink()
    assert f"{signed.bundle} is not signed: there is no {signed.sig}" in signed.refused("E0520")


def test_wrong_key_is_refused_and_both_ids_are_told(signed):
    text = signed.refused("E0523", signed.public(OTHER))
    assert identify(OURS) in text
    assert identify(OTHER) in text


def changed(text, place):
    data = bytearray(base64.b64decode(text))
    data[place] ^= 1
    return b64(data)


def test_changed_payload_and_changed_signature_are_refused(signed):
    wanted = b64(statement(signed.data, release_counter=8))
    row = signed.envelope["signatures"][0]
    for envelope in (
        {**signed.envelope, "payload": wanted},
        {**signed.envelope, "payloadType": "application/json"},
        {**signed.envelope, "signatures": [{**row, "sig": changed(row["sig"], 0)}]},
        {**signed.envelope, "signatures": [{**row, "sig": changed(row["sig"], 40)}]},
    ):
        signed.write(envelope)
        assert "was changed" in signed.refused("E0524")


def test_signature_of_the_payload_alone_is_refused(signed):
    payload = statement(signed.data)
    signed.write({**signed.envelope, "signatures": [signed_by(OURS, payload)]})
    signed.refused("E0524")


def test_second_form_of_the_same_signature_is_refused(signed):
    # RFC 8032, 5.1.7: S must be below L; S + L satisfies the same equation.
    raw = base64.b64decode(signed.envelope["signatures"][0]["sig"])
    twin = raw[:32] + (int.from_bytes(raw[32:], "little") + ORDER).to_bytes(32, "little")
    signed.write({**signed.envelope, "signatures": [{"keyid": identify(OURS), "sig": b64(twin)}]})
    signed.refused("E0524")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: data[:-100], "bytes and"),
        (lambda data: data + b"\0", "bytes and"),
        (lambda data: b"", "bytes and"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "sha256 differs"),
        (lambda data: data[:4000] + bytes([data[4000] ^ 1]) + data[4001:], "sha256 differs"),
    ],
    ids=["cut off", "one byte more", "empty", "last byte", "a byte inside"],
)
def test_changed_bundle_is_refused(signed, change, why):
    signed.bundle.write_bytes(change(signed.data))
    text = signed.refused("E0525")
    assert f"{signed.bundle} is not the tiny-image 1.0.0 that was signed" in text
    assert why in text


def test_bundle_that_was_packed_anew_is_refused(signed, image_parts):
    members = {**image_parts["members"], "labels.json": b'["b","a","c"]'}
    write_bundle(signed.bundle, **{**image_parts, "members": members})
    assert check(signed.bundle, None).bundle.manifest.name == "tiny-image"  # intact, and yet not what was signed
    signed.refused("E0525")


def test_statement_whose_size_and_digest_are_not_of_one_file_is_refused(signed):
    signed.write(dsse(statement(signed.data, size=len(signed.data) + 1), OURS))
    signed.refused("E0525")


def test_bundle_that_is_swapped_during_the_check_is_not_what_is_opened(signed, image_parts, monkeypatch):
    other = signed.folder / "b.edge"
    write_bundle(other, **{**image_parts, "members": {**image_parts["members"], "labels.json": b'["b","a","c"]'}})
    real = signature.read_release

    def swap(*arguments):
        other.replace(signed.bundle)
        return real(*arguments)

    monkeypatch.setattr(signature, "read_release", swap)
    checked = signed.check()
    assert signed.bundle.read_bytes() != signed.data
    assert checked.bundle.digest == checked.release.sha256
    assert checked.bundle.read("labels.json") == image_parts["members"]["labels.json"]


def test_signature_of_another_bundle_is_refused(signed, text_path):
    signed.write(dsse(statement(text_path.read_bytes(), name="tiny-text"), OURS))
    assert "is not the tiny-text 1.0.0 that was signed" in signed.refused("E0525")


def test_release_that_was_signed_under_another_name_or_version_is_refused(signed):
    for changes in ({"name": "tiny-text"}, {"version": "1.0.1"}):
        signed.write(dsse(statement(signed.data, **changes), OURS))
        assert "is tiny-image 1.0.0; it was signed as" in signed.refused("E0528")


def test_counter_may_rise_and_stay_but_not_fall(signed):
    for wanted in (0, 6, 7):
        assert signed.check(min_release_counter=wanted).release.release_counter == 7
    assert "the release counter 7, not 8 or more" in signed.refused("E0526", min_release_counter=8)
    with pytest.raises(BundleError, match="E0526"):
        edgekit_runtime.load(signed.bundle, key=signed.key, min_release_counter=8)


def test_counter_without_a_key_is_a_usage_error(signed):
    for keys in (None, [], ()):
        with pytest.raises(UsageError, match="E0107"):
            check(signed.bundle, keys, min_release_counter=1)
    with pytest.raises(UsageError, match="E0107"):
        edgekit_runtime.load(signed.bundle, min_release_counter=1)


def test_empty_list_of_keys_is_not_taken_for_none(signed):
    with pytest.raises(UsageError, match="E0107"):
        check(signed.bundle, [])
    with pytest.raises(MissingError, match="E0691"):
        edgekit_runtime.load(signed.bundle, key="")


def test_true_signature_of_another_kind_of_document_is_refused(signed):
    for kind in ("application/vnd.in-toto+json", "", TYPE + "2"):
        signed.write(dsse(statement(signed.data), OURS, kind=kind))
        assert repr(kind) in signed.refused("E0522")


def test_true_signature_over_a_wrong_statement_is_refused(signed):
    good = statement(signed.data)
    counters = [
        good.replace(b":7,", f":{text},".encode()) for text in ("-1", "7.0", "true", "null", str(2**53 + 1), '"7"')
    ]
    for payload in (
        b"",
        b"[]",
        b"\xff",
        good[:-1],
        good + b"\n",
        good.replace(b",", b", ", 1),
        good.replace(b'"name"', b'"version":"1.0.0","name"'),
        good.replace(b'"schema":1', b'"schema":2'),
        good.replace(b"edgekit-release", b"edgekit-bundle"),
        statement(signed.data, extra=1),
        statement(signed.data, name=1),
        json.dumps(json.loads(good), separators=(",", ":"), sort_keys=False).encode()[::-1],
        *counters,
    ):
        assert payload != good
        signed.write(dsse(payload, OURS))
        signed.refused("E0527")


def test_one_of_several_signatures_by_one_of_several_keys_is_enough(signed):
    payload, false = statement(signed.data), {"keyid": identify(OURS), "sig": b64(bytes(64))}
    both = dsse(payload, OTHER, OURS)
    other = signed.public(OTHER)
    signed.write(both)
    assert signed.check().key == identify(OURS)
    assert signed.check(other).key == identify(OTHER)
    signed.write({**both, "signatures": [false, *both["signatures"]]})
    assert signed.check().key == identify(OURS)
    signed.write(dsse(payload, OURS))
    assert signed.check(other, signed.key).key == identify(OURS)


def test_key_ids_are_no_more_than_hints(signed):
    row = signed.envelope["signatures"][0]
    for hint in ({"sig": row["sig"]}, {**row, "keyid": ""}, {**row, "keyid": identify(OTHER)}):
        signed.write({**signed.envelope, "signatures": [hint]})
        assert signed.check().key == identify(OURS)
        signed.refused("E0524" if hint.get("keyid") == identify(OTHER) else "E0523", signed.public(OTHER))


def test_both_alphabets_of_base64_are_read(signed):
    # A counter until the signature has a character in which the alphabets differ.
    for counter in range(50):
        envelope = dsse(statement(signed.data, release_counter=counter), OURS)
        if set("+/") & set(envelope["signatures"][0]["sig"]):
            break
    table = str.maketrans("+/", "-_")
    row = envelope["signatures"][0]
    envelope["signatures"] = [{**row, "sig": row["sig"].translate(table)}]
    assert set("-_") & set(envelope["signatures"][0]["sig"])
    signed.write(envelope)
    assert signed.check().release.release_counter == counter


def test_refused_bundle_is_neither_parsed_nor_given_to_an_engine(signed, monkeypatch):
    seen = []
    monkeypatch.setattr(Bundle, "from_bytes", lambda *_, **__: seen.append("parser"))
    monkeypatch.setattr("edgekit_runtime.model.open_engine", lambda *_, **__: seen.append("engine"))
    other = signed.public(OTHER)
    with pytest.raises(BundleError):
        edgekit_runtime.load(signed.bundle, key=other)
    signed.bundle.write_bytes(signed.data[:-1] + b"\0\0")
    with pytest.raises(BundleError):
        edgekit_runtime.load(signed.bundle, key=signed.key)
    signed.sig.unlink()
    with pytest.raises(BundleError):
        edgekit_runtime.load(signed.bundle, key=signed.key)
    assert seen == []
    with pytest.raises(AttributeError):  # without a key it would have been parsed
        edgekit_runtime.load(signed.bundle)
    assert seen == ["parser"]
