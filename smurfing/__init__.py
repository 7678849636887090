"""Opt-in: finds many small senders of one large sum."""
