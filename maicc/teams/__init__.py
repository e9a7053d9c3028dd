"""Agents that act side by side on what they have observed themselves."""
