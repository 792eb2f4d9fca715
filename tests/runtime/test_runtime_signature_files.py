"""Signature and key files that are not what they should be are refused, by the library and by the commands."""

import base64
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from signed_bundles import OTHER, OURS, RFC_PEM, RFC_SECRET, b64, identify

from edgekit_runtime.__main__ import main
from edgekit_runtime.errors import BundleError, EdgekitError, MissingError, UsageError


def test_malformed_envelope_is_refused(signed):
    good, row = signed.envelope, signed.envelope["signatures"][0]
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
        signed.write(envelope)
        assert str(signed.sig) in signed.refused("E0521")


def test_no_changed_byte_of_a_signature_file_changes_what_it_says(signed):
    wanted, data, refused = signed.check().release, bytearray(signed.sig.read_bytes()), 0
    for place in range(len(data)):
        for mask in (0x01, 0x20, 0x80):
            data[place] ^= mask
            signed.sig.write_bytes(data)
            data[place] ^= mask
            try:
                assert signed.check()[1:] == (wanted, identify(OURS))
            except BundleError:
                refused += 1
    assert refused > 2.5 * len(data)  # the key id alone is a hint, about 70 bytes of 600


def test_cut_signature_file_is_refused_at_every_length(signed):
    data = signed.sig.read_bytes()
    for length in range(len(data)):
        signed.sig.write_bytes(data[:length])
        signed.refused("E0521")


def test_hostile_key_id_cannot_write_to_the_terminal(signed):
    signed.write({**signed.envelope, "signatures": [{"keyid": "\x1b[2J\n\ud800" * 50, "sig": b64(bytes(64))}]})
    text = signed.refused("E0523")
    assert "\x1b" not in text
    assert text.isascii()
    assert len(text) < 1000


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
def test_file_that_is_no_public_key_of_ed25519_is_refused(signed, kind):
    data = key_files()[kind]
    path = signed.folder / "k.pub"
    path.write_bytes(data)
    text = signed.refused("E0108", path, kind=UsageError)
    assert ("it is a private key" in text) == (kind == "private")
    assert b64(RFC_SECRET)[:20] not in text
    assert "\n".join(data.decode("latin-1").splitlines()[1:2])[:20] not in text or kind in {"raw", "empty"}


def test_missing_and_odd_files_are_refused_without_waiting(signed):
    os.mkfifo(signed.folder / "fifo")
    signed.refused("E0691", signed.folder / "absent.pub", kind=MissingError)
    signed.refused("E0901", signed.folder, kind=UsageError)
    signed.refused("E0901", signed.folder / "fifo", kind=UsageError)
    signed.sig.unlink()
    signed.sig.mkdir()
    signed.refused("E0901", kind=UsageError)
    signed.sig.rmdir()
    os.mkfifo(signed.sig)
    signed.refused("E0901", kind=UsageError)
    signed.bundle.unlink()
    signed.refused("E0650", kind=MissingError)


def test_missing_package_is_named_and_only_signatures_need_it(signed):
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from edgekit_runtime.__main__ import main\n"
        "assert main(['verify', sys.argv[1]]) == 0\n"
        "sys.exit(main(['verify', sys.argv[1], '--key', sys.argv[2]]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, signed.bundle, signed.key], capture_output=True, text=True, check=False
    )
    assert done.returncode == 6
    assert done.stderr.startswith("error[E0690]: signatures need the package 'cryptography'")
    assert "pip install cryptography" in done.stderr
    assert done.stdout.count("\n") == 1


def test_importing_the_runtime_does_not_load_the_package():
    code = "import sys, edgekit_runtime; edgekit_runtime.load; print('cryptography' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def test_every_command_of_the_device_takes_a_key(signed, capsys):
    np.save(signed.folder / "x.npy", np.zeros((8, 8), np.uint8))
    other = signed.public(OTHER)
    commands = [
        ["verify"],
        ["run"],
        ["selftest"],
        ["selftest", "--evidence", signed.folder / "e.json"],
        ["bench", "--runs", 2],
    ]
    for command, *rest in commands:
        inputs = [signed.folder / "x.npy"] if command == "run" else []
        call = [str(part) for part in (command, signed.bundle, *inputs, *rest, "--key")]
        assert main([*call, str(signed.key)]) == 0
        assert main([*call, str(other), "--key", str(signed.key), "--min-release-counter", "7"]) == 0
        capsys.readouterr()
        assert main([*call, str(other)]) == 5
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error[E0523]")
        assert main([*call, ""]) == 6


def test_device_says_who_signed(signed, capsys):
    arguments = ["verify", str(signed.bundle), "--key", str(signed.key)]
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[1] == f"signed by {identify(OURS)}, release counter 7"
    assert main([*arguments, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["signed_by"], answer["release_counter"]) == (identify(OURS), 7)
    assert main(["verify", str(signed.bundle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["signed_by"] is None
    assert main([*arguments, "--min-release-counter", "8", "--json"]) == 5
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "E0526"
    assert main(["verify", str(signed.bundle), "--min-release-counter", "1"]) == 2


def test_errors_are_of_the_one_tree(signed):
    signed.sig.unlink()
    with pytest.raises(EdgekitError) as caught:
        signed.check()
    assert caught.value.exit_code == 5
    assert caught.value.fix
