"""The version, without importing what a bare `tierdeck --version` can do without."""

__version__ = "0.1.0"
