"""What GitHub runs and asks: files that no test can run here, so their form and what they name are looked at."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from project_toml import PYPROJECT

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
ELEMENTS = {
    "markdown": {"value"},
    "input": {"label", "description", "placeholder"},
    "textarea": {"label", "description", "placeholder", "render"},
    "dropdown": {"label", "description", "options"},
    "checkboxes": {"label", "description", "options"},
}
"""Of GitHub's issue forms, with the attributes that are used here."""


def loaded(path: Path) -> dict[Any, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def workflow(name: str) -> dict[Any, Any]:
    return loaded(GITHUB / "workflows" / name)


def commands(steps: list[dict[str, Any]]) -> str:
    return "\n".join(step.get("run", "") for step in steps)


@pytest.mark.parametrize("name", ["tests.yml", "publish.yml"])
def test_what_workflows_run_is_in_the_checkout(name: str) -> None:
    jobs = workflow(name)["jobs"].values()
    named = [found for job in jobs for found in re.findall(r"\bscripts/\w+\.\w+", commands(job["steps"]))]
    assert named and all((ROOT / found).is_file() for found in named)
    assert all(job["timeout-minutes"] for job in jobs)
    assert workflow(name)["permissions"] == {"contents": "read"}


def test_tests_run_on_three_systems_with_the_oldest_and_the_newest_comfyui() -> None:
    oldest = "v" + PYPROJECT["tool"]["comfy"]["requires-comfyui"].removeprefix(">=")
    matrix = workflow("tests.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert {system.split("-")[0] for system in matrix["system"]} == {"ubuntu", "windows", "macos"}
    assert matrix["comfyui"] == [oldest, "newest"]
    pythons = {row["comfyui"]: row["python"] for row in matrix["include"]}
    assert set(pythons) == set(matrix["comfyui"])
    assert pythons[oldest] == PYPROJECT["project"]["requires-python"].removeprefix(">=")


def test_a_tag_publishes_what_was_looked_at() -> None:
    publishing = workflow("publish.yml")
    # YAML reads the key `on` as a truth value.
    assert publishing[True] == {"push": {"tags": ["v*.*.*"]}}
    run = commands(publishing["jobs"]["publish"]["steps"])
    order = [run.index(part) for part in ("GITHUB_REF_NAME", "--check", "comfy-cli==", "node validate", "node publish")]
    assert order == sorted(order)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_forms_are_what_github_takes(path: Path) -> None:
    form = loaded(path)
    assert set(form) == {"name", "description", "labels", "body"}
    asked = [element for element in form["body"] if element["type"] != "markdown"]
    for element in form["body"]:
        assert set(element["attributes"]) <= ELEMENTS[element["type"]]
    assert all(re.fullmatch(r"[a-z]+", element["id"]) and element["attributes"]["label"] for element in asked)
    assert len({element["id"] for element in asked}) == len({element["attributes"]["label"] for element in asked})
    assert len({element["id"] for element in asked}) == len(asked)
    dropdowns = [element["attributes"]["options"] for element in asked if element["type"] == "dropdown"]
    assert all(all(isinstance(option, str) for option in options) for options in dropdowns)


def test_a_report_of_an_error_has_what_is_needed_to_find_it() -> None:
    form = loaded(GITHUB / "ISSUE_TEMPLATE" / "bug.yml")
    needed = {element["id"] for element in form["body"] if element.get("validations", {}).get("required")}
    assert {"card", "ram", "system", "versions", "workflow", "told", "files", "log"} <= needed
