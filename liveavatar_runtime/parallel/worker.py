"""One rank of a group of workers: python -m liveavatar_runtime.parallel.worker, under torchrun or the launcher.

All ranks load the model and wait; rank 0 listens for ComfyUI, and what it is asked for all ranks do together.
"""

import argparse
import os
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ..aligned import align_weights
from ..checkpoint.known_hashes import KnownHashes
from ..checkpoint.offload import move
from ..checkpoint.transformer import load_transformer
from ..config import AvatarConfig
from ..dit.model import CausalWanS2V
from ..errors import InputError
from ..sampling.block_loop import Evaluation
from .channel import LOOPBACK, SHORTEST_TOKEN, TOKEN_VARIABLE, Listener, Message, dtype_name, parse_address
from .create import PRECISIONS_IN_WORKERS
from .decoder_rank import serve_decoder
from .decoder_relay import DecoderRelay
from .desk import Cancelled, Desk
from .devices import EXECUTORS, FSDP, LAYER_PIPELINE, check_groups, parse_devices
from .executor import Executor, Run
from .held import cache_bytes, measured, parameter_bytes
from .job import Job
from .local import LocalExecutor
from .parent import die_with_parent, when_input_ends
from .pipeline_worker import PipelinePart, PipelineWorker, send_block
from .rank_layers import agree_on_layers
from .ranks import LINGER_SECONDS, Progress, Rank, Watch
from .schedule import LayerSchedule, TimestepSchedule, split_steps
from .stage_model import share_of
from .store import LISTENING_KEY, open_store
from .weights_key import weights_key


@dataclass(frozen=True)
class Loaded:
    """What runs jobs on this rank, its model, and the bytes of weights that it holds for it."""

    executor: Executor | PipelinePart
    config: AvatarConfig
    dtype: torch.dtype
    bytes: int


Load = Callable[[argparse.Namespace, Rank], Loaded]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("liveavatar_runtime.parallel.worker", description=__doc__)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="model file or folder, on every machine")
    add("--lora", nargs=2, action="append", default=[], metavar=("FILE", "STRENGTH"), help="merged while loading")
    add(
        "--precision",
        choices=PRECISIONS_IN_WORKERS,
        default="auto",
        help="auto: the file's, bf16 for fp32 files; fp32 on the processor",
    )
    add("--executor", choices=[name for name in EXECUTORS if name not in ("auto", "local")], default=FSDP)
    add("--devices", default="auto", help="this machine's, one for each of its ranks, such as cuda:0,cuda:1")
    add("--vae", type=Path, help="VAE file, on the last rank's machine; that rank decodes instead of sampling")
    add("--hashes", type=Path, help="folder that remembers hashes of weight files, so that each is read for them once")
    add("--disable-mmap", action="store_true", help="read weight files into memory instead of mapping them")
    add("--offload", action="store_true", help="keep the weights in system memory between their uses")
    add("--listen", default=f"{LOOPBACK}:0", help="address at which rank 0 listens for ComfyUI")
    add("--token-file", type=Path, help=f"file with the secret of the connection (or variable {TOKEN_VARIABLE})")
    add("--join-timeout", type=float, default=120.0, help="seconds to wait for all ranks")
    add("--stall-timeout", type=float, help="seconds without progress that count as a hang (default: measured)")
    add("--store-port", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None, load: Load | None = None) -> None:
    """Runs until it is ended; `load` makes the executor. Raises InputError where no group can run."""
    options = parse(arguments)
    check_groups(options.executor)
    die_with_parent()
    if options.store_port is not None:
        when_input_ends(lambda: os._exit(1))
    rank = open_rank(options)
    watched = False
    try:
        desk = open_desk(options, rank)
        Watch(rank, desk.tell if desk else print).start()
        watched = True
        rank.join(options.join_timeout)
        if rank.decodes:
            serve_decoder(rank, options.vae, token_of(options), mapped=not options.disable_mmap)
        loaded = (load or load_executor)(options, rank)
        serve(rank, desk, loaded, options)
    except BaseException as error:
        traceback.print_exc()
        failure = rank.failure(error)
        if rank.leads and not watched:
            # Nobody could be told over the connection; the launcher reads the report.
            rank.post(failure)
            os._exit(1)
        rank.report(failure)
        # The watch of rank 0 ends it as soon as ComfyUI knows why.
        time.sleep(LINGER_SECONDS if rank.leads or failure.consequence else 0)
        os._exit(1)


def open_rank(options: argparse.Namespace) -> Rank:
    """This process in the group that elastic describes in the environment."""
    number, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    devices = parse_devices(options.devices)
    device = devices[local % len(devices)]
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = open_store(options.store_port)
    decoders = 0 if options.vae is None else 1
    rank = Rank(number, size - decoders, device, store, Progress(options.stall_timeout), decoders)
    store.set(f"where/{number}", rank.where)
    return rank


def open_desk(options: argparse.Namespace, rank: Rank) -> Desk | None:
    """On rank 0, begin to listen for ComfyUI. Raises MachineError when the address is taken."""
    if not rank.leads:
        return None
    token = token_of(options)
    if rank.size < 1:
        raise InputError("--vae takes the last rank, and there is one only; start one more rank")
    listener = Listener(*parse_address(options.listen))
    rank.store.set(LISTENING_KEY, str(listener.port))
    desk = Desk(listener, token)
    desk.open()
    return desk


def token_of(options: argparse.Namespace) -> str:
    """Raises InputError when it is missing or too short."""
    token = (
        options.token_file.read_text(encoding="utf-8-sig").strip()
        if options.token_file
        else os.environ.get(TOKEN_VARIABLE, "")
    )
    if len(token) < SHORTEST_TOKEN:
        raise InputError(f"the token has {len(token)} characters; give --token-file a file with {SHORTEST_TOKEN}")
    return token


def loras_of(options: argparse.Namespace) -> list[tuple[Path, float]]:
    return [(Path(path), float(strength)) for path, strength in options.lora]


def load_executor(options: argparse.Namespace, rank: Rank) -> Loaded:
    """The model of the options, for this rank's part in the executor."""
    dtype = PRECISIONS_IN_WORKERS[options.precision]
    if dtype is None and rank.device.type == "cpu":
        dtype = torch.float32
    model = load_transformer(options.model, loras_of(options), dtype, mapped=not options.disable_mmap)
    computes_in = next(model.blocks.parameters()).dtype
    if dtype is None and computes_in == torch.float32:
        computes_in = torch.bfloat16
        model = model.to(computes_in)
    for layer in model.blocks:
        layer.register_forward_pre_hook(lambda *_: rank.progress.mark())
    executor: Executor | PipelinePart
    if options.executor == FSDP:
        # Not above: FSDP is imported by those who use it only, as it takes a second.
        from .fsdp import shard

        # There is nothing to share with one rank.
        model = move(model, rank.device) if rank.size == 1 else shard(model, mesh_of(rank), options.offload)
        executor = LocalExecutor(model, rank.device, computes_in)
    else:
        executor = pipeline_part(options.executor, model, rank, computes_in)
        model = executor.model
    # Only now, when this rank's part is all that is left of the mapped weights.
    align_weights(model, rank.device)
    return Loaded(executor, model.config, computes_in, parameter_bytes(model))


def mesh_of(rank: Rank) -> DeviceMesh:
    return init_device_mesh(rank.device.type, (rank.size,))


def pipeline_part(name: str, model: CausalWanS2V, rank: Rank, dtype: torch.dtype) -> PipelinePart:
    """This rank's stage: its layers of the model, or its steps of the whole model."""
    if name == LAYER_PIPELINE:
        layers = agree_on_layers(rank, rank.size, model.config, dtype)
        part = move(share_of(model, layers[rank.number]), rank.device)
        return PipelinePart(part, dtype, lambda plan: LayerSchedule(layers, plan.steps))
    layer_count, ranks = model.config.num_layers, rank.size
    return PipelinePart(
        move(model, rank.device), dtype, lambda plan: TimestepSchedule(layer_count, split_steps(plan.steps, ranks))
    )


def serve(rank: Rank, desk: Desk | None, loaded: Loaded, options: argparse.Namespace) -> None:
    """Do what ComfyUI asks for, one thing after the other, on all ranks together."""
    rank.store.set(f"bytes/{rank.number}", str(loaded.bytes))
    if desk is not None:
        names = [(rank.store.get(f"where/{n}").decode(), int(rank.store.get(f"bytes/{n}"))) for n in range(rank.size)]
        about = {
            "executor": options.executor,
            "config": loaded.config.to_dict(),
            "dtype": dtype_name(loaded.dtype),
        }
        about["vae"] = open_relay(rank, desk, options).about if rank.decoders else None
        about["key"] = weights_key(options.model, loras_of(options), KnownHashes(options.hashes))
        desk.ready({**about, "ranks": [{"where": where, "bytes": size} for where, size in names]})
    executor = loaded.executor
    pipeline = PipelineWorker(rank, desk, executor) if isinstance(executor, PipelinePart) else None
    run: Run | None = None
    last = -1
    while True:
        message = rank.share(desk.next_request() if desk else None)
        if message.type in ("run", "release") and run is not None:
            run.close()
            run = None
        if message.type == "run":
            session = Session(rank, desk, message.header["number"])
            with rank.progress.expected(True):
                run, last = session.run(executor, pipeline, message)
        elif message.type == "rings" and desk is not None:
            # ComfyUI may have interrupted while the next block was already on its way to it.
            wanted = run is not None and message.header["after"] == last
            rings = run.rings() if run is not None and wanted else None
            send_rings(desk, message.header["number"], rings)


def open_relay(rank: Rank, desk: Desk, options: argparse.Namespace) -> DecoderRelay:
    """On the address over which ranks find each other."""
    host = LOOPBACK if options.store_port is not None else os.environ.get("MASTER_ADDR", LOOPBACK)
    return DecoderRelay(rank, desk, host, token_of(options))


def send_rings(desk: Desk, number: int, rings: Mapping[str, Tensor] | None) -> None:
    """Announce their number, then one message for each tensor."""
    desk.send({"type": "rings", "number": number, "count": None if rings is None else len(rings)})
    for name, tensor in (rings or {}).items():
        desk.send({"type": "ring", "number": number}, {name: tensor})


@dataclass(frozen=True)
class Session:
    """One run, on one rank; `desk` on rank 0. It is the run's voice: `frames` asks ComfyUI for it."""

    rank: Rank
    desk: Desk | None
    number: int

    def run(
        self, executor: Executor | PipelinePart, pipeline: PipelineWorker | None, message: Message
    ) -> tuple[Run | None, int]:
        """Sends all blocks that ComfyUI wants; returns the run if it still has its rings, and its last block."""
        run: Run | None = None
        last = -1
        try:
            job = Job.from_messages(message, self._receive_rings(message.header["rings"]))
            if isinstance(executor, PipelinePart):
                assert pipeline is not None
                pipeline.run(job)
                return None, last
            if isinstance(executor, LocalExecutor):
                executor = LocalExecutor.placed(executor.model, executor.device, executor.dtype, job.placement)
                executor = replace(executor, make_cache=measured(self.rank, executor.make_cache))
            run = executor.run(
                job.conditions(self), job.plan, job.start(), self._after_step, lambda block: block in job.kept_rings
            )
            for index in range(job.first_block, job.plan.num_blocks):
                self._wait_until_wanted(index)
                block = next(run)
                last = block.index
                if self.desk is not None:
                    caches = cache_bytes(self.rank, self.rank.size) if index == job.first_block else None
                    send_block(self.desk, job, block.index, block.latents, block.rings, caches)
                self.rank.progress.settle()
            self._send({"type": "end"})
        except Cancelled:
            self._send({"type": "cancelled"})
        except InputError as error:
            self._send({"type": "refused", "message": str(error)})
        return run, last

    def frames(self, first: int, count: int) -> Tensor:
        """Voice features, from ComfyUI; all ranks ask for the same ones in the same order."""
        return self._share(lambda desk: Message({}, {"audio": desk.audio(self.number, first, count)})).tensors["audio"]

    def _receive_rings(self, count: int | None) -> dict[str, Tensor] | None:
        if count is None:
            return None
        messages = [self._share(lambda desk: desk.next_ring(self.number)) for _ in range(count)]
        return {name: tensor for message in messages for name, tensor in message.tensors.items()}

    def _wait_until_wanted(self, block: int) -> None:
        def wait(desk: Desk) -> Message:
            desk.wait_until_wanted(self.number, block)
            return Message({})

        self._share(wait)

    def _share(self, ask: Callable[[Desk], Message]) -> Message:
        """What rank 0 gets from ComfyUI, on all ranks. Raises Cancelled on all of them."""
        with self.rank.progress.expected(False):
            message: Message | None = None
            if self.desk is not None:
                try:
                    message = ask(self.desk)
                except Cancelled:
                    message = Message({"type": "cancelled"})
            message = self.rank.share(message)
        if message.type == "cancelled":
            raise Cancelled
        return message

    def _after_step(self, evaluation: Evaluation) -> None:
        self.rank.progress.mark()
        self._send(
            {"type": "step", "block": evaluation.block, "step": evaluation.step, "sigma": evaluation.sigma},
            {"latents": evaluation.latents, "velocity": evaluation.velocity},
        )
        if self.rank.agree(self.desk is not None and self.desk.is_cancelled(self.number)):
            raise Cancelled

    def _send(self, header: dict[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
        if self.desk is not None:
            self.desk.send({**header, "number": self.number}, tensors)


if __name__ == "__main__":
    main()
