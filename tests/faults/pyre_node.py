"""One node of Pyre (PyPI `zeromq-pyre`), with its defaults: prints ENTER NAME and EXIT NAME as it learns of peers.

    python -P tests/faults/pyre_node.py NAME

Run by `tests.faults.pyre` inside a board's namespace, with the Python of an environment of its own: the product does
not depend on it. Without -P the module beside this one would be taken for it.
"""

import sys

from pyre import Pyre, PyreEvent  # type: ignore[import-not-found]  # only where it is compared


def main() -> None:
    node = Pyre(sys.argv[1])
    node.start()
    while True:
        event = PyreEvent(node)
        if event.type in ("ENTER", "EXIT"):
            print(event.type, event.peer_name, flush=True)


if __name__ == "__main__":
    main()
