"""What the README, the changelog and docs/ claim, where a program can tell whether it is true."""

import ast
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import card_table
from liveavatar_runtime.config import WAN_S2V_14B
from liveavatar_runtime.executors.advisor import Advisor
from liveavatar_runtime.media.codecs import CODECS
from liveavatar_runtime.media.images import fit_size
from liveavatar_runtime.planning.device import Device
from liveavatar_runtime.planning.forecast import Setting
from liveavatar_runtime.planning.memory import (
    cache_bytes,
    choose_placement,
    decode_bytes,
    moved_bytes,
    ram_bytes,
)
from liveavatar_runtime.planning.presets import PRESETS
from liveavatar_runtime.planning.workload import DECODER_PARAMETERS, Workload
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.vae.config import VaeConfig

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
README = PAGES[0].read_text(encoding="utf-8")
USING, MEMORY, TROUBLESHOOTING = (
    (DOCS / f"{name}.md").read_text(encoding="utf-8") for name in ("USING", "MEMORY", "TROUBLESHOOTING")
)
GIB = 2**30
ANY = "…"
"""Stands for names and numbers in quoted messages."""


def rows(heading: str, page: str = README) -> list[list[str]]:
    """Cells of the table rows under a heading of a page, without header and rule."""
    section = page.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def messages() -> list[str]:
    """Every text constant of the pack; what an f-string fills in is `…`."""
    found = []
    for path in [
        *(ROOT / "liveavatar_runtime").rglob("*.py"),
        *(ROOT / "liveavatar_workers").rglob("*.py"),
        *(ROOT / "comfy_bridge").glob("*.py"),
        *(ROOT / "nodes").glob("*.py"),
    ]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(v.value) if isinstance(v, ast.Constant) else ANY for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def headings(page: Path) -> set[str]:
    """As links name them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_repository_lead_somewhere(page):
    """To files, and to the headings in them that are named."""
    for target in re.findall(r"\]\(([^)]+)", page.read_text(encoding="utf-8")):
        file, _, heading = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        found = page.parent / file if file else page
        assert found.exists(), target
        assert not heading or heading in headings(found), target


def test_every_page_for_users_is_linked_from_the_readme():
    for_developers = {"ARCHITECTURE.md", "DEVELOPMENT.md"}
    linked = set(re.findall(r"\]\(docs/([^)#]+)", README))
    assert {page.name for page in DOCS.glob("*.md")} - for_developers <= linked


def test_the_readme_is_read_in_a_minute_up_to_the_card():
    """What stands before the table of cards is found without searching, and the whole page stays short."""
    assert len(README.split()) < 2000
    assert "docs/images/sample.gif" in README[:1000] and "docs/images/graph.png" in README[:1200]


def test_the_files_of_the_templates_are_linked_with_their_sizes():
    """Addresses and sizes are those of the template."""
    template = json.loads((ROOT / "workflows" / "avatar_14b.json").read_text(encoding="utf-8"))
    models = [model for node in template["nodes"] for model in node.get("properties", {}).get("models", [])]
    (note,) = (node["widgets_values"][0] for node in template["nodes"] if node["type"] == "MarkdownNote")
    sizes = dict(re.findall(r"\| (\S+) \| \S+ \| ([\d.]+ GB) \|", note))
    expected = {
        (f"[`{model['name']}`]({model['url']})", f"`{model['directory']}`", sizes[Path(model["name"]).stem])
        for model in models
    }
    assert len(expected) == 5
    assert expected == {tuple(row) for row in rows("The 14B model") if row[0].startswith("[")}


def test_the_table_of_cards_is_the_planners():
    """A measured speed is one of the page of that card."""
    assert "\n".join(card_table.lines()) in README
    measured = (ROOT / "benchmarks" / "results" / "card-h100.md").read_text(encoding="utf-8")
    end_to_end = measured.split("## End to end", 1)[1].split("\n## ", 1)[0]
    for (card, _, size), told in card_table.MEASURED.items():
        rates = re.findall(rf"\| {size} \| ([\d.]+) \|", end_to_end)
        assert card == "H100" and told.removesuffix(", measured") in {f"{float(rate):.1f}" for rate in rates}


def test_the_table_in_the_notes_of_the_14b_templates_is_the_planners():
    """One card each, and four; the templates have the weights in fp8 at 688x368."""
    expected = []
    for card in (card_table.RTX_4080, card_table.RTX_4090, card_table.L40S, card_table.H100):
        row = card_table.Row(card, "fp8", "688x368")
        setting = Setting(choose_placement(row.work, replace(card, occupied=decode_size(row.work.plan))))
        expected.append(next(Advisor(row.work, row.machines, ("local",)).options_of(setting)))
    work = card_table.Row(card_table.RTX_4090, "fp8", "688x368").work
    four = next(machines for machines in PRESETS if machines.name == "4x RTX 4090")
    expected.append(Advisor(work, four, ("layer_pipeline",)).best())
    numbers = [
        (f"{sum(row.size for row in option.ram if row.what == 'KV caches') / GIB:.0f} GiB", str(option.fps))
        for option in expected
    ]
    for name in ("en", "zh"):
        notes = json.loads((ROOT / "web" / "templates" / f"{name}.json").read_text(encoding="utf-8"))["notes"]
        for template in ("avatar_14b", "avatar_14b_long", "avatar_14b_segments"):
            lines = [line for line in notes[template].splitlines() if " GiB |" in line]
            told = [tuple(cell.strip() for cell in line.strip("|").split("|"))[2:] for line in lines]
            assert [(ram, fps.replace("～", " to ")) for ram, fps in told] == numbers, (name, template)


def decode_size(plan: ClipPlan) -> int:
    """Bytes of the VAE and of its work."""
    return DECODER_PARAMETERS * 2 + decode_bytes(VaeConfig(), plan, torch.bfloat16)


def test_quoted_messages_are_the_codes_own():
    texts = messages()
    quoted = [re.match("`([^`]+)`(.*)", row[0]) for row in rows("Troubleshooting", TROUBLESHOOTING)[1:]]
    ours = [match[1] for match in quoted if match and "from CLIP Text Encode" not in match[2]]
    assert len(ours) > 10
    for quote in ours:
        pattern = ".*".join(re.escape(part) for part in quote.split(ANY)).replace("12", f"(12|{ANY})")
        assert any(re.search(pattern, text, re.DOTALL) for text in texts), quote


def test_sizes_and_their_memory():
    table = [row for row in rows("Settings that matter", USING) if re.match(r"\d+x\d+$", row[0])]
    assert len(table) >= 5
    for size, tokens, caches in table:
        width, height = map(int, size.split("x"))
        plan = ClipPlan(width=width, height=height, keep_aspect=False)
        assert int(tokens) == plan.grid[0] * plan.grid[1]
        expected = cache_bytes(Workload(WAN_S2V_14B, plan)) / 2**30
        assert caches == f"{expected:.1f} GiB"


def test_what_is_planned_for_which_card():
    """688x368, 4 steps, bf16 caches; the reserve of a card stays free, and it decodes beside."""
    plan = ClipPlan(width=688, height=368, keep_aspect=False)
    vae = VaeConfig()
    table = [row for row in rows("Memory", MEMORY) if row[0].endswith(" GiB")]
    assert len(table) >= 8
    for card, weights, planned, ram, moved in table:
        stored = int({"fp8": 15.6, "bf16": 30.4}[weights] * GIB)
        work = Workload(WAN_S2V_14B, plan, stored_bytes=stored)
        device = Device(
            memory=float(card.split()[0]) * GIB,
            ram=128 * GIB,
            occupied=decode_bytes(vae, plan, torch.bfloat16) + GIB // 4,
        )
        placement = choose_placement(work, device)
        assert planned == str(placement)
        assert ram == f"{ram_bytes(work, placement) / GIB:.0f} GiB"
        assert moved == f"{moved_bytes(work, device, placement) / GIB:.0f} GiB"


def test_sizes_for_aspects():
    sentence = re.search(
        r"With (\d+)x(\d+) as area a 16:9 .* becomes (\d+x\d+), .* (\d+x\d+), a 9:16 one (\d+x\d+)", USING
    )
    assert sentence
    width, height, *claimed = sentence.groups()
    fitted = [fit_size(rows, columns, int(width) * int(height)) for columns, rows in ((16, 9), (1, 1), (9, 16))]
    assert [f"{columns}x{rows}" for rows, columns in fitted] == claimed


def test_every_option_of_the_demo_is_explained():
    command = [sys.executable, ROOT / "scripts/demo_workflow.py", "--help"]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    options = set(re.findall(r"^  (--[a-z-]+)", usage, re.MULTILINE))
    table = rows("The demo from a command line", USING)
    assert options == {row[0].strip("`").split()[0] for row in table if row[0].startswith("`--")}


def test_every_node_is_in_the_table():
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "nodes").glob("*.py"))
    names = set(re.findall(r'node_id="[^"]*",\s*display_name="([^"]+)"', sources))
    assert names == {row[0].strip("*") for row in rows("Nodes")[1:] if row[0].startswith("**")}


def test_codecs_and_what_they_take():
    table = {row[0].strip("`"): row[1:] for row in rows("Long videos", USING) if row[0].strip("`") in CODECS}
    assert list(table) == list(CODECS)
    for name, (kind, sound, crf, pixels) in table.items():
        settings = CODECS[name]
        assert (kind.lower(), sound.lower()) == (settings.kind.extension, settings.kind.sound)
        low, high = settings.crf_range or (0, 0)
        assert crf == ("lossless" if settings.crf_range is None else f"{low} to {high}")
        assert tuple(part.strip("` ") for part in pixels.split(",")) == settings.pixel_formats


def test_every_template_for_long_videos_is_there():
    templates = [row[0].strip("*") for row in rows("Long videos", USING) if row[0].startswith("**")]
    assert templates and all((ROOT / "workflows" / f"{name}.json").is_file() for name in templates)
