"""Makes each file-system call of a small video fail, or the process die at it, and looks at what comes of it."""
