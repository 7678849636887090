"""What can be set by variables in the shell, and by Compose's options."""

from compositions.engine import SERVICES, containers, run
from compositions.stack import Stack, only_v2
from embedded.pipeline import Pipeline
from embedded.service import wait_until
from harness import wait_for_shares


def test_rate_and_limit_come_from_the_shell(stack: Stack, pipeline: Pipeline) -> None:
    """The generator reads both; after exactly so many transactions it ends with exit code 0, and stays ended."""
    stack.quiet("stop generator")
    before = pipeline.count(pipeline.transactions)
    stack.quiet("up -d generator", before="TRANSACTIONS_PER_SECOND=5000 TRANSACTIONS_LIMIT=500")

    def status() -> str:
        return str(containers("generator")[0]["State"]["Status"])

    wait_until(lambda: status() == "exited", 120, status)
    (ended,) = containers("generator")
    assert ended["State"]["ExitCode"] == 0
    assert "TRANSACTIONS_PER_SECOND=5000" in ended["Config"]["Env"]
    log = run(f"docker logs {ended['Id']}")
    assert "transactions_per_second=5000.0, transactions_limit=500.0" in log
    assert "Stopped: delivered=500 not_delivered=0" in log
    stack.assert_each_in_one_output(pipeline)  # longer than the engine waits before it restarts a container
    assert pipeline.count(pipeline.transactions) == before + 500
    (later,) = containers("generator")
    assert later["Id"] == ended["Id"]
    assert later["State"] == ended["State"]
    assert later["RestartCount"] == 0
    stack.quiet("up -d")


@only_v2
def test_detectors_share_the_partitions(stack: Stack, pipeline: Pipeline) -> None:
    """`--scale detector=4` gives each one of the four partitions; there and back, nothing is lost or there twice."""

    for detectors, share in ((4, 1), (2, 2)):
        stack.quiet(f"up -d --scale detector={detectors}")
        wait_for_shares(pipeline, *[share] * detectors)
        assert len(containers("detector")) == detectors
        stack.wait_for("detector", "legit=[1-9]")
    stack.quiet("up -d")
    assert len(containers("detector")) == 1
    stack.assert_each_in_one_output(pipeline)
    stack.quiet("up -d")
    assert len(containers(*SERVICES)) == 2
