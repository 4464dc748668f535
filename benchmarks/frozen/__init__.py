"""The frozen test: what fitting a policy to one fleet and its traffic is worth, over scenarios that were fixed first.

``drawing`` drew the scenarios in ``scenarios/test/frozen``, and they were committed with ``DIGEST`` before anything was
fitted to them. ``judgement`` says who meets, ``fits`` fits, ``bounds`` bounds, ``bars`` holds what came of it against
the bars that were set beforehand, and ``page`` shows it. Runs, scores, statistics and the report are those of
``slimsched evaluate``.
"""

from typing import Final

SUITE: Final = "frozen"
DIGEST: Final = "77689281dc574cff"
"""Of all frozen scenarios, by ``drawing.digest_all``."""
