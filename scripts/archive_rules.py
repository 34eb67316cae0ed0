"""What the Comfy registry's scanner flags in an archive, as far as publishers know: its rules are not public.

The names of the rules and the texts that they match are those that the registry told of flagged packs
(`https://api.comfy.org/nodes/NAME/versions?include_status_reason=true`), and more of the same kinds. It matches texts,
not meanings: comments, strings and documents count, and one finding of any severity is enough for a version that
Manager does not offer.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

PYTHON = frozenset({".py"})
SCRIPT = frozenset({".js", ".mjs", ".html", ".svg"})
CODE = PYTHON | SCRIPT
PACKAGING = frozenset({".txt", ".toml", ".cfg"})
TEXT = CODE | PACKAGING | {".md", ".json", ".yaml", ".yml", ".ini", ".sh", ".bat"}


@dataclass(frozen=True)
class Rule:
    """A name, the kinds of files that it is for, and what must not be in them."""

    name: str
    suffixes: frozenset[str]
    pattern: re.Pattern[str]


def _rule(name: str, suffixes: frozenset[str], *patterns: str) -> Rule:
    return Rule(name, suffixes, re.compile("|".join(patterns)))


RULES = (
    _rule(
        "python_network_operations",
        TEXT,
        r"\.(?:connect|bind|listen|login|send(?:all|to)?|recv(?:from|_into)?|create_connection)\s*\(",
        r"\baiohttp\s*\.\s*ClientSession",
    ),
    _rule(
        "python_network_operations",
        PYTHON,
        r"\bimport socket\b",
        r"\bsocket\.\w",
        r"\burllib\.request\b",
        r"\burl(?:open|retrieve)\b",
        r"\b(?:requests|httpx)\.\w",
        r"\bhttp\.(?:client|server)\b",
        r"\b(?:ftp|smtp|telnet)lib\b",
        r"\b(?:websockets?|paramiko|zmq)\b",
        r"\b(?:hf_hub_download|snapshot_download|load_state_dict_from_url|download_url_to_file)\b",
        r"\bgethost\w+",
        r"\bgettempdir\b",
    ),
    _rule("python_environment_manipulation", PYTHON, r"\benviron\b", r"\b(?:get|put|unset)env\b"),
    _rule(
        "python_command_injection_risk",
        PYTHON,
        r"\bsubprocess\b",
        r"\bmultiprocessing\b",
        r"\bos\.(?:system|popen|startfile|fork\w*|exec\w+|spawn\w+|posix_spawn\w*)\b",
        r"\b(?:pty|pexpect|sh)\.spawn\b",
    ),
    _rule("python_url_command_execution", PYTHON, r"\b(?:ffmpeg|ffprobe|curl|wget|yt-dlp|pandoc)\s+-"),
    _rule(
        "python_dynamic_execution",
        PYTHON,
        r"(?<![\w.])(?:eval|exec|compile|__import__)\s*\(",
        r"(?<!\bre\.)(?<!\btorch\.)\bcompile\s*\(",
        r"\.eval\s*\(\s*[^\s)]",
        r"\bimport_module\b",
        r"\b(?:spec_from_file_location|module_from_spec|exec_module|SourceFileLoader|runpy)\b",
        r"\bmarshal\b",
        r"\b(?:CodeType|FunctionType)\s*\(",
    ),
    _rule(
        "javascript_dynamic_execution",
        SCRIPT,
        r"(?<![\w.])eval\s*\(",
        r"\bFunction\s*\(",
        r"document\.write",
        r"\batob\b",
    ),
    _rule(
        "javascript_markup",
        SCRIPT,
        r"\b(?:inner|outer)HTML\b",
        r"insertAdjacentHTML",
        r"\bon(?:load|error)\s*=\s*[\"']",
    ),
    _rule("javascript_addresses", SCRIPT, r"[\"'`](?:https?|wss?):"),
    _rule(
        "unsafe_deserialization",
        PYTHON,
        r"\bimport (?:c?[Pp]ickle|dill|joblib|shelve)\b",
        r"\bpickle\.\w",
        r"\btorch\.load\s*\(",
        r"weights_only\s*=\s*False",
        r"allow_pickle\s*=\s*True",
        r"\byaml\.(?:unsafe_)?load\b",
    ),
    _rule(
        "runtime_package_install",
        PYTHON,
        r"[\"']pip3?[\"']",
        r"\bpip\._?(?:internal|main)\b",
        r"\bimport pip\b",
        r"\bensurepip\b",
    ),
    _rule("native_calls", PYTHON, r"\bctypes\b", r"\bcffi\b", r"\bkernel32\b", r"\bLoadLibrary\b"),
    _rule(
        "obfuscated_code",
        CODE,
        r"\b(?:base64|b64decode|b85decode|a85decode|unhexlify|rot13)\b",
        r"\bzlib\.decompress\b",
        r"[\"'][A-Za-z0-9+/=]{200,}[\"']",
    ),
    _rule(
        "python_privilege_escalation", PYTHON, r"(?<![\w-])(?:sudo|doas|pkexec|runas)(?![\w-])", r"\bos\.set\w*[ug]id\b"
    ),
    _rule("contains_rm_rf", TEXT, r"\brm\s+-\w*[rf]"),
    _rule(
        "contains_custom_url_dependency", PACKAGING | PYTHON, r"\b(?:git|hg|svn)\+(?:https?|ssh)\b", r"\s@\s*https?:"
    ),
    _rule(
        "contains_blacklisted_url", CODE, r"raw\.githubusercontent\.com", r"\b(?:pastebin|ngrok|transfer|discord)\.\w+/"
    ),
    _rule(
        "credentials",
        TEXT,
        r"(?i)\b(?:hf|hugging_face_hub|civitai)_token\b",
        r"https?://[^/@\s\"'`]+:[^/@\s\"'`]+@",
        r"\bauth_token_comfy_org\b",
    ),
)


def findings(name: str, content: bytes) -> list[str]:
    """Of a file of an archive: `NAME:LINE: RULE: TEXT` for each place that a rule matches; none of other kinds."""
    suffix = PurePosixPath(name).suffix.lower()
    rules = [rule for rule in RULES if suffix in rule.suffixes]
    return list(_lines(name, content.decode("utf-8"), rules)) if rules else []


def _lines(name: str, text: str, rules: list[Rule]) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        for rule in rules:
            for match in rule.pattern.finditer(line):
                yield f"{name}:{number}: {rule.name}: {match[0].strip()}"
