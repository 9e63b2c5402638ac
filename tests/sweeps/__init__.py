"""Experiments for tests, as a user's package of them would be."""
