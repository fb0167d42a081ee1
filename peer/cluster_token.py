"""The cluster's token: 32 random bytes that every admitted board holds, written as one line of text.

Text form: `tr1-` and the bytes in lower-case base32 without padding, so that it survives being read aloud.
Never logs or prints a token; errors name the file only.
"""

import base64
import binascii
import hashlib
import os
import stat
from pathlib import Path

from peer.errors import ConfigError
from peer.state_file import replace_private

TOKEN_BYTES = 32
_PREFIX = "tr1-"
_FILE_LIMIT_BYTES = 4096


def new_token() -> str:
    """A fresh token as text, from the system's random source."""
    return format_token(os.urandom(TOKEN_BYTES))


def format_token(secret: bytes) -> str:
    """The text form of `secret`."""
    return _PREFIX + base64.b32encode(secret).decode("ascii").rstrip("=").lower()


def parse_token(text: str) -> bytes:
    """The 32 bytes of a token's text; ConfigError when it is none."""
    body = text.strip()
    if not body.startswith(_PREFIX):
        raise ConfigError("this is no cluster token; one looks like tr1-abcd...")
    digits = body.removeprefix(_PREFIX).upper()
    try:
        secret = base64.b32decode(digits + "=" * (-len(digits) % 8))
    except (binascii.Error, ValueError) as exc:
        raise ConfigError("the cluster token is damaged; copy it again") from exc
    if len(secret) != TOKEN_BYTES or format_token(secret) != _PREFIX + digits.lower():
        raise ConfigError("the cluster token is cut short or damaged; copy it again")
    return secret


def read_token(path: Path) -> bytes:
    """The token in `path`; ConfigError when it cannot be read, is none, or others may read it too."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(_FILE_LIMIT_BYTES)
    except OSError as exc:
        raise ConfigError(f"cannot read the token file {path}: {exc.strerror}; name another with --token-file") from exc
    if stat.S_ISREG(mode) and mode & stat.S_IRWXO:
        raise ConfigError(f"everybody on this machine may read the token file {path}; run: chmod 600 {path}")
    try:
        return parse_token(text.decode("ascii"))
    except (ConfigError, UnicodeDecodeError) as exc:
        raise ConfigError(f"no cluster token in {path}; it holds one line like tr1-abcd...") from exc


def write_token(path: Path, text: str) -> None:
    """Write a token's text to a new file that only its owner may read; OSError when the file exists."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text + "\n")


def replace_token(path: Path, text: str) -> None:
    """Put a token's text into `path`, whole or not at all, for its owner only; OSError when that fails."""
    replace_private(path, text + "\n")


def cluster_tag(secret: bytes) -> str:
    """What a board may tell the LAN of its cluster: 16 hexadecimal digits that reveal nothing of the token."""
    return hashlib.blake2b(secret, digest_size=8, person=b"tokenring-tag").hexdigest()
