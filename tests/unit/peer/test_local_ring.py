"""Ports for daemons on this machine."""

import itertools

from peer.local_ring import _free_ports, _outgoing_from


def test_free_ports_leave_room_for_a_daemons_listeners_below_those_of_outgoing_connections() -> None:
    ports = sorted(_free_ports(20))
    assert all(after - before >= 4 for before, after in itertools.pairwise(ports))
    assert ports[0] >= 1024
    if _outgoing_from() > 20_004:  # where Linux leaves room below
        assert ports[-1] + 3 < _outgoing_from()
