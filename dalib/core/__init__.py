"""The engine and what a plugin author meets."""
