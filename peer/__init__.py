"""The daemon and its command line: membership, requests and the data plane of one board."""
