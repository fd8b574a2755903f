"""Payloads that the server cannot read: what workflows and steps are given, return and fail with is encrypted.

AES-GCM, by the package `cryptography`. What is not encrypted is taken as it is: histories of before stay readable.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from temporalio.api.common.v1 import Payload
from temporalio.converter import (
    ActivitySerializationContext,
    PayloadCodec,
    SerializationContext,
    WithSerializationContext,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEYS_FILE = "PAYLOAD_KEYS_FILE"
KEY_BYTES, NONCE_BYTES = 32, 12  # AES-256; 12 is what GCM is made for: NIST SP 800-38D
# As in the samples of Temporal's SDKs: a reader of payloads in another language finds what it expects.
ENCRYPTED, KEY_ID = b"binary/encrypted", "encryption-key-id"


class KeyMissing(Exception):
    """A payload is encrypted under a key that this process does not have. Another may have it: so tasks wait."""


class Encryption(PayloadCodec, WithSerializationContext):
    """Encrypts with the first key; decrypts with the one that a payload names. Without keys it encrypts nothing."""

    def __init__(self, keys: Sequence[bytes] = (), *, leaves_unknown: bool = False) -> None:
        """Take keys of 32 bytes, and leave payloads under other keys as they are, or raise `KeyMissing`."""
        self._leaves_unknown = leaves_unknown
        self._ciphers: dict[str, AESGCM] = {}
        if keys:  # A program that has none does not need the package.
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM

            self._ciphers = {key_id_of(key): AESGCM(key) for key in keys}
        self.key_id = next(iter(self._ciphers), None)

    def with_context(self, context: SerializationContext) -> Encryption:
        """Return the codec for the context. An activity started on its own is refused, whatever it is given."""
        if not isinstance(context, ActivitySerializationContext) or context.workflow_id:
            return self
        lenient = copy.copy(self)
        lenient._leaves_unknown = True
        return lenient

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Encrypt each payload whole, its metadata too."""
        return [self._encrypt(payload) for payload in payloads] if self._ciphers else list(payloads)

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Decrypt what is encrypted.

        Raises:
            KeyMissing: if the key is not here.
        """
        return [self._decrypt(p) if p.metadata.get("encoding") == ENCRYPTED else p for p in payloads]

    def _encrypt(self, payload: Payload) -> Payload:
        # Random nonces are safe for 2**32 payloads a key: change the key before.
        (key_id, cipher), nonce = next(iter(self._ciphers.items())), os.urandom(NONCE_BYTES)
        sealed = cipher.encrypt(nonce, payload.SerializeToString(), None)
        return Payload(metadata={"encoding": ENCRYPTED, KEY_ID: key_id.encode()}, data=nonce + sealed)

    def _decrypt(self, payload: Payload) -> Payload:
        key_id = payload.metadata.get(KEY_ID, b"").decode(errors="replace")
        if key_id not in self._ciphers and self._leaves_unknown:
            return payload
        if key_id and key_id not in self._ciphers:
            raise KeyMissing(f"it is encrypted under key {key_id}, which is not in {KEYS_FILE} of this process")
        try:
            nonce, sealed = payload.data[:NONCE_BYTES], payload.data[NONCE_BYTES:]
            return Payload.FromString(self._ciphers[key_id].decrypt(nonce, sealed, None))
        except Exception:  # It names no key, was altered, or never was a payload.
            # No key will ever open it. The payload converter refuses it by its encoding, like other malformed input.
            return Payload(metadata={"encoding": b"damaged"})


def read_keys(environment: Mapping[str, str]) -> list[bytes]:
    """Read the file that `PAYLOAD_KEYS_FILE` names: a key a line, 32 bytes in Base64, the first to encrypt with.

    Raises:
        OSError, ValueError: if it is not that. The message never quotes a line.
    """
    if KEYS_FILE not in environment:
        return []
    keys = []
    for number, line in enumerate(Path(os.path.expanduser(environment[KEYS_FILE])).read_bytes().splitlines(), start=1):
        try:
            keys.append(base64.b64decode(line, validate=True))
        except ValueError:
            keys.append(b"")
        if len(keys[-1]) != KEY_BYTES:
            raise ValueError(f"line {number} is no key; make one: head -c {KEY_BYTES} /dev/urandom | base64")
    if not keys:
        raise ValueError("the file holds no key")
    return keys


def key_id_of(key: bytes) -> str:
    """Return the id that payloads name a key by. It comes from the key: a key that was replaced has another one."""
    return hashlib.sha256(key).hexdigest()[:8]
