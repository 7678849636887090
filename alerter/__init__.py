"""Opt-in: tells people what the alerts topic says."""
