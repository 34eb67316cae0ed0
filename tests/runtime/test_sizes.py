"""What DiT Sampler says of a size: the final one, the crop, and which choices make no difference."""

import math

import pytest

from liveavatar_runtime.media.images import fit_size
from liveavatar_runtime.planning.sizes import cropped, next_size, size_notes
from liveavatar_runtime.sampling.plan import ClipPlan


@pytest.mark.parametrize("asked", [(672, 352), (688, 368), (704, 384)])
def test_choices_that_give_the_same_size_say_so(asked):
    width, height = asked
    warnings, facts = size_notes(ClipPlan(width=width, height=height), 1000, 1500)
    assert warnings == [] and facts[0].startswith(f"keep_aspect makes 576x384 of {width}x{height} for this picture")
    assert "Width and height of 576x384 give the same; the next larger size is 640x448" in facts[0]
    assert facts[1] == "nothing of the picture is cropped"


def test_what_is_said_of_other_sizes_is_true():
    for rows, columns in ((1000, 1500), (1080, 1920), (512, 512), (1920, 1080), (768, 1024), (333, 1000)):
        for width, height in ((384, 256), (688, 368), (832, 480), (1280, 720)):
            final = fit_size(rows, columns, width * height)
            assert fit_size(rows, columns, math.prod(final)) == final
            larger = next_size(rows, columns, *final)
            assert (
                larger and math.prod(larger) > math.prod(final) and fit_size(rows, columns, math.prod(larger)) == larger
            )


def test_a_large_crop_is_warned_of_with_a_size_that_crops_less():
    warnings, _ = size_notes(ClipPlan(width=672, height=352), 1080, 1920)
    assert warnings == [
        "16% of the picture's width is cropped: with keep_aspect both sides are multiples of 64, here 576x384. "
        "keep_aspect off with 640x368 crops 2%, or crop the picture yourself"
    ]
    assert cropped(1080, 1920, 368, 640)[1] == pytest.approx(0.0217, abs=1e-3)


def test_an_exact_size_is_cropped_as_asked():
    plan = ClipPlan(width=688, height=368, keep_aspect=False)
    assert size_notes(plan, 512, 512) == ([], ["47% of the picture's height is cropped (keep_aspect is off)"])
    assert size_notes(plan, 368, 688) == ([], [])
    assert cropped(200, 100, 100, 100) == ("height", 0.5) and cropped(100, 200, 100, 100) == ("width", 0.5)
