"""Runs the short-clip workflow in a ComfyUI of its own and says where the video is. scripts/run_demo.py calls it."""

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comfy_client import ComfyError, Event, Prompt, RunResult, node_title
from comfy_server import ROOT, ComfyServer, make_base, port_is_free
from comfy_workflow import WorkflowError, nodes_of, set_input, to_prompt

DEFAULT_WORKFLOW = ROOT / "workflows" / "short_clip.json"
LIVE_WORKFLOW = ROOT / "workflows" / "live_talk.json"
DEFAULT_PORT = 8188
VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".mov")
# The command's options and the inputs that they set: (option, node class, input name).
FILE_OPTIONS = [("image", "LoadImage", "image"), ("audio", "LoadAudio", "audio")]
VALUE_OPTIONS = [
    ("prompt", "CLIPTextEncode", "text"),
    ("num_clip", "LiveAvatar_ClipScheduler", "num_clip"),
]
LOADER = "LiveAvatar_LoadAvatarModel"
# Loaders of single files -> the output of Load Avatar Model that a whole model folder gives instead.
PARTS = {"CLIPLoader": 1, "VAELoader": 2, "AudioEncoderLoader": 3}
BUNDLE_MARK = "/"


class Problem(Exception):
    """Something the user can put right; its text is all that is shown."""


def existing_file(text: str) -> Path:
    """An argument that names a readable file, as an absolute path."""
    path = Path(text).expanduser()
    if not path.is_file():
        kind = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise argparse.ArgumentTypeError(f"{path.absolute()} {kind}")
    if path.stat().st_size == 0:
        raise argparse.ArgumentTypeError(f"{path.absolute()} is empty")
    return path.resolve()


def output_folder(text: str) -> Path:
    path = Path(text).expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a file, not a folder")
    return path


def clip_count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of clips: give 1 or more, or 0 to follow the voice")
    return int(text)


def video_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: give WIDTHxHEIGHT, such as 688x368")
    return int(match[1]), int(match[2])


def port_number(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: give a number from 1 to 65535")
    return int(text)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bash scripts/demo.sh",
        description="Makes a talking-avatar video with the demo model in a ComfyUI of its own.",
    )
    parser.add_argument("--image", type=existing_file, metavar="FILE", help="the picture (default: the demo portrait)")
    parser.add_argument("--audio", type=existing_file, metavar="FILE", help="the voice (default: the demo voice)")
    parser.add_argument("--prompt", metavar="TEXT", help="what the picture shows and does")
    parser.add_argument(
        "--num-clip",
        type=clip_count,
        metavar="N",
        help="clips to make; 0: as many as the voice needs (default: the workflow's)",
    )
    parser.add_argument("--model", metavar="NAME", help="another model: a file, or a folder (NAME/) with all parts")
    parser.add_argument("--size", type=video_size, metavar="WxH", help="width and height of the video")
    parser.add_argument("--output", type=output_folder, metavar="DIR", help="folder for the video")
    parser.add_argument("--workflow", type=existing_file, metavar="FILE", help="another workflow than short_clip.json")
    parser.add_argument("--serve", action="store_true", help="keep ComfyUI running afterwards and print its address")
    parser.add_argument(
        "--live", action="store_true", help="speak with the avatar: runs live_talk.json and prints its page's address"
    )
    parser.add_argument(
        "--port", type=port_number, metavar="N", help=f"its port (with --serve and --live: {DEFAULT_PORT})"
    )
    # Given by run_demo.py.
    parser.add_argument("--comfyui", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.port = options.port or (DEFAULT_PORT if options.serve or options.live else None)
    if options.port and not port_is_free(options.port):
        parser.error(f"port {options.port} is in use: choose another with --port, or stop what listens there")
    return options


def has_accelerator() -> bool:
    """Whether PyTorch sees a device other than the processor, asked in another process to keep its memory free."""
    kinds = ("torch.cuda.is_available()", "torch.backends.mps.is_available()", "torch.xpu.is_available()")
    code = f"import sys, torch; sys.exit(not ({' or '.join(kinds)}))"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def apply_options(prompt: Prompt, options: argparse.Namespace, input_folder: Path) -> None:
    """Puts the command's options into the prompt and the files it names into the input folder."""
    for option, class_type, name in FILE_OPTIONS:
        file: Path | None = getattr(options, option)
        if file:
            shutil.copyfile(file, input_folder / file.name)
            set_input(prompt, class_type, name, file.name)
    for option, class_type, name in VALUE_OPTIONS:
        if getattr(options, option) is not None:
            for node_id in nodes_of(prompt, class_type):
                prompt[node_id]["inputs"][name] = getattr(options, option)
    if options.model:
        use_model(prompt, options.model)
    if options.size:
        width, height = options.size
        for node_id in nodes_of(prompt, "LiveAvatar_ClipScheduler"):
            prompt[node_id]["inputs"] |= {"size": "custom", "width": width, "height": height, "keep_aspect": False}


def use_model(prompt: Prompt, name: str) -> None:
    """Loads another model; a whole folder also takes the place of the loaders of single files.

    Raises WorkflowError when there is not exactly one Load Avatar Model.
    """
    set_input(prompt, LOADER, "model", name)
    if not name.endswith(BUNDLE_MARK):
        return
    set_input(prompt, LOADER, "lora", "auto")
    (loader,) = nodes_of(prompt, LOADER)
    replaced = {node_id: PARTS[node["class_type"]] for node_id, node in prompt.items() if node["class_type"] in PARTS}
    for node_id in replaced:
        del prompt[node_id]
    for node in prompt.values():
        for input_name, value in node["inputs"].items():
            if isinstance(value, list) and value[0] in replaced:
                node["inputs"][input_name] = [loader, replaced[value[0]]]


class Progress:
    """Prints what the server does: the node's name and its share done, live on a terminal, else in steps of 10 %."""

    def __init__(self, prompt: Prompt):
        self.prompt = prompt
        self.live = sys.stdout.isatty()
        self.shown: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        if event.kind == "progress_state":
            for state in event.data["nodes"].values():
                self.show(event.seconds, state["display_node_id"], 100 * state["value"] / max(state["max"], 1e-9))
        elif event.kind == "executed":
            for note in (event.data.get("output") or {}).get("liveavatar_notes", []):
                self.line(event.seconds, str(event.node), note, "\n")
        elif event.kind == "text" and event.data.strip():
            self.line(event.seconds, str(event.node), event.data.strip().splitlines()[-1], "\n")

    def show(self, seconds: float, node_id: str, percent: float) -> None:
        step = int(percent) if self.live else int(percent) // 10 * 10
        # Less than before is news too: a node that handed over a lazy stream works again when it is read.
        if self.shown.get(node_id) == step:
            return
        self.shown[node_id] = step
        self.line(seconds, node_id, f"{step:3d} %", "\n" if step >= 100 or not self.live else "")

    def line(self, seconds: float, node_id: str, text: str, end: str) -> None:
        start = "\r\x1b[K" if self.live else ""
        print(f"{start}  {seconds:6.1f} s  {node_title(self.prompt, node_id)}: {text}", end=end, flush=True)


def video_files(result: RunResult, server: ComfyServer) -> Iterator[Path]:
    """Absolute paths of the videos among a run's outputs."""
    seen: set[Path] = set()
    for shown in result.outputs.values():
        for entries in shown.values():
            for entry in entries if isinstance(entries, list) else []:
                if not (isinstance(entry, dict) and str(entry.get("filename")).endswith(VIDEO_SUFFIXES)):
                    continue
                folder = server.output if entry.get("type", "output") == "output" else server.base / entry["type"]
                path = (folder / entry.get("subfolder", "") / entry["filename"]).resolve()
                if path not in seen:
                    seen.add(path)
                    yield path


def describe_video(path: Path) -> str:
    """Size, length, frames and format of a video file."""
    import av

    with av.open(str(path)) as container:
        video = container.streams.video[0]
        frames = video.frames or sum(1 for _ in container.decode(video))
        fps = float(video.average_rate or 0)
        sound = "with sound" if container.streams.audio else "no sound"
        length = f"{frames / fps:.2f} s, {frames} frames at {fps:g} fps" if fps else f"{frames} frames"
        return f"{path.stat().st_size / 1e6:.2f} MB, {length}, {video.width}x{video.height}, {sound}"


def run_in(server: ComfyServer, options: argparse.Namespace) -> None:
    """Runs the workflow on a started server and prints the result. Raises Problem."""
    default = LIVE_WORKFLOW if options.live else DEFAULT_WORKFLOW
    workflow: dict[str, Any] = json.loads((options.workflow or default).read_text(encoding="utf-8"))
    prompt = to_prompt(workflow, server.client.object_info())
    apply_options(prompt, options, server.input)
    print("Running the workflow:", flush=True)
    result = server.client.run(prompt, workflow=workflow, on_event=Progress(prompt), timeout=7 * 24 * 3600)
    result.raise_for_error()
    files = list(video_files(result, server))
    if not files and not options.live:
        raise Problem("The run ended without a video.")
    for path in files:
        print(f"\n{path}\n  {describe_video(path)}; made in {result.seconds:.1f} s", flush=True)


def main(arguments: list[str]) -> int:
    options = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # An exit stops the server, a plain end would not.
    output = options.output or options.base.absolute() / "output"
    output.mkdir(parents=True, exist_ok=True)
    cpu = not has_accelerator()
    print(f"Starting ComfyUI{' on the processor: no GPU was found' if cpu else ''} ...", flush=True)
    start = time.monotonic()
    base = make_base(options.base.absolute())
    try:
        comfyui = options.comfyui.resolve()
        with ComfyServer(
            comfyui, base, port=options.port, cpu=cpu, output=output, may_play_pieces=options.live
        ) as server:
            print(f"  {time.monotonic() - start:6.1f} s  ready at {server.url}", flush=True)
            run_in(server, options)
            if options.serve:
                print(f"\nComfyUI keeps running at {server.url} (Ctrl+C stops it). Log: {server.log}", flush=True)
                server.wait()
    except (ComfyError, WorkflowError, Problem) as error:
        print(f"\nerror: {error}\n(ComfyUI's log: {base / 'server.log'})", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
