"""A bundle with a signature that is made by hand, for the tests of signatures."""

import base64
import hashlib
import json
import shutil

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edgekit_runtime.errors import BundleError
from edgekit_runtime.signature import check

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


class SignedBundle:
    """A folder with a signed bundle, and functions to change its parts."""

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
