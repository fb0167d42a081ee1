"""The pure core: what a board decides. No clock, socket, randomness or environment in here; time is an argument."""
