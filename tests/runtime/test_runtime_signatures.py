"""Signatures are checked as DSSE says, before anything parses the bundle; envelopes here are made by hand."""

import base64
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

import edgekit_runtime
from edgekit_runtime import signature
from edgekit_runtime.__main__ import main
from edgekit_runtime.bundle import Bundle, write_bundle
from edgekit_runtime.errors import BundleError, EdgekitError, MissingError, UsageError
from edgekit_runtime.signature import Release, check, key_id, pae, read_envelope, read_public_key

TYPE = "application/vnd.edgekit.release+json"
# RFC 8032, 7.1, TEST 1
RFC_SECRET = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
RFC_LINE = b"MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
RFC_PEM = b"-----BEGIN PUBLIC KEY-----\n%b\n-----END PUBLIC KEY-----\n" % RFC_LINE
OURS, OTHER = Ed25519PrivateKey.from_private_bytes(RFC_SECRET), Ed25519PrivateKey.from_private_bytes(b"o" * 32)
ORDER = 2**252 + 27742317777372353535851937790883648493  # of the group: RFC 8032, 5.1, L


def identify(private):
    der = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def b64(data):
    return base64.b64encode(data).decode()


def signed_by(private, message):
    return {"keyid": identify(private), "sig": b64(private.sign(message))}


def dsse(payload, *privates, kind=TYPE):
    message = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    rows = [signed_by(private, message) for private in privates]
    return {"payload": b64(payload), "payloadType": kind, "signatures": rows}


def statement(bundle, **changes):
    fields = {"format": "edgekit-release", "schema": 1, "name": "tiny-image", "version": "1.0.0"}
    fields |= {"sha256": hashlib.sha256(bundle).hexdigest(), "size": len(bundle), "release_counter": 7, **changes}
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


@pytest.fixture
def here(tmp_path, image_path):
    """A folder with a signed bundle, and functions to change its parts."""
    return Here(tmp_path, image_path)


class Here:
    def __init__(self, folder, source):
        self.folder, self.bundle, self.key = folder, folder / "a.edge", folder / "ours.pub"
        self.sig = folder / "a.edge.sig"
        shutil.copy(source, self.bundle)
        self.data = self.bundle.read_bytes()
        self.key.write_bytes(RFC_PEM)
        self.envelope = dsse(statement(self.data), OURS)
        self.write(self.envelope)

    def write(self, envelope):
        self.sig.write_bytes(envelope if isinstance(envelope, bytes) else json.dumps(envelope).encode())

    def public(self, private, name="other.pub"):
        path = self.folder / name
        path.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        return path

    def check(self, *keys, **options):
        return check(self.bundle, keys or [self.key], **options)

    def refused(self, code, *keys, kind=BundleError, **options):
        with pytest.raises(kind) as caught:
            self.check(*keys, **options)
        assert caught.value.code == code, caught.value
        return str(caught.value)


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


def test_signed_bundle_is_opened_and_says_by_whom_and_which_release(here):
    checked = here.check()
    assert checked.key == identify(OURS)
    assert dataclasses.asdict(checked.release) == {
        "name": "tiny-image",
        "version": "1.0.0",
        "sha256": hashlib.sha256(here.data).hexdigest(),
        "size": len(here.data),
        "release_counter": 7,
    }
    assert checked.bundle.digest == checked.release.sha256
    with edgekit_runtime.load(here.bundle, key=here.key) as model:
        assert model(np.zeros((8, 8), np.uint8)).label in model.labels


def test_without_a_key_a_signature_is_no_obstacle_and_proves_nothing(here):
    here.write(b"no envelope")
    assert check(here.bundle, None)[1:] == (None, None)


def test_unsigned_bundle_is_refused_where_a_key_is_given(here):
    here.sig.unlink()
    assert f"{here.bundle} is not signed: there is no {here.sig}" in here.refused("E0520")


def test_wrong_key_is_refused_and_both_ids_are_told(here):
    text = here.refused("E0523", here.public(OTHER))
    assert identify(OURS) in text
    assert identify(OTHER) in text


def changed(text, place):
    data = bytearray(base64.b64decode(text))
    data[place] ^= 1
    return b64(data)


def test_changed_payload_and_changed_signature_are_refused(here):
    wanted = b64(statement(here.data, release_counter=8))
    row = here.envelope["signatures"][0]
    for envelope in (
        {**here.envelope, "payload": wanted},
        {**here.envelope, "payloadType": "application/json"},
        {**here.envelope, "signatures": [{**row, "sig": changed(row["sig"], 0)}]},
        {**here.envelope, "signatures": [{**row, "sig": changed(row["sig"], 40)}]},
    ):
        here.write(envelope)
        assert "was changed" in here.refused("E0524")


def test_signature_of_the_payload_alone_is_refused(here):
    payload = statement(here.data)
    here.write({**here.envelope, "signatures": [signed_by(OURS, payload)]})
    here.refused("E0524")


def test_second_form_of_the_same_signature_is_refused(here):
    # RFC 8032, 5.1.7: S must be below L; S + L satisfies the same equation.
    raw = base64.b64decode(here.envelope["signatures"][0]["sig"])
    twin = raw[:32] + (int.from_bytes(raw[32:], "little") + ORDER).to_bytes(32, "little")
    here.write({**here.envelope, "signatures": [{"keyid": identify(OURS), "sig": b64(twin)}]})
    here.refused("E0524")


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
def test_changed_bundle_is_refused(here, change, why):
    here.bundle.write_bytes(change(here.data))
    text = here.refused("E0525")
    assert f"{here.bundle} is not the tiny-image 1.0.0 that was signed" in text
    assert why in text


def test_bundle_that_was_packed_anew_is_refused(here, image_parts):
    members = {**image_parts["members"], "labels.json": b'["b","a","c"]'}
    write_bundle(here.bundle, **{**image_parts, "members": members})
    assert check(here.bundle, None).bundle.manifest.name == "tiny-image"  # intact, and yet not what was signed
    here.refused("E0525")


def test_signature_of_another_bundle_is_refused(here, text_path):
    here.write(dsse(statement(text_path.read_bytes(), name="tiny-text"), OURS))
    assert "is not the tiny-text 1.0.0 that was signed" in here.refused("E0525")


def test_release_that_was_signed_under_another_name_or_version_is_refused(here):
    for changes in ({"name": "tiny-text"}, {"version": "1.0.1"}):
        here.write(dsse(statement(here.data, **changes), OURS))
        assert "is tiny-image 1.0.0; it was signed as" in here.refused("E0528")


def test_counter_may_rise_and_stay_but_not_fall(here):
    for wanted in (0, 6, 7):
        assert here.check(min_release_counter=wanted).release.release_counter == 7
    assert "the release counter 7, not 8 or more" in here.refused("E0526", min_release_counter=8)
    with pytest.raises(BundleError, match="E0526"):
        edgekit_runtime.load(here.bundle, key=here.key, min_release_counter=8)


def test_counter_without_a_key_is_a_usage_error(here):
    for keys in (None, [], ()):
        with pytest.raises(UsageError, match="E0107"):
            check(here.bundle, keys, min_release_counter=1)
    with pytest.raises(UsageError, match="E0107"):
        edgekit_runtime.load(here.bundle, min_release_counter=1)


def test_empty_list_of_keys_is_not_taken_for_none(here):
    with pytest.raises(UsageError, match="E0107"):
        check(here.bundle, [])
    with pytest.raises(MissingError, match="E0691"):
        edgekit_runtime.load(here.bundle, key="")


def test_true_signature_of_another_kind_of_document_is_refused(here):
    for kind in ("application/vnd.in-toto+json", "", TYPE + "2"):
        here.write(dsse(statement(here.data), OURS, kind=kind))
        assert repr(kind) in here.refused("E0522")


def test_true_signature_over_a_wrong_statement_is_refused(here):
    good = statement(here.data)
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
        statement(here.data, extra=1),
        statement(here.data, name=1),
        json.dumps(json.loads(good), separators=(",", ":"), sort_keys=False).encode()[::-1],
        *counters,
    ):
        assert payload != good
        here.write(dsse(payload, OURS))
        here.refused("E0527")


def test_malformed_envelope_is_refused(here):
    good, row = here.envelope, here.envelope["signatures"][0]
    text = json.dumps(good).encode()
    raw = base64.b64decode(row["sig"])
    rows = [
        [],
        [row] * 17,
        [{**row, "sig": b64(raw[:63])}],
        [{**row, "sig": b64(raw + b"\0")}],
        [{**row, "sig": ""}],
        [{**row, "sig": row["sig"][:-1]}],
        [{**row, "sig": "*" + row["sig"]}],
        [{**row, "keyid": 1}],
        [{**row, "cert": "x"}],
        [{"keyid": row["keyid"]}],
        [[["sig", row["sig"]]]],
        [row["sig"]],
        [row, None],
    ]
    for envelope in (
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        text[:-1],
        text + b"x",
        b"[" * 60_000,
        text.replace(b'"payload":', b'"payload": "", "payload":'),
        text.replace(b'"keyid":', b'"keyid": "", "keyid":'),
        text + b" " * (1 << 16),
        {**good, "payload": "&"},
        {**good, "payload": "é" + good["payload"]},
        {**good, "payload": None},
        {**good, "payloadType": "\ud800"},
        {**good, "payloadType": 1},
        {**good, "more": 1},
        {key: good[key] for key in ("payload", "payloadType")},
        {**good, "signatures": row},
        {**good, "signatures": float("nan")},
        *({**good, "signatures": each} for each in rows),
    ):
        here.write(envelope)
        assert str(here.sig) in here.refused("E0521")


def test_no_changed_byte_of_a_signature_file_changes_what_it_says(here):
    wanted, data, refused = here.check().release, bytearray(here.sig.read_bytes()), 0
    for place in range(len(data)):
        for mask in (0x01, 0x20, 0x80):
            data[place] ^= mask
            here.sig.write_bytes(data)
            data[place] ^= mask
            try:
                assert here.check()[1:] == (wanted, identify(OURS))
            except BundleError:
                refused += 1
    assert refused > 2.5 * len(data)  # the key id alone is a hint, about 70 bytes of 600


def test_cut_signature_file_is_refused_at_every_length(here):
    data = here.sig.read_bytes()
    for length in range(len(data)):
        here.sig.write_bytes(data[:length])
        here.refused("E0521")


def test_one_of_several_signatures_by_one_of_several_keys_is_enough(here):
    payload, false = statement(here.data), {"keyid": identify(OURS), "sig": b64(bytes(64))}
    both = dsse(payload, OTHER, OURS)
    other = here.public(OTHER)
    here.write(both)
    assert here.check().key == identify(OURS)
    assert here.check(other).key == identify(OTHER)
    here.write({**both, "signatures": [false, *both["signatures"]]})
    assert here.check().key == identify(OURS)
    here.write(dsse(payload, OURS))
    assert here.check(other, here.key).key == identify(OURS)


def test_key_ids_are_no_more_than_hints(here):
    row = here.envelope["signatures"][0]
    for hint in ({"sig": row["sig"]}, {**row, "keyid": ""}, {**row, "keyid": identify(OTHER)}):
        here.write({**here.envelope, "signatures": [hint]})
        assert here.check().key == identify(OURS)
        here.refused("E0524" if hint.get("keyid") == identify(OTHER) else "E0523", here.public(OTHER))


def test_both_alphabets_of_base64_are_read(here):
    # A counter until the signature has a character in which the alphabets differ.
    for counter in range(50):
        envelope = dsse(statement(here.data, release_counter=counter), OURS)
        if set("+/") & set(envelope["signatures"][0]["sig"]):
            break
    table = str.maketrans("+/", "-_")
    row = envelope["signatures"][0]
    envelope["signatures"] = [{**row, "sig": row["sig"].translate(table)}]
    assert set("-_") & set(envelope["signatures"][0]["sig"])
    here.write(envelope)
    assert here.check().release.release_counter == counter


def test_hostile_key_id_cannot_write_to_the_terminal(here):
    here.write({**here.envelope, "signatures": [{"keyid": "\x1b[2J\n\ud800" * 50, "sig": b64(bytes(64))}]})
    text = here.refused("E0523")
    assert "\x1b" not in text
    assert text.isascii()
    assert len(text) < 1000


def test_refused_bundle_is_neither_parsed_nor_given_to_an_engine(here, monkeypatch):
    seen = []
    monkeypatch.setattr(Bundle, "from_bytes", lambda *_, **__: seen.append("parser"))
    monkeypatch.setattr("edgekit_runtime.model.open_engine", lambda *_, **__: seen.append("engine"))
    other = here.public(OTHER)
    with pytest.raises(BundleError):
        edgekit_runtime.load(here.bundle, key=other)
    here.bundle.write_bytes(here.data[:-1] + b"\0\0")
    with pytest.raises(BundleError):
        edgekit_runtime.load(here.bundle, key=here.key)
    here.sig.unlink()
    with pytest.raises(BundleError):
        edgekit_runtime.load(here.bundle, key=here.key)
    assert seen == []
    with pytest.raises(AttributeError):  # without a key it would have been parsed
        edgekit_runtime.load(here.bundle)
    assert seen == ["parser"]


def key_files():
    pem, spki = Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    private = OURS.private_bytes(pem, PrivateFormat.PKCS8, NoEncryption())
    return {
        "private": private,
        "P-256": ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(pem, spki),
        "X25519": x25519.X25519PrivateKey.generate().public_key().public_bytes(pem, spki),
        "raw": OURS.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw),
        "unknown algorithm": RFC_PEM.replace(b"MCowBQYDK2Vw", b"MCowBQYDK2V9"),
        "short": RFC_PEM.replace(b"MCow", b"MCkw").replace(b"Ro=", b"Q=="),
        "empty": b"",
        "cut off": RFC_PEM[:60],
    }


@pytest.mark.parametrize("kind", key_files())
def test_file_that_is_no_public_key_of_ed25519_is_refused(here, kind):
    data = key_files()[kind]
    path = here.folder / "k.pub"
    path.write_bytes(data)
    text = here.refused("E0108", path, kind=UsageError)
    assert ("it is a private key" in text) == (kind == "private")
    assert b64(RFC_SECRET)[:20] not in text
    assert "\n".join(data.decode("latin-1").splitlines()[1:2])[:20] not in text or kind in {"raw", "empty"}


def test_missing_and_odd_files_are_refused_without_waiting(here):
    os.mkfifo(here.folder / "fifo")
    here.refused("E0691", here.folder / "absent.pub", kind=MissingError)
    here.refused("E0901", here.folder, kind=UsageError)
    here.refused("E0901", here.folder / "fifo", kind=UsageError)
    here.sig.unlink()
    here.sig.mkdir()
    here.refused("E0901", kind=UsageError)
    here.sig.rmdir()
    os.mkfifo(here.sig)
    here.refused("E0901", kind=UsageError)
    here.bundle.unlink()
    here.refused("E0650", kind=MissingError)


def test_missing_package_is_named_and_only_signatures_need_it(here):
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from edgekit_runtime.__main__ import main\n"
        "assert main(['verify', sys.argv[1]]) == 0\n"
        "sys.exit(main(['verify', sys.argv[1], '--key', sys.argv[2]]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, here.bundle, here.key], capture_output=True, text=True, check=False
    )
    assert done.returncode == 6
    assert done.stderr.startswith("error[E0690]: signatures need the package 'cryptography'")
    assert "pip install cryptography" in done.stderr
    assert done.stdout.count("\n") == 1


def test_importing_the_runtime_does_not_load_the_package():
    code = "import sys, edgekit_runtime; edgekit_runtime.load; print('cryptography' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def test_every_command_of_the_device_takes_a_key(here, capsys):
    np.save(here.folder / "x.npy", np.zeros((8, 8), np.uint8))
    other = here.public(OTHER)
    commands = [
        ["verify"],
        ["run"],
        ["selftest"],
        ["selftest", "--evidence", here.folder / "e.json"],
        ["bench", "--runs", 2],
    ]
    for command, *rest in commands:
        inputs = [here.folder / "x.npy"] if command == "run" else []
        call = [str(part) for part in (command, here.bundle, *inputs, *rest, "--key")]
        assert main([*call, str(here.key)]) == 0
        assert main([*call, str(other), "--key", str(here.key), "--min-release-counter", "7"]) == 0
        capsys.readouterr()
        assert main([*call, str(other)]) == 5
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error[E0523]")
        assert main([*call, ""]) == 6


def test_device_says_who_signed(here, capsys):
    arguments = ["verify", str(here.bundle), "--key", str(here.key)]
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[1] == f"signed by {identify(OURS)}, release counter 7"
    assert main([*arguments, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["signed_by"], answer["release_counter"]) == (identify(OURS), 7)
    assert main(["verify", str(here.bundle), "--json"]) == 0
    assert "signed_by" not in json.loads(capsys.readouterr().out)
    assert main([*arguments, "--min-release-counter", "8", "--json"]) == 5
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "E0526"
    assert main(["verify", str(here.bundle), "--min-release-counter", "1"]) == 2


def test_errors_are_of_the_one_tree(here):
    here.sig.unlink()
    with pytest.raises(EdgekitError) as caught:
        here.check()
    assert caught.value.exit_code == 5
    assert caught.value.fix
