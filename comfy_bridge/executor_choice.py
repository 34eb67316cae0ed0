"""The executor of a run: the one that the user chose, or what `auto` stands for with this plan on these devices."""

from liveavatar_runtime.devices import AUTO
from liveavatar_runtime.planning.memory import KVCacheChoice, KVTypeChoice
from liveavatar_runtime.sampling.plan import ClipPlan

from .avatar import AvatarModel
from .memory import free_ram
from .stage_models import decoder_bytes, device_shares, own_place, timed_work, usable_memory
from .vae import StreamingVAE


def executor_for(
    model: AvatarModel, plan: ClipPlan, vae: StreamingVAE, kv_cache: KVCacheChoice, kv_dtype: KVTypeChoice
) -> tuple[str, str]:
    """Its name, and for the node why `auto` chose it; nothing when the user did."""
    if model.workers is not None or model.executor != AUTO:
        return model.executor, ""
    from liveavatar_runtime.planning.choice import Place, Places, choose_executor
    from liveavatar_runtime.planning.machines import RTX_4090
    from liveavatar_runtime.planning.measured import stages_beside
    from liveavatar_runtime.planning.memory import placements_of

    devices, home = model.devices, vae.patcher.load_device
    beside, sharing = decoder_bytes(vae, plan), stages_beside(devices)
    one_device = sharing[0] == len(devices)
    timed = timed_work(model, plan, not one_device)
    # Where nothing was measured, only how the work compares with the links depends on the rate.
    rates = [speed * (timed.rate or RTX_4090.flops) for speed in timed.speeds]
    decoder = devices.index(home) if home in devices else None
    shares = [size + beside * (number == decoder) for number, size in enumerate(device_shares(devices, vae, plan))]
    places = Places(
        stages=[Place(size, rate) for size, rate in zip(shares, rates, strict=True)],
        alone=Place(usable_memory(devices[0]), rates[0] * sharing[0]),
        one_device=one_device,
        decoder=decoder,
        decoder_bytes=beside,
        # The weights are in RAM already, wherever they go from there.
        ram=free_ram() + model.patcher.model_size(),
    )
    choice = choose_executor(timed.work, places, placements_of(own_place(kv_cache, devices), kv_dtype))
    return choice.executor, str(choice)
