"""The release of this package; it works with the runtime of the same release only."""

VERSION = "0.1.0"
