"""The version of routectl, as files that it writes tell it."""

__all__ = ["__version__"]

__version__ = "0.3.0"
