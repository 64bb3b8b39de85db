"""An Auto Scaling group that takes this instance away, and waits until its worker has finished.

Source: "Complete a lifecycle action", EC2 Auto Scaling User Guide. The instance's role needs
``autoscaling:RecordLifecycleActionHeartbeat`` and ``CompleteLifecycleAction`` on its group; and where the hook is not
named (``worker_lifecycle_hook``), ``DescribeAutoScalingInstances`` and ``DescribeLifecycleHooks`` on ``*``, for these two
know no resources (Service Authorization Reference).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, Final

from cloudq.aws.port import AwsError, Call, Port
from cloudq.errors import CloudQError, ImproperlyConfigured

logger = logging.getLogger("cloudq.worker")

_TERMINATING: Final = "autoscaling:EC2_INSTANCE_TERMINATING"


def parse_hook(text: str) -> Mapping[str, str]:
    """``GROUP:HOOK`` as AWS is asked for it; neither name may hold a colon. Raises ImproperlyConfigured."""
    group, _, hook = text.partition(":")
    if not group or not hook or ":" in hook:
        raise ImproperlyConfigured(
            f"worker_lifecycle_hook is GROUP:HOOK, an Auto Scaling group and its lifecycle hook, got {text!r}"
        )
    return {"AutoScalingGroupName": group, "LifecycleHookName": hook}


class ScaleIn:
    """The lifecycle hooks of one instance's termination. Never raises: what cannot be told to AWS is logged.

    ``hook`` is the one there is, by ``parse_hook``; without it AWS is asked which there are.
    """

    def __init__(self, port: Port, instance_id: str, hook: Mapping[str, str] | None = None) -> None:
        self._port = port
        self._instance = instance_id
        self._hooks: list[Mapping[str, str]] | None = None if hook is None else [hook]

    def heartbeat(self) -> None:
        """The worker is still at it: the hooks' timeouts begin anew."""
        for hook in self._guarded():
            self._call("RecordLifecycleActionHeartbeat", {**hook, "InstanceId": self._instance})

    def complete(self) -> None:
        """The worker has finished: the instance may go."""
        for hook in self._guarded():
            result = {"InstanceId": self._instance, "LifecycleActionResult": "CONTINUE"}
            if self._call("CompleteLifecycleAction", {**hook, **result}):
                logger.info(
                    "the lifecycle hook %s of %s was told that instance %s may go",
                    hook["LifecycleHookName"],
                    hook["AutoScalingGroupName"],
                    self._instance,
                )

    def _guarded(self) -> Iterator[Mapping[str, str]]:
        if self._hooks is None:
            try:
                self._hooks = self._find()
            except CloudQError as error:
                logger.warning(
                    "the lifecycle hooks of instance %s cannot be found: %s", self._instance, error
                )
                return
        yield from self._hooks

    def _find(self) -> list[Mapping[str, str]]:
        found = self._port.call(
            Call("autoscaling", "DescribeAutoScalingInstances", {"InstanceIds": [self._instance]})
        )
        groups = [each["AutoScalingGroupName"] for each in found.get("AutoScalingInstances", [])]
        hooks: list[Mapping[str, str]] = []
        for group in groups:
            answer = self._port.call(
                Call("autoscaling", "DescribeLifecycleHooks", {"AutoScalingGroupName": group})
            )
            hooks += [
                {"AutoScalingGroupName": group, "LifecycleHookName": each["LifecycleHookName"]}
                for each in answer.get("LifecycleHooks", [])
                if each.get("LifecycleTransition") == _TERMINATING
            ]
        return hooks

    def _call(self, operation: str, params: dict[str, Any]) -> bool:
        try:
            self._port.call(Call("autoscaling", operation, params))
        except AwsError as error:
            # no action under way for this hook: another worker has completed it, or it timed out
            level = logging.INFO if error.code == "ValidationError" else logging.WARNING
            logger.log(level, "%s of %s: %s", operation, params["LifecycleHookName"], error)
            return False
        except CloudQError as error:
            logger.warning("%s of %s: %s", operation, params["LifecycleHookName"], error)
            return False
        return True
