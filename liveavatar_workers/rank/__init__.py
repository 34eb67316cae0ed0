"""What the processes of workers run: the launcher, and one rank each."""
