"""Token codes: how a board's keys and values become a payload and back. One method per module."""
