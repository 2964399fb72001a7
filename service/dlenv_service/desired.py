"""Which models every replica should hold: one document, one writer.

The document is ``{"generation": int, "models": {name: [versions]}}``. It lives in a small actor that Serve keeps with
the deployment (``deployment_actors``): it outlives every replica, is replaced when it dies and goes when the
deployment goes. Why not ``user_config``: changing it means deploying the whole application again from inside one of
its replicas, which overwrites what ``serve deploy`` put there, and two replicas that change it at once would undo each
other. The actor is the one place where changes get their order.

A change goes: :meth:`Desired.propose` numbers it, the proposing replica hands it to all live replicas at once
(:meth:`DeploymentHandle.broadcast`), and answers its client when all of them hold it. If one of them can't, the
previous models come back as a newer generation and the client gets the reason. A replica that starts asks first;
and each one compares notes every few seconds, so that one which was not there for the broadcast, and an actor that
was replaced and knows nothing, catch up by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

import ray
from ray import serve
from ray.exceptions import RayError

from dlenv.errors import DlenvError, ModelInvalid, Unavailable

if TYPE_CHECKING:  # the actor needs neither the service nor torch
    from dlenv_service.asgi import Service
    from dlenv_service.host import Document

__all__ = ["NAME", "Agreement", "Desired", "DesiredDocument"]

NAME = "models"
COMPARE_S = 5.0
BROADCAST_TIMEOUT_S = 120.0

log = logging.getLogger("dlenv.service")


class DesiredDocument:
    """The document and the order of its changes; a plain class, so that tests need no Ray."""

    def __init__(self) -> None:
        self.document: Document | None = None

    def newest(self) -> Document | None:
        """What is known; ``None`` until a replica has said what it holds."""
        return self.document

    def compare(self, held: Document) -> Document:
        """The newest of what is known here and what a replica holds."""
        if self.document is None or held["generation"] > self.document["generation"]:
            self.document = held
        return self.document

    def propose(self, document: Document) -> Document | None:
        """Take ``document`` if it follows the newest one; ``None`` where another change came first."""
        if self.document is not None and document["generation"] != self.document["generation"] + 1:
            return None
        self.document = document
        return document


@ray.remote(num_cpus=0)
class Desired(DesiredDocument):
    """:class:`DesiredDocument` as an actor."""


class Agreement:
    """One replica's side: what it asks of the actor and of its fellow replicas."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._comparing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the service with the models that the others hold, then keep comparing."""
        await self._service.startup(await serve.get_deployment_actor(NAME).newest.remote())
        await self.compare()
        self._service.on_change = self.change
        self._comparing = asyncio.create_task(self._keep_comparing())

    async def stop(self) -> None:
        """Stop comparing."""
        if self._comparing is not None:
            self._comparing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._comparing

    async def compare(self) -> None:
        """Ask for the newest document, and apply it where this replica is behind."""
        held = self._service.document
        newest = await serve.get_deployment_actor(NAME).compare.remote(held)
        if newest["generation"] > held["generation"]:
            await self._service.apply(newest)

    async def _keep_comparing(self) -> None:
        while True:
            await asyncio.sleep(COMPARE_S)
            try:
                await self.compare()
            # The actor is being replaced (ValueError: no such actor, yet), or a model can't be loaded just now.
            except (RayError, ValueError, DlenvError) as error:
                log.warning("Could not compare models with the other replicas: %s", error)

    async def change(self, document: Document) -> None:
        """Make ``document`` true on every live replica.

        Raises:
            ModelInvalid: a replica can't load a model; the previous models are back everywhere.
            Unavailable: another replica changed the models at the same moment.
        """
        before = self._service.document
        actor = serve.get_deployment_actor(NAME)
        if await actor.propose.remote(document) is None:
            await self.compare()
            raise Unavailable("the models are being changed by another request at this moment; try again")
        failure = await self._tell_all(document)
        if failure is not None:
            back: Document = {"generation": document["generation"] + 1, "models": before["models"]}
            if await actor.propose.remote(back) is not None:
                await self._tell_all(back)
            raise ModelInvalid(failure)

    async def _tell_all(self, document: Document) -> str | None:
        context = serve.get_replica_context()
        handle = serve.get_deployment_handle(context.deployment, context.app_name)
        answers = await handle.broadcast("follow", document).results_async(
            timeout_s=BROADCAST_TIMEOUT_S, return_exceptions=True
        )
        for answer in answers:
            # A replica that died meanwhile starts again from the document; it is no reason to refuse the change.
            if isinstance(answer, Exception):
                log.warning("A replica did not answer a change of models: %s", answer)
            elif answer is not None:
                return str(answer)
        return None
