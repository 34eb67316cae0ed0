"""One rank of a group of workers: python -m liveavatar_workers.rank.worker, under torchrun or the launcher.

All ranks load the model and wait; rank 0 listens for ComfyUI, and what it is asked for all ranks do together.
"""

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from liveavatar_runtime.aligned import align_weights
from liveavatar_runtime.checkpoint.known_hashes import KnownHashes
from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.checkpoint.weights_key import weights_key
from liveavatar_runtime.devices import parse_devices
from liveavatar_runtime.errors import InputError
from liveavatar_runtime.executors.table import IN_GROUPS, check_groups

from ..addresses import LOOPBACK, parse_address
from ..keys import CLIENTS_VARIABLE, KEY_VARIABLE, KeyPair, parse_key, read_pair, read_public_keys
from ..message import DtypeName
from ..messages import RankAbout, Ready, ToWorkers
from ..precisions import PRECISIONS
from ..wire.server import Server
from .cache_bytes import parameter_bytes
from .comfyui_connection import ComfyUIConnection
from .decoder_rank import serve_decoder
from .decoder_relay import DecoderRelay
from .end_signal import EndSignal
from .executors import ON_RANKS, RankModel
from .interfaces import use_interface
from .lifetime import die_with_parent, when_input_ends
from .ranks import LINGER_SECONDS, Rank, StallDetector
from .serve import Loaded, serve
from .store import LISTENING_KEY, open_store
from .watch import Watch

Load = Callable[[argparse.Namespace, Rank], Loaded]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m liveavatar_workers.rank.worker", description=__doc__)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="model file or folder, on every machine")
    add("--lora", nargs=2, action="append", default=[], metavar=("FILE", "STRENGTH"), help="merged while loading")
    add(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="auto: the file's, bf16 for fp32 files; fp32 on the processor",
    )
    add("--executor", choices=IN_GROUPS, default=IN_GROUPS[0])
    add("--devices", default="auto", help="this machine's, one for each of its ranks, such as cuda:0,cuda:1")
    add("--vae", type=Path, help="VAE file, on the last rank's machine; that rank decodes instead of sampling")
    add("--hashes", type=Path, help="folder that remembers hashes of weight files, so that each is read for them once")
    add("--disable-mmap", action="store_true", help="read weight files into memory instead of mapping them")
    add("--offload", action="store_true", help="keep the weights in system memory between their uses")
    add("--listen", default=f"{LOOPBACK}:0", help="address at which rank 0 listens for ComfyUI")
    add(
        "--key",
        type=Path,
        help="the workers' secret key, NAME.key of python -m liveavatar_workers.keys; on every machine",
    )
    add("--clients", type=Path, help="public keys of the ComfyUIs that may use the workers, their NAME.pub")
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
        card = use_interface()
        comfyui = open_connection(options, rank)
        if comfyui and options.store_port is None:
            print(start_text(options, card), file=sys.stderr, flush=True)
        # The launcher knows how ranks end; torchrun does not tell.
        end_signal = EndSignal() if options.store_port is None else None
        Watch(rank, comfyui.tell if comfyui else print, end_signal).start()
        watched = True
        rank.join(options.join_timeout)
        if rank.decodes:
            serve_decoder(rank, options.vae, pair_of(options), mapped=not options.disable_mmap)
        loaded = (load or load_executor)(options, rank)
        rank.store.set(f"bytes/{rank.number}", str(loaded.bytes))
        if comfyui is not None:
            comfyui.ready(about(options, rank, comfyui, loaded))
        serve(rank, comfyui, loaded)
    except BaseException as error:
        traceback.print_exc()
        failure = rank.failure(error)
        if rank.leads and not watched:
            # Nobody could be told over the connection; the launcher reads the report.
            rank.file_report(failure)
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
    rank = Rank(number, size - decoders, device, store, StallDetector(options.stall_timeout), decoders)
    store.set(f"where/{number}", rank.where)
    return rank


def open_connection(options: argparse.Namespace, rank: Rank) -> ComfyUIConnection | None:
    """On rank 0, begin to listen for ComfyUI. Raises MachineError when the address is taken."""
    if not rank.leads:
        return None
    pair, clients = pair_of(options), clients_of(options)
    if rank.size < 1:
        raise InputError("--vae takes the last rank, and there is one only; start one more rank")
    server = Server(parse_address(options.listen), pair, clients, ToWorkers)
    rank.store.set(LISTENING_KEY, str(server.port))
    comfyui = ComfyUIConnection(server)
    comfyui.open()
    return comfyui


def start_text(options: argparse.Namespace, card: str) -> str:
    """For the terminal of machine 0."""
    main = f"{os.environ.get('MASTER_ADDR', LOOPBACK)}:{os.environ.get('MASTER_PORT', '')}"
    return (
        f"Workers listen for ComfyUI at {options.listen}; their public key is {pair_of(options).public.hex()}\n"
        f"PyTorch's ports between the ranks ({main} and others on {card or 'any card'}) have no authentication: only "
        "these machines may reach them."
    )


def pair_of(options: argparse.Namespace) -> KeyPair:
    """The group's own keys. Raises InputError when they are missing, or others may read them."""
    if options.key is not None:
        return read_pair(options.key)
    if KEY_VARIABLE not in os.environ:
        raise InputError(
            "the workers have no key; make one with python -m liveavatar_workers.keys NAME and give --key NAME.key"
        )
    return KeyPair.of_secret(parse_key(os.environ[KEY_VARIABLE], KEY_VARIABLE))


def clients_of(options: argparse.Namespace) -> set[bytes]:
    """Public keys of those who may connect. Raises InputError when there is none."""
    if options.clients is not None:
        return read_public_keys(options.clients)
    if CLIENTS_VARIABLE not in os.environ:
        raise InputError("no ComfyUI may use these workers; give --clients a file with the public key of one")
    return {parse_key(os.environ[CLIENTS_VARIABLE], CLIENTS_VARIABLE)}


def loras_of(options: argparse.Namespace) -> list[tuple[Path, float]]:
    return [(Path(path), float(strength)) for path, strength in options.lora]


def load_executor(options: argparse.Namespace, rank: Rank) -> Loaded:
    """The model of the options, for this rank's part in the executor."""
    dtype = PRECISIONS[options.precision]
    if dtype is None and rank.device.type == "cpu":
        dtype = torch.float32
    model = load_transformer(options.model, loras_of(options), dtype, mapped=not options.disable_mmap)
    computes_in = next(model.blocks.parameters()).dtype
    if dtype is None and computes_in == torch.float32:
        computes_in = torch.bfloat16
        model = model.to(computes_in)
    for layer in model.blocks:
        layer.register_forward_pre_hook(lambda *_: rank.stall_detector.mark())
    executor = ON_RANKS[options.executor](RankModel(rank, model, computes_in, options.offload))
    model = executor.model
    # Only now, when this rank's part is all that is left of the mapped weights.
    align_weights(model, rank.device)
    return Loaded(executor, model.config, computes_in, parameter_bytes(model))


def about(options: argparse.Namespace, rank: Rank, comfyui: ComfyUIConnection, loaded: Loaded) -> Ready:
    """What ComfyUI is told once all ranks have loaded the model."""
    places = [(rank.store.get(f"where/{n}").decode(), int(rank.store.get(f"bytes/{n}"))) for n in range(rank.size)]
    return Ready(
        executor=options.executor,
        config=loaded.config,
        dtype=told_dtype(loaded.dtype),
        key=weights_key(options.model, loras_of(options), KnownHashes(options.hashes)),
        ranks=[RankAbout(where=where, bytes=size) for where, size in places],
        vae=open_relay(rank, comfyui, options).about if rank.decoders else None,
    )


def told_dtype(dtype: torch.dtype) -> DtypeName:
    names: dict[torch.dtype, DtypeName] = {
        torch.float32: "float32",
        torch.float16: "float16",
        torch.bfloat16: "bfloat16",
    }
    return names[dtype]


def open_relay(rank: Rank, comfyui: ComfyUIConnection, options: argparse.Namespace) -> DecoderRelay:
    """On the address over which ranks find each other."""
    host = LOOPBACK if options.store_port is not None else os.environ.get("MASTER_ADDR", LOOPBACK)
    return DecoderRelay(rank, comfyui, host, pair_of(options))


if __name__ == "__main__":
    main()
