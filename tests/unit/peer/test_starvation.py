"""What the kernel says of a thread that is not let to run, and what it says when it says nothing."""

from pathlib import Path

from peer.starvation import Starvation


def test_the_second_number_counts_in_nanoseconds(tmp_path: Path) -> None:
    schedstat = tmp_path / "schedstat"
    schedstat.write_text("7000000 1500000000 12\n")
    starvation = Starvation(schedstat)
    assert starvation.waited_s() == 1.5
    schedstat.write_text("8000000 2500000000 13\n")
    assert starvation.waited_s() == 2.5


def test_a_kernel_that_does_not_tell_is_no_error(tmp_path: Path) -> None:
    assert Starvation(tmp_path / "missing").waited_s() == 0.0
    for text in ("", "1\n", "a b c\n"):
        (tmp_path / "odd").write_text(text)
        assert Starvation(tmp_path / "odd").waited_s() == 0.0


def test_this_kernel_tells() -> None:
    assert Starvation().waited_s() >= 0.0
