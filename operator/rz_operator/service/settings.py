"""A wrong setting ends the operator at its start, with a message, and none is read later.

Settings come from ``RZ_*`` variables, which the chart sets.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from rz_api.run_defaults import RunDefaults
from rz_operator.controller.options import Options
from rz_operator.errors import UserError

_PEER = {"ipBlock", "namespaceSelector", "podSelector"}
"""Fields of a NetworkPolicyPeer."""

LEDGER_STATUS_URL = "http://{service}.{namespace}.svc:9400/status"


@dataclass(frozen=True)
class Settings:
    """How this operator works. What a run's pods look like is in the run, but for the default images."""

    options: Options = field(default_factory=Options)
    """Of its runs."""
    watch_namespaces: tuple[str, ...] = ()
    """The namespaces whose runs are served (a Role in each is enough); none: all of the cluster."""
    ledger_status_url: str = LEDGER_STATUS_URL
    """Where a ledger's read-only status is; ``{namespace}``, ``{name}`` and ``{service}`` are replaced."""
    port: int = 8080
    """Of /metrics, /healthz and /readyz; 0 takes any free one."""
    bind_host: str = "::"
    """``::`` is every address of IPv6 and IPv4, and IPv4 alone on a node without IPv6."""
    concurrency: int = 8
    """Runs that are reconciled at the same time."""
    resync_seconds: float = 600.0
    """Between two full lists of a run's pods, which repair what a broken watch may have missed, seconds."""
    request_seconds: float = 30.0
    """Time limit of one API request."""
    watch_seconds: int = 60
    """After which the server ends each watch request and the next one begins, seconds. What a connection that died
    without a word kept back is seen after 1.25 times that; watches that stay silent are started anew after 2.5 times
    that."""
    stuck_seconds: float = 180.0
    """Seconds that one reconcile, or the wait of a due one, may last before the probes call the operator stuck."""
    client_qps: float = 100.0
    """Requests to the API server in a second, over a longer time; 0: as many as there are."""
    client_burst: int = 200
    """Requests that may come at once, before ``client_qps`` holds them back."""
    log_level: str = "INFO"
    """Least severe messages that are logged: a name that ``logging`` knows."""
    log_format: str = "text"
    """``text``, a line for people, or ``json``, an object a line for a log store."""

    @staticmethod
    def from_environment(env: Mapping[str, str]) -> Settings:
        """Read ``RZ_IMAGE_<ROLE>``, ``RZ_RUN_DEFAULTS`` (JSON of ``rz_api.run_defaults``), ``RZ_WATCH_NAMESPACES``
        (with commas; ``RZ_WATCH_NAMESPACE`` is one more), ``RZ_LEDGER_STATUS_URL``, ``RZ_PORT``, ``RZ_BIND_HOST``,
        ``RZ_CONCURRENCY``, ``RZ_{POLL,RESYNC,REQUEST,WATCH,STUCK}_SECONDS``, ``RZ_MAX_GANG_TIMEOUT_SECONDS``,
        ``RZ_CLIENT_QPS``, ``RZ_CLIENT_BURST``, ``RZ_LOG_LEVEL``, ``RZ_LOG_FORMAT``, ``RZ_SCRAPE_FROM`` and
        ``RZ_OPERATOR_PEER``.

        Raises UserError for a value that is no number where one is required, for a level or a format that there is not,
        and for defaults and peers that are none.
        """
        default = Settings()
        images = {role: env.get(f"RZ_IMAGE_{role.upper()}") or image for role, image in default.options.images.items()}
        return Settings(
            options=Options(
                images,
                _run_defaults(env),
                _number(env, "RZ_POLL_SECONDS", default.options.poll_seconds, 0.1),
                _number(env, "RZ_MAX_GANG_TIMEOUT_SECONDS", default.options.max_gang_timeout_seconds, 10),
                status_peers=_status_peers(env),
            ),
            watch_namespaces=_namespaces(env),
            ledger_status_url=env.get("RZ_LEDGER_STATUS_URL", default.ledger_status_url),
            port=int(_number(env, "RZ_PORT", default.port, 0)),
            bind_host=env.get("RZ_BIND_HOST", default.bind_host),
            concurrency=int(_number(env, "RZ_CONCURRENCY", default.concurrency, 1)),
            resync_seconds=_number(env, "RZ_RESYNC_SECONDS", default.resync_seconds, 1),
            request_seconds=_number(env, "RZ_REQUEST_SECONDS", default.request_seconds, 0.1),
            watch_seconds=math.ceil(_number(env, "RZ_WATCH_SECONDS", default.watch_seconds, 1)),
            stuck_seconds=_number(env, "RZ_STUCK_SECONDS", default.stuck_seconds, 1),
            client_qps=_number(env, "RZ_CLIENT_QPS", default.client_qps, 0),
            client_burst=int(_number(env, "RZ_CLIENT_BURST", default.client_burst, 1)),
            log_level=_level(env, "RZ_LOG_LEVEL", default.log_level),
            log_format=_format(env, "RZ_LOG_FORMAT", default.log_format),
        )


def _number(env: Mapping[str, str], name: str, default: float, least: float) -> float:
    text = env.get(name)
    if text is None or text == "":
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    # Not ``value < least``, which is false for NaN.
    if not value >= least:
        raise UserError(f"{name} is {text!r}; a number of at least {least:g} is required: change it, or leave it out")
    return value


def _status_peers(env: Mapping[str, str]) -> tuple[Mapping[str, Any], ...]:
    """Who reaches the status ports of runs: ``RZ_SCRAPE_FROM`` (JSON, a list of NetworkPolicyPeers; none: everybody),
    and then the operator's own pods as ``RZ_OPERATOR_PEER`` (JSON, one peer) names them. It cannot know that by itself,
    and would else find every ledger silent."""
    scrapers = _peers(env, "RZ_SCRAPE_FROM", env.get("RZ_SCRAPE_FROM") or "[]")
    if not scrapers:
        return ()
    own = env.get("RZ_OPERATOR_PEER")
    if not own:
        raise UserError(
            "RZ_SCRAPE_FROM is set and RZ_OPERATOR_PEER is not; the operator's own pods are required too, because it "
            "polls the ledgers: set RZ_OPERATOR_PEER to a NetworkPolicyPeer in JSON that selects them"
        )
    return (*scrapers, *_peers(env, "RZ_OPERATOR_PEER", f"[{own}]"))


def _peers(env: Mapping[str, str], name: str, text: str) -> tuple[Mapping[str, Any], ...]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(each, dict) and each.keys() & _PEER for each in found):
        one = name == "RZ_OPERATOR_PEER"
        required = "a NetworkPolicyPeer" if one else "a list of NetworkPolicyPeers"
        raise UserError(
            f"{name} is {env.get(name)!r}; {required} in JSON is required, each with {' or '.join(sorted(_PEER))}: "
            "change it, or leave it out"
        )
    return tuple(found)


def _namespaces(env: Mapping[str, str]) -> tuple[str, ...]:
    listed = f"{env.get('RZ_WATCH_NAMESPACES', '')},{env.get('RZ_WATCH_NAMESPACE', '')}".split(",")
    return tuple(dict.fromkeys(name.strip() for name in listed if name.strip()))


def _run_defaults(env: Mapping[str, str]) -> RunDefaults:
    text = env.get("RZ_RUN_DEFAULTS") or "{}"
    try:
        return RunDefaults.model_validate_json(text, by_alias=True, by_name=False)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(("runDefaults", *(str(key) for key in first["loc"])))
        raise UserError(
            f"RZ_RUN_DEFAULTS: {where}: {first['msg']}; the chart's value runDefaults is required, as JSON: change it"
        ) from None


def _format(env: Mapping[str, str], name: str, default: str) -> str:
    text = env.get(name) or default
    if text not in ("text", "json"):
        raise UserError(f"{name} is {text!r}; text or json is required: change it, or leave it out")
    return text


def _level(env: Mapping[str, str], name: str, default: str) -> str:
    text = env.get(name) or default
    if text.upper() not in logging.getLevelNamesMapping():
        known = "DEBUG, INFO, WARNING, ERROR, CRITICAL"
        raise UserError(f"{name} is {text!r}; one of {known} is required: change it, or leave it out")
    return text.upper()
