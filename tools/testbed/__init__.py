"""Emulated boards on one machine: networks of their own, links of a given rate, and a core that is S times slower."""
