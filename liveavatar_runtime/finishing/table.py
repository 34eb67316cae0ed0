"""All kinds of steps."""

from .background import ReplaceBackground
from .colours import MatchColours
from .frame_rate import MultiplyFrames
from .step import FinishingStep
from .upscale import Upscale

STEPS: tuple[type[FinishingStep], ...] = (Upscale, MatchColours, ReplaceBackground, MultiplyFrames)
