"""The version of routectl, which reports and manifests carry."""

__all__ = ["__version__"]

__version__ = "0.1.0"
