"""CURVE key pairs: a board's own, and the one that a cluster token stands for."""

import hashlib
from dataclasses import dataclass

import zmq
from zmq.utils import z85


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class KeyPair:
    """A CURVE key pair, 32 bytes each. Never logged; the secret is never sent."""

    public: bytes
    secret: bytes


def new_key_pair() -> KeyPair:
    """A fresh key pair from the system's random source."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public=z85.decode(public), secret=z85.decode(secret))


def key_pair_of(secret: bytes) -> KeyPair:
    """The pair that belongs to a secret of 32 bytes."""
    return KeyPair(public=z85.decode(zmq.curve_public(z85.encode(secret))), secret=secret)


def door_keys(token: bytes) -> KeyPair:
    """The pair that a cluster token of 32 bytes stands for; whoever holds the token can compute it."""
    return key_pair_of(hashlib.blake2b(token, digest_size=32, person=b"tokenring-curve").digest())
