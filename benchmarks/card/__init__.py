"""One command that measures a card in a few minutes: is it right, does it fit, is it fast, where does the time go, and
how far is the planner off?

    python -m benchmarks.card --minutes 9 --out DIR

See docs/MEASURING.md.
"""
