"""Exits on a network that is trained already: read it, cut it, train heads that imitate it."""
