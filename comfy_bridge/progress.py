"""What a user sees of a node at work, and the button that interrupts it."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.utils
from comfy_execution.progress import get_progress_state
from PIL.Image import Image
from torch import Tensor

from liveavatar_runtime.progress import Progress
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import Evaluation

log = logging.getLogger("LiveAvatar")


def stop_if_interrupted() -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()


def show_text(node_id: str, text: str) -> None:
    """Show a text on a node while it runs, and in the log."""
    from server import PromptServer

    # A file's name may have bytes that are no text, which nobody can encode.
    text = text.encode(errors="backslashreplace").decode()
    log.info("%s", text)
    if PromptServer.instance is not None:
        PromptServer.instance.send_progress_text(text, node_id)


Preview = tuple[str, Image, int]
"""A format, a picture and the longest side that the page gets."""


class NodeProgress:
    """Progress of work that is done for a node, even while another one executes."""

    def __init__(self, node_id: str, total: int) -> None:
        self._node_id, self._total = node_id, total
        self._bar = comfy.utils.ProgressBar(total, node_id=node_id)

    def advance_to(self, done: int, preview: "Preview | None" = None) -> None:
        """Raises ComfyUI's interruption when the user has pressed the button."""
        stop_if_interrupted()
        self._bar.update_absolute(done, self._total, preview)
        if done >= self._total:
            get_progress_state().finish_progress(self._node_id)


def preparation(node_id: str, text: str = "") -> Progress:
    """A bar on the node as soon as it is known how long it is, with a text; stops if interrupted."""
    bars: list[NodeProgress] = []

    def advance(done: int, total: int) -> None:
        if not bars:
            if text:
                show_text(node_id, text)
            bars.append(NodeProgress(node_id, total))
        bars[0].advance_to(done)

    return advance


_BETWEEN_STEPS: list[Callable[[], None]] = []


@contextmanager
def between_steps(call: Callable[[], None]) -> Iterator[None]:
    """Calls something after each sampling step, of whatever sampler is running; what it raises ends the sampling."""
    _BETWEEN_STEPS.append(call)
    with ExitStack() as stack:
        stack.callback(_BETWEEN_STEPS.remove, call)
        yield


def after_step() -> None:
    """What is to be called after a sampling step is called."""
    for call in tuple(_BETWEEN_STEPS):
        call()


class SamplingProgress:
    """Steps and previews of a stream, reported on the sampler's node."""

    PREVIEW_SIZE = 512

    def __init__(self, node_id: str, plan: ClipPlan, colours: Tensor, on_step: Callable[[Evaluation], None]) -> None:
        """colours: factors and bias [17, 3] of the VAE in use (`ManagedVAE.colours`)."""
        from latent_preview import Latent2RGBPreviewer

        self._previewer = Latent2RGBPreviewer(colours[:-1].tolist(), colours[-1].tolist())
        self._progress = NodeProgress(node_id, plan.evaluations)
        self._steps, self._on_step = plan.steps, on_step

    def __call__(self, evaluation: Evaluation) -> None:
        last = evaluation.step == self._steps - 1
        preview = self._preview(evaluation.clean()) if last else None
        self._on_step(evaluation)
        self._progress.advance_to(evaluation.block * self._steps + evaluation.step + 1, preview)
        after_step()

    def _preview(self, latents: Tensor) -> Preview:
        """A picture of the block's last latent frame, without a VAE."""
        return "JPEG", self._previewer.decode_latent_to_preview(latents[None, :, -1:].float().cpu()), self.PREVIEW_SIZE
