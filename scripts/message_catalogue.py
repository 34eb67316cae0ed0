"""Collects what the pack says while it works: notes on nodes, progress texts and errors, for their translation.

As with gettext, the English text in the code is the key. `web/messages/en.json` lists the texts, and
`web/messages/LOCALE.json` translates them; `web/message_matcher.js` finds the text that a message was made from. What
is read of the code is its syntax tree alone: a text with values is an f-string, or a sum of them, whose values become
placeholders named after the expressions.

    python scripts/message_catalogue.py          writes en.json, and sorts the translations; new texts get "" there
    python scripts/message_catalogue.py --check  says what is missing, and writes nothing
"""

import argparse
import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MESSAGES = ROOT / "web" / "messages"
PACKAGES = ("liveavatar_runtime", "comfy_bridge", "nodes", "liveavatar_workers")
NOT_SHOWN: dict[str, set[str] | None] = {
    "comfy_bridge/clip_judge.py": {"each clip alone", "all from the first one"},
    "comfy_bridge/core_weights.py": {"warnings.filterwarnings"},
    "comfy_bridge/demo_inputs.py": {" [temp]"},
    "comfy_bridge/live/access.py": None,
    "comfy_bridge/live/page.py": None,
    "comfy_bridge/live/report.py": {"NAMES", "markdown"},
    "comfy_bridge/live/voice.py": {"PAGE_AND_PROGRAMS", "VoiceSource", "LagRule", "{name} is not read yet"},
    "comfy_bridge/live/voice_routes.py": None,
    "comfy_bridge/live_routes.py": None,
    "comfy_bridge/model_patches.py": {"patch/other {name}"},
    "comfy_bridge/memory_watch.py": {"unknown"},
    "comfy_bridge/run_facts.py": {"of other machines", "processor_name"},
    "comfy_bridge/run_report.py": {"ELSEWHERE", "how_it_ended", "numbers do not end"},
    "comfy_bridge/speakers.py": {"Mode"},
    "comfy_bridge/spool_folder.py": {"sage", "sdpa"},
    "liveavatar_runtime/audio/waveform.py": {"_LAYOUTS"},
    "liveavatar_runtime/checkpoint/detect.py": {"MEASURED", "patch bias", "ffn bias", "local bias", "global bias"},
    "liveavatar_runtime/checkpoint/stored.py": {"The given NumPy array is not writable"},
    "liveavatar_runtime/distribution.py": None,
    "liveavatar_runtime/duration.py": {"{minutes} min"},
    "liveavatar_runtime/executors/advisor.py": None,
    "liveavatar_runtime/live/control.py": None,
    "liveavatar_runtime/live/sources.py": {"LOCAL_SOURCES"},
    "liveavatar_runtime/live/state.py": {"live state"},
    "liveavatar_runtime/executors/plan_bars.py": {"OTHERS"},
    "liveavatar_runtime/executors/plan_changes.py": {"Load Avatar Model", "Clip Scheduler", "DiT Sampler"},
    "liveavatar_runtime/executors/plan_report.py": {"chart"},
    "liveavatar_runtime/judge/checks.py": {"bounds"},
    "liveavatar_runtime/judge/judgement.py": {"_advice", "_bounds", "section", "values"},
    "liveavatar_runtime/media/live.py": None,
    "liveavatar_runtime/out_of_memory.py": {"SHORTAGE_WORDS"},
    "liveavatar_runtime/planning/calibration.py": None,
    "liveavatar_runtime/planning/plan_presets.py": {"180 s delivery", "long form"},
    "liveavatar_runtime/spool/contact_sheet.py": None,
    "liveavatar_runtime/planning/known_machines.py": {"PLAIN", "KNOWN"},
    "liveavatar_runtime/planning/presets.py": None,
    "liveavatar_runtime/planning/measured.py": None,
    "liveavatar_runtime/run_report.py": None,
    "liveavatar_runtime/planning/observed.py": None,
    "liveavatar_runtime/spool/spool.py": {"fp8"},
    "liveavatar_runtime/system_memory.py": {"SHORTAGE_WORDS"},
    "liveavatar_workers/client/named.py": {"EXAMPLE"},
    "liveavatar_workers/keys.py": {"main", "make_files"},
    "liveavatar_workers/private_files.py": {"WIDE_GROUPS"},
    "liveavatar_workers/rank/store.py": {"attempt {attempt}"},
    "liveavatar_workers/rank/watch.py": {"told to end/{number}"},
    "liveavatar_workers/rank/worker.py": {"start_text"},
    "nodes/avatar_script.py": {"EXAMPLE", "SCRIPT_TOOLTIP"},
    "nodes/clip_scheduler.py": {"SIZE_TOOLTIP", "PRESET_TOOLTIP", "TAKES_TOOLTIP"},
    "nodes/search_words.py": None,
    "nodes/speakers.py": {"TURNS_TOOLTIP"},
    "nodes/live_voice.py": {"page and programs"},
}
"""Of each module, constants, functions and calls with texts that no page shows, and such texts: tables, what is read in
foreign messages, keys, what is printed in a terminal or stands in the node's schema (locales/). None: all of it."""
SILENT_CALLS = ("log.", "re.", "logging.", "cast", "TypeVar", "argparse.")
SILENT_KEYWORDS = {"help", "description", "tooltip", "display_name", "prog", "name"}
WORDS_IN_TABLES = ("days", "file", "folder", "hours", "minutes", "mono", "stereo", "years")
WIDGETS = ("codec", "crf", "duration", "fps", "height", "infer_frames", "lora_strength", "num_clip", "reanchor_clips")
WIDGETS += ("relative_distance", "seed", "segment_clips", "segment_index", "shift", "size", "spool_budget")
WIDGETS += ("state_budget", "steps", "unused_days", "width", "window_blocks")
"""Words without a space that are values of placeholders, and stand in tables and schemas, not in a text."""
DULL = {"__name__", "and", "else", "float", "for", "GIB", "if", "in", "join", "len", "list", "map", "max", "MIB", "min"}
DULL |= {"name_of", "not", "or", "removeprefix", "self", "sorted", "str", "sum", "torch", "total", "tuple", "type"}
"""Names in expressions that do not say what a value is."""
DURATIONS = ("{n} h", "{n} min", "{n} s")
"""Parts of a length of time (duration.py), which is a value like others."""
SYSTEM = ("Is a directory", "No space left on device", "No such file or directory", "Not a directory")
SYSTEM += ("Input/output error", "Permission denied", "Read-only file system", "Too many open files")
"""Reasons in messages of ours that the system gives in English."""
PLACEHOLDER = re.compile(r"\{(\w+)\}")


class _Texts(ast.NodeVisitor):
    """Collects the texts of a module in `found`."""

    def __init__(self, not_shown: set[str]) -> None:
        self.found: set[str] = set()
        self._not_shown = not_shown

    def visit(self, node: ast.AST) -> None:
        if self._is_silent(node):
            return
        if isinstance(node, ast.expr) and is_text(node):
            self._take(_template(node))
            for value in ast.walk(node):
                if isinstance(value, ast.FormattedValue):
                    self._take_values(value.value)
            return
        self.generic_visit(node)

    def _is_silent(self, node: ast.AST) -> bool:
        if isinstance(node, (ast.Assert, ast.arguments)):
            return True
        if isinstance(node, ast.Expr):
            return isinstance(node.value, ast.Constant)
        if isinstance(node, ast.FunctionDef):
            return node.name == "define_schema" or node.name in self._not_shown
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            return bool(self._not_shown & {ast.unparse(target) for target in targets})
        if isinstance(node, ast.keyword):
            return node.arg in SILENT_KEYWORDS
        if not isinstance(node, ast.Call):
            return False
        call = ast.unparse(node.func)
        return call.startswith(SILENT_CALLS) or call in self._not_shown

    def _take(self, template: str) -> None:
        if template in self._not_shown:
            return
        literal = PLACEHOLDER.sub("\0", template)
        is_code = re.fullmatch(r"[\w.\[\]|, ]*[\[|][\w.\[\]|, ]*", template) or "%s" in template
        if " " in literal.strip() and re.search("[a-z]{2}", literal) and not is_code:
            self.found.add(template)

    def _take_values(self, value: ast.expr) -> None:
        """Words among which an expression in an f-string chooses."""
        if isinstance(value, ast.IfExp):
            choices = [value.body, value.orelse]
        else:
            choices = value.values if isinstance(value, ast.BoolOp) else []
        for choice in choices:
            if isinstance(choice, ast.Constant) and isinstance(choice.value, str):
                if re.search("[a-z]{2}", choice.value) and choice.value not in self._not_shown:
                    self.found.add(choice.value)
            else:
                self.visit(choice)


def is_text(node: ast.expr) -> bool:
    """A string, an f-string, or a sum with one in it."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return is_text(node.left) or is_text(node.right)
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _template(node: ast.expr) -> str:
    """The text with a placeholder for each value; values without a letter between them are one."""
    parts: list[str | ast.expr] = []
    for part in _parts(node):
        if isinstance(part, ast.expr) and parts and isinstance(parts[-1], ast.expr):
            continue
        parts.append(part)
    names: set[str] = set()
    return "".join(part if isinstance(part, str) else f"{{{_free(_name(part), names)}}}" for part in parts)


def _parts(node: ast.expr) -> Iterator[str | ast.expr]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        for value in node.values:
            yield from _parts(value)
    elif isinstance(node, ast.FormattedValue):
        yield node.value
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) and is_text(node):
        yield from (*_parts(node.left), *_parts(node.right))
    else:
        yield node


def _name(value: ast.expr) -> str:
    """A word for what an expression gives: the last name in it that says something."""
    if isinstance(value, ast.IfExp):
        return "choice"
    code = re.sub(r"'[^']*'", "", ast.unparse(value))
    if "format_duration" in code:
        return "duration"
    telling = [word.strip("_").lower() for word in re.findall(r"[A-Za-z_]\w*", code) if word not in DULL]
    return telling[-1] if telling else "value"


def _free(name: str, taken: set[str]) -> str:
    """`name`, with a number where the text has it already."""
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    taken.add(free)
    return free


def texts() -> list[str]:
    """All texts of the pack, sorted; of those that differ in names of placeholders only, the first."""
    found = {*WORDS_IN_TABLES, *WIDGETS, *SYSTEM, *DURATIONS}
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        not_shown = NOT_SHOWN.get(path.relative_to(ROOT).as_posix(), set())
        if not_shown is not None:
            collector = _Texts(not_shown)
            collector.visit(ast.parse(path.read_text(encoding="utf-8")))
            found |= collector.found
    by_form = {form(text): text for text in sorted(found, reverse=True)}
    return sorted(by_form.values())


def form(text: str) -> str:
    """A text without the names of its placeholders."""
    return PLACEHOLDER.sub("{}", text)


def renamed(old: str, new: str, translation: str) -> str:
    """A translation whose placeholders are called as in `new` instead of `old`."""
    names = dict(zip(PLACEHOLDER.findall(old), PLACEHOLDER.findall(new), strict=True))
    return PLACEHOLDER.sub(lambda found: f"{{{names.get(found[1], found[1])}}}", translation)


def updated(old: dict[str, str], keys: list[str]) -> dict[str, str]:
    """A table of translations with exactly these texts; those of the same form keep their translation."""
    known = {form(text): text for text in old}
    return {key: renamed(known[form(key)], key, old[known[form(key)]]) if form(key) in known else "" for key in keys}


def problems(language: str) -> list[str]:
    """What is wrong with a table of translations, in sentences."""
    table = read(language)
    keys = texts()
    said = [f"{language} lacks {key!r}" for key in keys if not table.get(key)]
    said += [f"{language} has {key!r}, which no code says" for key in sorted(set(table) - set(keys))]
    for key, translation in table.items():
        if translation and sorted(PLACEHOLDER.findall(key)) != sorted(PLACEHOLDER.findall(translation)):
            said.append(f"{language} has other placeholders in {translation!r} than {key!r} has")
    return said


def read(language: str) -> dict[str, str]:
    """Text -> translation."""
    return json.loads((MESSAGES / f"{language}.json").read_text(encoding="utf-8"))


def languages() -> list[str]:
    return sorted(path.stem for path in MESSAGES.glob("*.json") if path.stem != "en")


def write(language: str, content: object) -> None:
    text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    (MESSAGES / f"{language}.json").write_text(text, encoding="utf-8", newline="\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="say what is missing and write nothing")
    if not parser.parse_args().check:
        write("en", texts())
        for language in languages():
            write(language, updated(read(language), texts()))
    said = [problem for language in languages() for problem in problems(language)]
    if read("en") != texts():
        said.append("web/messages/en.json is not what the code says: run python scripts/message_catalogue.py")
    print("\n".join(said) or f"{len(texts())} texts, all translated")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
