"""Live Out at work: blocks become a stream for viewers, and a recording if it is wanted, until somebody stops it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import folder_paths
from comfy_api.latest import InputImpl, ui

from liveavatar_runtime.duration import FRAMES_PER_BLOCK
from liveavatar_runtime.errors import InputError

from ..decoder_choice import DecoderChoice, ManagedDecoder, managed_decoder, open_decoder
from ..folders import temporary_folder
from ..notes import Notes
from ..output_files import OutputFile, claimed, expanded_prefix, metadata_of, output_file
from ..progress import between_steps, show_text, stop_if_interrupted
from .addresses import page_address
from .latents import LiveLatents
from .report import LiveReport
from .session import running_session
from .viewers import LiveViewers, open_live_stream

if TYPE_CHECKING:
    from liveavatar_runtime.live.packets import OutputKind
    from liveavatar_runtime.media.video import AudioTrack, PictureTrack, VideoWriter

    from ..comfy_types import Hidden, Vae

RECORDING_CRF = 18


@dataclass(frozen=True)
class OutSettings:
    """Live Out's widgets."""

    record: bool
    filename_prefix: str
    crf: int
    push: str


@dataclass(frozen=True, eq=False)
class LiveResult:
    """The recording as a VIDEO and what the node shows of it, None where nothing was recorded; tables in Markdown."""

    video: InputImpl.VideoFromFile | None
    preview: ui.PreviewVideo | None
    report: str


def push_targets() -> dict[str, str]:
    """Names and addresses in the user folder. Raises InputError for a file that cannot be read."""
    from liveavatar_runtime.live.push import read_push_targets

    return read_push_targets(Path(folder_paths.get_user_directory()))


def check_push(name: str) -> None:
    """Raises InputError for a name that is none of `push_targets`."""
    from liveavatar_runtime.live.push import TARGETS_FILE

    if name and name not in (targets := push_targets()):
        known = ", ".join(targets) or "none"
        raise InputError(
            f"push is {name!r}, and {TARGETS_FILE} in ComfyUI's user folder names {known}. Add it there: "
            '{"my channel": "rtmp://..."}'
        )


def check_no_other(_: object) -> None:
    """Raises InputError while another session runs."""
    session = running_session()
    if session is not None:
        raise InputError(
            f"a live session is running: {page_address(session)}. Stop it there, or cancel its run, and queue again; "
            "one machine shows one avatar at a time."
        )


def show_live(
    latents: LiveLatents, vae: "Vae | None", settings: OutSettings, hidden: "Hidden", notes: Notes
) -> LiveResult:
    """Runs until the session is stopped. Raises InputError for settings, MachineError for what the machine cannot do;
    however it ends, the recording plays, its report is beside it and the session is over."""
    plan, session = latents.stream.plan, latents.session
    decoder = managed_decoder(vae)
    check_push(settings.push)
    file = None
    if settings.record:
        prefix = expanded_prefix(settings.filename_prefix, hidden.prompt, notes)
        file = output_file(prefix, plan.width, plan.height, "mp4")
    report = LiveReport(session, plan, file)
    show_text(hidden.unique_id, f"Live page: {page_address(session)}")
    failed: list[str] = []
    with ExitStack() as stack:
        stack.callback(session.end)
        if file is not None:
            stack.enter_context(claimed(file.path))
        stack.callback(lambda: failed.extend(report.write()))
        _run(_Show(latents, settings, hidden, file), decoder)
    notes.warn(*latents.stream.news, *session.told, *report.warnings(), *failed)
    notes.tell(*report.told(), *latents.stream.facts)
    if file is None or not file.path.is_file():
        return LiveResult(None, None, report.markdown())
    return LiveResult(file.as_video(hidden.unique_id), file.shown(), report.markdown())


@dataclass(frozen=True, eq=False)
class _Show:
    latents: LiveLatents
    settings: OutSettings
    hidden: "Hidden"
    file: OutputFile | None

    @contextmanager
    def recording(self) -> "Iterator[VideoWriter | None]":
        """What writes the recording, if there is one; a failure of it is told, and the live video goes on."""
        from liveavatar_runtime.media.video import VideoWriter

        if self.file is None:
            yield None
            return
        plan, voice = self.latents.stream.plan, self.latents.session.voice
        picture, sound = _tracks(plan.width, plan.height, plan.fps, RECORDING_CRF, voice.channels)
        with VideoWriter(self.file.path, picture, sound, metadata_of(self.hidden)) as writer:
            yield writer


def _run(show: _Show, decoder: ManagedDecoder) -> None:
    """Everything that is opened here is closed however it ends; the state of the stream is kept by then."""
    from liveavatar_runtime.live.writer import LiveWriter, WriterHooks
    from liveavatar_runtime.online_video import Hooks, OnlineVideo, Output, WriteOptions, write_online

    stream, session = show.latents.stream, show.latents.session
    plan, latency, node_id = stream.plan, session.latency, show.hidden.unique_id
    video = OnlineVideo(show.file.path if show.file is not None else Path())

    def on_written(frames: int) -> None:
        if latency is not None:
            latency.written(frames // FRAMES_PER_BLOCK - 1)

    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder())
        shown = latency.shown if latency is not None else lambda second, at: None
        viewers = open_live_stream(session.id, show.hidden, (plan.width, plan.height), folder / "hls", shown)
        stack.callback(viewers.end)
        start = "hold" if stream.first_block == 0 else None
        chosen = DecoderChoice(decoder, told=decoder.told)
        opened = stack.enter_context(open_decoder(chosen, stream, start, node_id))
        recording = stack.enter_context(show.recording())
        picture, sound = _tracks(plan.width, plan.height, plan.fps, show.settings.crf, session.voice.channels)
        hooks = WriterHooks(session.say, on_written)
        writer = stack.enter_context(
            LiveWriter(picture, sound, _outputs(show, viewers, folder / "hls"), hooks, recording)
        )
        session.begin()
        options = WriteOptions(hooks=Hooks(lambda done, total: None, stop_if_interrupted, between_steps))
        write_online(stream, opened, session.voice, Output(writer, video), options)


def _outputs(show: _Show, viewers: LiveViewers, folder: Path) -> "list[OutputKind]":
    from liveavatar_runtime.live.fragments import Fragments
    from liveavatar_runtime.live.hls import HlsWindow
    from liveavatar_runtime.live.push import Push

    name = show.settings.push
    pushed = [Push(name, push_targets()[name])] if name else []
    return [Fragments(viewers.add), HlsWindow(folder), *pushed]


def _tracks(width: int, height: int, fps: Fraction, crf: int, channels: int) -> "tuple[PictureTrack, AudioTrack]":
    from liveavatar_runtime.live.samples import SOUND_RATE
    from liveavatar_runtime.media.video import AudioTrack, PictureTrack

    return PictureTrack(width, height, fps, crf=crf), AudioTrack(SOUND_RATE, channels)
