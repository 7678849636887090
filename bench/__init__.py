"""How fast the detector and the generator are, measured, with other ways to do the same job beside them.

>>> python -m bench throughput
"""
