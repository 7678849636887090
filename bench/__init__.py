"""How fast the detector is, with other ways to do the same job beside it: `python -m bench throughput`."""
