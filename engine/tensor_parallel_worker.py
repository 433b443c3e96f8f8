"""`python -m engine.tensor_parallel_worker`: a rank of a tensor-parallel model after the first.

Started by `engine.followers`. It loads its part of the weights, makes its cache, and computes passes until its link
closes. It holds no state but what passes leave behind, so there is nothing to save when it ends.
"""

import faulthandler
import logging
import sys
from pathlib import Path

from engine.child_process import die_with, leave_signals_to_parent
from engine.engine_loop import EXIT_CRASHED, EXIT_MODEL_ERROR, EXIT_OK
from engine.errors import EngineDeadError, ModelError
from engine.log_format import log_to_stderr
from engine.rank_group import RankGroup
from engine.rank_link import CacheSize, Failed, Join, Loaded, Pass, RankLink, Started, WriteBlocks
from engine.rank_loading import LoadedRank, load_rank, plan_load
from engine.runner import ModelRunner
from engine.tensor_parallel import Shard

logger = logging.getLogger(__name__)


def worker_main(arguments: list[str]) -> int:
    """Body of the process.

    Args:
        arguments: file descriptor of its end of the link, process id of the first rank.

    Returns:
        The exit code.
    """
    leave_signals_to_parent()
    die_with(int(arguments[1]))
    faulthandler.enable()
    link = RankLink(int(arguments[0]))
    try:
        return _follow(link)
    except EOFError:  # the first rank ended
        return EXIT_OK
    except EngineDeadError as error:  # so did another; the first reports it
        logger.error("%s", error)
        return EXIT_CRASHED


def _follow(link: RankLink) -> int:
    join = link.receive()
    assert isinstance(join, Join)
    log_to_stderr(join.log_level, join.log_format, f" (rank {join.rank})")
    try:
        rank = _load(join, link)
    except ModelError as error:
        link.send(Failed(str(error), model_error=True))
        return EXIT_MODEL_ERROR
    except Exception as error:
        logger.exception("loading failed")
        link.send(Failed(f"{type(error).__name__}: {error}", model_error=False))
        return EXIT_CRASHED
    link.send(Loaded(rank.free_memory()))
    size = link.receive()
    assert isinstance(size, CacheSize)
    _compute_passes(rank.make_runner(size), link)
    return EXIT_OK


def _load(join: Join, link: RankLink) -> LoadedRank:
    plan = plan_load(join.options, join.rank)
    link.send(Started())
    shard = Shard(join.rank, join.options.tensor_parallel_size)
    group = RankGroup(shard, Path(join.store), plan.placement.device)
    return load_rank(plan, group, show_progress=False)


def _compute_passes(runner: ModelRunner, link: RankLink) -> None:
    """Until the link closes, which raises EOFError."""
    while isinstance(work := link.receive(), Pass | WriteBlocks):
        if isinstance(work, Pass):
            runner.compute(work.batch(), work.restores)
        else:
            runner.write_blocks(work.blocks)


if __name__ == "__main__":
    sys.exit(worker_main(sys.argv[1:]))
