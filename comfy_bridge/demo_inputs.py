"""The demo's pictures and voices where the workflow templates look for them.

Load Image and Load Audio list the files of ComfyUI's input folder, and the page marks every other name as a missing
input, so the files are put there when they are absent. Where that is not possible, or they have been removed since, a
prompt that names them gets them from ComfyUI's temporary folder.
"""

import shutil
from pathlib import Path

import folder_paths

from .folders import PACK_ROOT
from .progress import log

DEMO_INPUTS = {
    f"liveavatar_{name}": name for name in ("portrait.png", "voice.wav", "two_people.png", "conversation.wav")
}
"""Names in the templates, and in `demo/`."""
IN_TEMPORARY_FOLDER = " [temp]"
"""How ComfyUI marks a name in its temporary folder."""


def provide_demo_inputs() -> None:
    """Puts what is absent into the input folder; a folder that cannot be written is logged and stops nothing."""
    inputs = Path(folder_paths.get_input_directory())
    for name in DEMO_INPUTS:
        try:
            _copy_demo_file(name, inputs)
        except OSError as error:
            log.warning(
                "The demo's %s is not in ComfyUI's input folder and cannot be put there (%s). The workflow templates "
                "run all the same; their Load nodes show it as missing.",
                name,
                error,
            )


def answer_prompts() -> None:
    """From now on prompts find the demo's files also when the input folder has none."""
    from server import PromptServer

    PromptServer.instance.add_on_prompt_handler(with_demo_inputs)


def with_demo_inputs(request: dict[str, object]) -> dict[str, object]:
    """What a client posts to /prompt; names of demo files that the input folder lacks become those of copies."""
    prompt = request.get("prompt")
    nodes = prompt.values() if isinstance(prompt, dict) else ()
    for inputs in (node["inputs"] for node in nodes if isinstance(node, dict) and isinstance(node.get("inputs"), dict)):
        for widget, value in inputs.items():
            if isinstance(value, str) and value in DEMO_INPUTS and not folder_paths.exists_annotated_filepath(value):
                _copy_demo_file(value, Path(folder_paths.get_temp_directory()))
                inputs[widget] = value + IN_TEMPORARY_FOLDER
    return request


def _copy_demo_file(name: str, folder: Path) -> None:
    """Copies a file of the demo unless it is there. A copy that fails leaves nothing behind."""
    target = folder / name
    if target.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_name(name + ".part")
    try:
        shutil.copyfile(PACK_ROOT / "demo" / DEMO_INPUTS[name], part)
        part.replace(target)
    finally:
        if part.is_file():
            part.unlink()
