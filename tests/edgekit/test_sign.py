"""`edgekit keygen`, `sign` and `verify`: what is written, with which mode, and that no key is ever shown."""

import base64
import hashlib
import json
import os
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from tiny_bundles import write_image_bundle, write_text_bundle

from edgekit.cli import main


@pytest.fixture
def bundle(tmp_path):
    path = tmp_path / "tiny.edge"
    write_text_bundle(path)
    return path


@pytest.fixture
def key(tmp_path, capsys):
    return make(tmp_path / "release.key", capsys)


def make(path, capsys):
    assert main(["keygen", "--out", str(path)]) == 0
    capsys.readouterr()
    return path


def call(*arguments):
    return main([str(part) for part in arguments])


def envelope(bundle):
    return json.loads(bundle.with_name("tiny.edge.sig").read_text())


def payload(bundle):
    return json.loads(base64.b64decode(envelope(bundle)["payload"]))


def identify(key):
    """The id by hand: sha256 of the DER that stands in the PEM."""
    lines = key.with_name(f"{key.name}.pub").read_text().splitlines()
    return hashlib.sha256(base64.b64decode("".join(lines[1:-1]))).hexdigest()


def secrets_of(key):
    """Every spelling under which the private key could leak."""
    seed = load_pem_private_key(key.read_bytes(), None).private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    body = key.read_text().splitlines()[1]
    return [seed, seed.hex().encode(), base64.b64encode(seed)[:40], body.encode(), body[-40:].encode()]


def mode(path):
    return oct(path.stat().st_mode & 0o777)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_private_key_is_for_its_owner_alone(tmp_path, capsys, umask):
    before = os.umask(umask)
    try:
        make(tmp_path / "k", capsys)
    finally:
        os.umask(before)
    assert mode(tmp_path / "k") == "0o600"
    assert mode(tmp_path / "k.pub") == "0o644"
    assert (tmp_path / "k").read_text().startswith("-----BEGIN PRIVATE KEY-----")


def test_two_keys_differ_and_their_id_is_shown(tmp_path, capsys):
    ids = []
    for name in ("a", "b"):
        assert call("keygen", "--out", tmp_path / name, "--json") == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["key"] == identify(tmp_path / name)
        assert answer["public"] == f"{tmp_path / name}.pub"
        ids.append(answer["key"])
    assert ids[0] != ids[1]


@pytest.mark.parametrize("taken", ["k", "k.pub"])
@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_keys_are_never_overwritten(tmp_path, capsys, taken, kind):
    if kind == "file":
        (tmp_path / taken).write_text("precious")
    else:
        (tmp_path / taken).symlink_to(tmp_path / "elsewhere")
    assert call("keygen", "--out", tmp_path / "k") == 2
    assert capsys.readouterr().err.startswith("error[E0109]")
    assert [path.name for path in tmp_path.iterdir()] == [taken]  # no half of a pair, and nothing behind the link
    if kind == "file":
        assert (tmp_path / taken).read_text() == "precious"


def test_keygen_into_a_missing_folder_and_on_a_full_disk_leaves_nothing(tmp_path, capsys, monkeypatch):
    assert call("keygen", "--out", tmp_path / "absent" / "k") == 2
    assert "E0902" in capsys.readouterr().err

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert call("keygen", "--out", tmp_path / "k") == 2
    assert "No space left" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_signing_leaves_the_bundle_and_says_what_it_signed(bundle, key, capsys):
    data = bundle.read_bytes()
    assert call("sign", bundle, "--key", key, "--release-counter", 5) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{bundle}.sig: tiny-text 1.2.3, release counter 5",
        f"signed by {identify(key)}",
    ]
    assert bundle.read_bytes() == data
    assert payload(bundle) == {
        "format": "edgekit-release",
        "schema": 1,
        "name": "tiny-text",
        "version": "1.2.3",
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "release_counter": 5,
    }
    assert envelope(bundle)["payloadType"] == "application/vnd.edgekit.release+json"


def test_verify_takes_what_sign_wrote(bundle, key, capsys):
    assert call("sign", bundle, "--key", key) == 0
    capsys.readouterr()
    assert call("verify", bundle, "--key", f"{key}.pub") == 0
    assert capsys.readouterr().out.splitlines()[1] == f"signed by {identify(key)}, release counter 0"
    assert call("verify", bundle, "--key", f"{key}.pub", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["intact"], answer["signed_by"], answer["release_counter"]) == (True, identify(key), 0)


def test_verify_without_a_key_says_that_it_did_not_look_at_the_signature(bundle, key, capsys):
    assert call("sign", bundle, "--key", key) == 0
    capsys.readouterr()
    assert call("verify", bundle) == 0
    assert capsys.readouterr().out.splitlines()[1] == "its signature was not checked: give --key"
    assert call("verify", bundle, "--json") == 0
    assert json.loads(capsys.readouterr().out)["signed_by"] is None


def test_wrong_signatures_are_exit_5_and_say_nothing_good(bundle, key, tmp_path, capsys):
    other = make(tmp_path / "other.key", capsys)
    codes = []
    for sign_with, counter in ((None, 0), (other, 0), (key, 2), (key, 3)):
        if sign_with:
            assert call("sign", bundle, "--key", sign_with, "--release-counter", counter, "--replace") == 0
            capsys.readouterr()
        codes.append(call("verify", bundle, "--key", f"{key}.pub", "--min-release-counter", 3))
        captured = capsys.readouterr()
        codes.append(captured.err[6:11])
        assert (captured.out == "") == (codes[-2] != 0)
    assert codes == [5, "E0520", 5, "E0523", 5, "E0526", 0, ""]
    write_image_bundle(bundle)
    assert call("verify", bundle, "--key", f"{key}.pub") == 5
    assert capsys.readouterr().err.startswith("error[E0525]")


def test_the_same_signature_comes_out_twice(bundle, key, capsys):
    sig = bundle.with_name("tiny.edge.sig")
    assert call("sign", bundle, "--key", key) == 0
    first = sig.read_bytes()
    assert call("sign", bundle, "--key", key) == 0
    assert sig.read_bytes() == first
    sig.unlink()
    assert call("sign", bundle, "--key", key) == 0
    assert sig.read_bytes() == first


def test_second_signer_keeps_the_first(bundle, key, tmp_path, capsys):
    other = make(tmp_path / "other.key", capsys)
    for each in (key, other, key):
        assert call("sign", bundle, "--key", each, "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["signatures"] == 2
    assert {row["keyid"] for row in envelope(bundle)["signatures"]} == {identify(key), identify(other)}
    for each in (key, other):
        assert call("verify", bundle, "--key", f"{each}.pub") == 0


def test_signature_that_says_something_else_is_replaced_only_on_request(bundle, key, capsys):
    assert call("sign", bundle, "--key", key, "--release-counter", 5) == 0
    before = envelope(bundle)
    assert call("sign", bundle, "--key", key, "--release-counter", 4) == 2
    assert "error[E0109]" in capsys.readouterr().err
    assert envelope(bundle) == before
    write_image_bundle(bundle)
    assert call("sign", bundle, "--key", key, "--release-counter", 5) == 2
    bundle.with_name("tiny.edge.sig").write_text("damaged")
    assert call("sign", bundle, "--key", key) == 5
    assert call("sign", bundle, "--key", key, "--release-counter", 6, "--replace") == 0
    assert payload(bundle)["release_counter"] == 6
    assert payload(bundle)["name"] == "tiny-image"
    assert len(envelope(bundle)["signatures"]) == 1


def test_damaged_bundle_is_not_signed(bundle, key, capsys):
    data = bytearray(bundle.read_bytes())
    data[-1] ^= 1
    bundle.write_bytes(data)
    assert call("sign", bundle, "--key", key) == 5
    assert not bundle.with_name("tiny.edge.sig").exists()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o601, 0o644])
def test_key_that_others_can_touch_is_not_used(bundle, key, capsys, bits):
    key.chmod(bits)
    assert call("sign", bundle, "--key", key) == 2
    captured = capsys.readouterr().err
    assert "error[E0108]" in captured
    assert "chmod 600" in captured
    key.chmod(0o400)
    assert call("sign", bundle, "--key", key) == 0


def hostile_keys(key):
    private = load_pem_private_key(key.read_bytes(), None)
    body = key.read_text().splitlines()[1]
    return {
        "it is a public key": key.with_name(f"{key.name}.pub").read_bytes(),
        "locked with a password": private.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word")
        ),
        "no PEM of such a key": ec.generate_private_key(ec.SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        ),
        "no PEM": key.read_bytes()[:-30],
        "it is no PEM": f"-----BEGIN PRIVATE KEY-----\n{body[:-8]}\n-----END PRIVATE KEY-----\n".encode(),
    }


def test_wrong_private_keys_are_refused_by_their_reason_and_never_shown(bundle, key, tmp_path, capsys):
    for number, (reason, data) in enumerate(hostile_keys(key).items()):
        path = tmp_path / f"k{number}"
        path.write_bytes(data)
        path.chmod(0o600)
        for debug in ([], ["--debug"]):
            assert call(*debug, "sign", bundle, "--key", path) == 2
            text = capsys.readouterr().err
            assert "error[E0108]" in text
            assert reason in text
            assert not any(secret in text.encode() for secret in secrets_of(key))
    assert call("sign", bundle, "--key", tmp_path / "absent") == 6
    assert "error[E0691]" in capsys.readouterr().err
    assert call("sign", bundle, "--key", tmp_path) == 2
    assert not bundle.with_name("tiny.edge.sig").exists()


def test_no_output_holds_a_byte_of_the_private_key(bundle, tmp_path, capsys):
    key, texts = tmp_path / "k", []
    for arguments in (
        ["keygen", "--out", key],
        ["keygen", "--out", tmp_path / "j", "--json"],
        ["--debug", "keygen", "--out", key],
        ["sign", bundle, "--key", key, "--json"],
        ["--debug", "sign", bundle, "--key", key, "--release-counter", 9],
        ["verify", bundle, "--key", f"{key}.pub"],
        ["--debug", "verify", bundle, "--key", key],
        ["inspect", bundle],
    ):
        call(*arguments)
        captured = capsys.readouterr()
        texts += [captured.out.encode(), captured.err.encode()]
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.name not in {"k", "j"})
    everything = b"".join(texts) + written
    assert b"E0109" in everything  # the refusals are among them
    assert b"E0108" in everything
    for name in ("k", "j"):
        assert not any(secret in everything for secret in secrets_of(tmp_path / name))
    assert any(secret in key.read_bytes() for secret in secrets_of(key))  # the search would find it


@pytest.mark.parametrize("counter", ["-1", str(2**53 + 1), "1.5", "x"])
def test_counter_out_of_range_is_a_usage_error(bundle, key, capsys, counter):
    assert call("sign", bundle, "--key", key, "--release-counter", counter) == 2
    assert not bundle.with_name("tiny.edge.sig").exists()


def test_largest_counter_is_signed_and_read(bundle, key, capsys):
    assert call("sign", bundle, "--key", key, "--release-counter", 2**53) == 0
    assert call("verify", bundle, "--key", f"{key}.pub", "--min-release-counter", 2**53) == 0


def test_without_the_package_one_error_with_the_command(bundle):
    code = "import sys; sys.modules['cryptography'] = None\nfrom edgekit.cli import main; sys.exit(main(sys.argv[1:]))"
    for arguments in (["keygen", "--out", "k"], ["sign", bundle, "--key", "k"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 6
        assert "pip install 'edgekit[sign]'" in done.stderr
        assert "Traceback" not in done.stderr
