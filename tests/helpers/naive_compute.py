"""`peer.compute_main` without the protections that the environment variable NAIVE names (`tests.helpers.naive`)."""

import os

from peer.compute_main import main
from tests.helpers.naive import make_naive

make_naive(os.environ["NAIVE"])
main()
