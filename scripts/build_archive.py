"""`python scripts/build_archive.py` builds the archive of the Comfy registry, as `comfy node publish` does.

It has the files that git knows and `.comfyignore` does not exclude. `--check` also looks for what the registry's
scanner flags, and fails when there is any: Manager does not offer a version that was flagged.
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from archive_rules import findings

ROOT = Path(__file__).resolve().parents[1]
ARCHIVE = ROOT / "dist" / "live-avatar.zip"
OLDEST = (1980, 1, 1, 0, 0, 0)
"""The time of every file in the archive, so that the same files give the same archive."""


def archive_files(root: Path = ROOT) -> list[str]:
    """Names of the files of the archive, with slashes, in order. Raises CalledProcessError outside a git checkout."""
    rules = (root / ".comfyignore").read_text(encoding="utf-8").splitlines()
    with tempfile.TemporaryDirectory() as folder:
        # The registry's tool strips lines, which git does not.
        excludes = Path(folder) / "rules"
        excludes.write_text("\n".join(line.strip() for line in rules) + "\n", encoding="utf-8")
        ignored = _git_files(root, "--cached", "--ignored", f"--exclude-from={excludes}")
    kept = sorted(set(_git_files(root)) - set(ignored))
    return [name for name in kept if (root / name).is_file()]


def build_archive(target: Path, root: Path = ROOT) -> list[str]:
    """Write the archive to `target`; gives the names of its files."""
    names = archive_files(root)
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            entry = zipfile.ZipInfo(name, OLDEST)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, (root / name).read_bytes())
    return names


def found_in(archive: Path) -> list[str]:
    """What the registry's scanner would flag in an archive, a line each."""
    with zipfile.ZipFile(archive) as content:
        return [line for name in content.namelist() for line in findings(name, content.read(name))]


def _git_files(root: Path, *options: str) -> list[str]:
    command = ["git", "-C", str(root), "ls-files", "-z", *options]
    listed = subprocess.run(command, capture_output=True, check=True).stdout.decode("utf-8")
    return [name for name in listed.split("\0") if name]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ARCHIVE, metavar="FILE", help="the archive")
    parser.add_argument("--list", action="store_true", help="print the names of its files")
    parser.add_argument("--check", action="store_true", help="look for what the registry's scanner flags")
    chosen = parser.parse_args()
    names = build_archive(chosen.output)
    print(f"{chosen.output}: {len(names)} files, {chosen.output.stat().st_size / 2**20:.1f} MiB")
    if chosen.list:
        print("\n".join(names))
    flagged = found_in(chosen.output) if chosen.check else []
    print(*flagged, sep="\n", end="\n" if flagged else "")
    return 1 if flagged else 0


if __name__ == "__main__":
    sys.exit(main())
