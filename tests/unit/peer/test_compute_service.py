"""When a compute process tells its daemon what it counted."""

from peer.compute_service import Accounting


def test_an_account_goes_out_every_second_while_something_happens_and_every_five_otherwise() -> None:
    accounting = Accounting()
    assert accounting.due(stirred=False, now=100.0)  # the first says how the board is
    assert not accounting.due(stirred=True, now=100.9)
    assert accounting.due(stirred=True, now=101.0)
    assert not accounting.due(stirred=False, now=105.9)
    assert accounting.due(stirred=False, now=106.0)
