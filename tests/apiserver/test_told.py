"""What a run tells about its end, to everybody who may see it, has no credentials in it."""

from __future__ import annotations

from lifecycle_moves import fail
from lifecycle_steps import STARTED, Scene, Step

SECRET = "0a1b2c3d4e5f"
"""Made up."""
WORDS = (
    f"403 for https://bucket.s3.example.com/train.jsonl?X-Amz-Signature={SECRET}&x=1, Authorization: Bearer {SECRET}"
)
TOLD = "403 for https://bucket.s3.example.com/train.jsonl?X-Amz-Signature=***&x=1, Authorization: Bearer ***"


def test_last_words_lose_their_credentials_on_the_way_to_the_status_and_the_events(scene: Scene) -> None:
    """As a worker writes them that does not filter them itself, or a log whose end the kubelet takes."""
    scene.submit()
    scene.take(STARTED)
    scene.take(
        Step(
            "the run fails and says why",
            fail("trainer-i1-1", exit_code=64, message=WORDS),
            want_phase="Failed",
            want_condition=("Failed", "True", "UserError", TOLD),
            want_event=("UserError", TOLD),
        )
    )
    seen = [scene.run, *scene.api.list("Event", scene.namespace)]
    assert [each for each in seen if SECRET in str(each)] == []
