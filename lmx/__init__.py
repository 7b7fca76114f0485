"""lmx: small language-model experiments that are fast to run, exact to repeat and hard to get wrong."""

__version__ = "0.1.0"
