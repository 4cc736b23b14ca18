"""Wukong: an instant messaging server whose members and messages share one replicated log."""

__version__ = "0.1.0"
