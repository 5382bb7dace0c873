"""What a Redis server says about itself, as far as its user may ask."""

from __future__ import annotations

from dataclasses import dataclass

import redis

# Two slots of a Redis Cluster, whatever serves it.
CHECK_KEYS = ("longtake:check:a", "longtake:check:b")


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Facts about a server. version: () where it is not known. eviction: its maxmemory-policy, '' if not known."""

    version: tuple[int, ...]
    eviction: str
    is_cluster: bool


def server_info(client: redis.Redis) -> ServerInfo:
    """Read `INFO`, and run a script on two keys.

    A server that renames CONFIG still tells its eviction policy here. What the user may not ask is not known.

    Raises:
        redis.RedisError: the server cannot be reached.
    """
    facts: dict[str, object] = {}
    for section in ("server", "memory", "cluster"):
        try:
            facts |= client.info(section)
        except redis.ResponseError:  # INFO is renamed, or denied to this user
            break
    version = str(facts.get("redis_version", ""))
    is_cluster = bool(facts.get("cluster_enabled")) or not _runs_scripts_on_two_slots(client)
    return ServerInfo(
        version=tuple(int(part) for part in version.split(".") if part.isdecimal()),
        eviction=str(facts.get("maxmemory_policy", "")),
        is_cluster=is_cluster,
    )


def _runs_scripts_on_two_slots(client: redis.Redis) -> bool:
    try:
        client.register_script("return redis.call('EXISTS', KEYS[1], KEYS[2])")(keys=CHECK_KEYS)
    except redis.ResponseError as error:
        return not any(code in str(error) for code in ("CROSSSLOT", "MOVED", "slot"))
    return True
