"""Who may open a connection: the decision of the ZAP handler (RFC 27 of ZeroMQ)."""

from collections.abc import Iterable

from zmq.utils import z85


class AllowList:
    """ZAP decision: these public keys and no others. Never raises, as that would end the authenticator for good."""

    def __init__(self) -> None:
        self.refused = 0  # handshakes; whoever is refused tries again and again
        self._keys: frozenset[bytes] = frozenset()

    def replace(self, keys: Iterable[bytes]) -> None:
        """From now on exactly `keys`, 32 bytes each; safe while the authenticator's thread asks."""
        self._keys = frozenset(z85.encode(key) for key in keys)

    def callback(self, _domain: str, key: bytes) -> bool:
        try:
            known = key in self._keys
        except Exception:  # noqa: BLE001 - whatever escapes ends the authenticator's thread
            known = False
        self.refused += not known
        return known
