"""A model that only the first rank holds gets to the others in shards: weights, ties and buffers."""

import multiprocessing

import distribute_gang
import pytest


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_ranks_with_shapes_alone_score_and_learn_as_the_whole_model(tmp_path, tied):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([distribute_gang.__name__])
    gang = []
    for rank in range(2):
        ours, theirs = context.Pipe()
        arguments = (rank, tmp_path / "store", tied, theirs)
        process = context.Process(target=distribute_gang.be_rank, args=arguments, daemon=True)
        process.start()
        theirs.close()
        gang.append((process, ours))
    for process, pipe in gang:
        assert pipe.poll(300), "the rank said nothing"
        result = pipe.recv()
        assert result["scores"] < 1e-6
        assert result["gradients"] < 1e-5
        assert 0.45 < result["held"] < 0.55
        process.join()
        assert process.exitcode == 0
