"""A compute process that answers every even request and dies of every odd one; one of 13 kills it while it starts."""

import os
import signal
import sys
from multiprocessing.connection import Connection

from peer.compute_words import Finish, Ready, Setup
from peer.errors import Cancelled
from peer.protocol.effects import Deliver
from peer.protocol.events import Submitted


def main() -> None:
    connection = Connection(int(sys.argv[1]))
    setup = connection.recv()
    assert isinstance(setup, Setup)
    if setup.port == 13 and not os.path.exists(setup.host):
        with open(setup.host, "w", encoding="ascii"):
            os.kill(os.getpid(), signal.SIGKILL)
    connection.send(Ready())
    while not isinstance(word := connection.recv(), Finish):
        if isinstance(word, Submitted):
            request = word.submission.request
            if request % 2:
                os.kill(os.getpid(), signal.SIGSEGV)
            connection.send(Deliver(request=request, result=Cancelled("answered")))


main()
