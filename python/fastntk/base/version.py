"""The version of this installation."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("fastntk")
except PackageNotFoundError:  # used from a source tree
    __version__ = "0+source"
