"""Broken files: mutations of small real ones, and every loader of files that others write. See `__main__`."""
