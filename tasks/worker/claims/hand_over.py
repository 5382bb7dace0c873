"""Gives work up to another worker when this one alone cannot reach the blob server.

The lease of such a worker would be renewed for ever, because it reaches the broker. If the blob server is out for all,
or the others are busy, the work waits here: it may go on when the outage ends.
"""

from __future__ import annotations

import logging

from tasks.jobs.results import Claim, ReleaseOutcome
from tasks.worker.claims.failures import publish_again
from tasks.worker.claims.peers import idle_peer_with_blobs
from tasks.worker.context import WorkerContext, process

log = logging.getLogger(__name__)


def hand_over(context: WorkerContext, claim: Claim) -> bool:
    """Release a claim if another worker can do its work and this one cannot; returns whether it was released.

    It is no failed attempt. The outage must have lasted for half a lease.
    """
    if process.blob_outage.seconds < context.settings.lease_s / 2:
        return False
    peer = idle_peer_with_blobs(context, claim.unit)
    if peer is None:
        return False
    released = context.deployment.jobs.release(claim)
    if released.outcome != ReleaseOutcome.RETRY:
        return False
    with context.logging(claim):
        log.warning("released: worker %s reaches the blob server, and this one does not", peer.name)
        publish_again(context, claim, released)
    return True
