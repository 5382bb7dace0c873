"""Settings: environment variables, each named once here and once in docs/settings.md."""

from __future__ import annotations

import base64
import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from blobstore.redis.client import REPLY_TIMEOUT_S
from blobstore.redis.urls import parse_url
from ltx2.checkpoints.full_weights import SUFFIX, split_full
from ltx2.checkpoints.resolve import SMALL_MODELS
from ltx2.request import MOST_IMAGES, SegmentRequest
from ltx2.timeline import DEFAULT_OVERLAP, SegmentShape, exact, first_timing
from tasks.errors import ConfigError
from tasks.field_errors import explain, shown

PREFIX = "LONGTAKE_"
OTHER_VARIABLES = ("LONGTAKE_FLOWER_PASSWORD",)  # of docker-compose.yml
LONGEST_S = 100 * 365 * 86400.0  # the servers and their clients overflow at larger times


class Settings(BaseModel):
    """One longtake deployment; every process of it must see the same values."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        description="broker, results and job records (redis:, rediss:, unix:, sentinel: or sentinels:)",
    )
    blob_url: str | None = Field(
        None, description="blobs; default: the server of LONGTAKE_REDIS_URL, only suitable for one machine"
    )
    model: str = Field("shapes", description="model of specs that name none: a folder, a file, a hub id or `shapes`")
    model_folders: str | None = Field(
        None,
        description="folders, separated by `:`, that may contain the models and LoRAs of a spec; default: any",
    )
    home: Path = Field(Path("~/.cache/longtake"), description="folder for generated models, and for what renders left")
    renders_budget_bytes: int = Field(
        4 * 1024**3,
        ge=0,
        description="bytes under LONGTAKE_HOME that finished renders may take, so that later ones to the same film "
        "resume; 0: none is kept",
    )
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$", description="`auto`, `cpu`, `cuda` or `cuda:N`"
    )
    gpus: str = Field(
        "1",
        pattern=r"^(all|[1-9]\d{0,2})$",
        description="GPUs that render each segment together, from that of LONGTAKE_DEVICE on: a number or `all`",
    )
    rank_timeout_s: float = Field(
        300.0, ge=5, le=3600, description="seconds that one of several GPUs waits for another before both are given up"
    )
    precision: Literal["auto", "bf16", "fp8", "fp32"] = Field(
        "auto", description="`bf16`, `fp8` (faster, 0.7 of the memory), `fp32`; `auto`: bf16 on a GPU, else fp32"
    )
    offload: Literal["none", "model", "sequential"] = Field(
        "none", description="keep weights in main memory: `none`, `model` (by component) or `sequential` (by block)"
    )
    text_encoder: Literal["auto", "gpu", "cpu", "offload", "8bit"] = Field(
        "auto",
        description="where prompts are encoded: `gpu`, `cpu`, `offload` (weights in main memory) or `8bit` (int8, on "
        "the GPU); `auto`: gpu if the GPU is large enough for all, else offload",
    )
    compiler: str = Field(
        "auto",
        pattern=r"^\w+$",
        description="backend of torch.compile, or `off`; `auto`: inductor on a GPU without `sequential` offload",
    )
    attention: Literal["auto", "bf16", "fp8"] = Field(
        "auto",
        description="self-attention of the picture: `bf16` (as the precision) or `fp8` (faster; Hopper or later, with "
        "longtake[fp8-attention]); `auto`: fp8 with precision fp8 where it is available, else bf16",
    )
    warm: str | None = Field(
        None,
        pattern=r"^\d{2,4}x\d{2,4}x\d{1,4}@\d{1,3}(\.\d{1,3})?(\+[1-9](,[1-9])*)?$",
        description="segments to compile for before the first task: "
        "`width`x`height`x`frames`@`fps`, such as 768x512x121@24, and with +1,2 those with one or two placed images, "
        "too",
    )
    engine: str = Field(
        "ltx2.engine:Engine", pattern=r"^[\w.]+:\w+$", description="class that renders a segment, as `module:name`"
    )
    inline_threshold_bytes: int = Field(
        1024, ge=0, le=64 * 1024, description="largest array or metadata that a message carries inline, at most 65536"
    )
    flat_segments: Literal["report", "error"] = Field(
        "report",
        description="a continuation of one colour after other pictures: `report`, or `error` to fail its job",
    )
    log: Literal["text", "json"] = Field("text", description="log format: `text`, or `json` with one object per line")
    lease_s: float = Field(15.0, ge=0.1, le=3600, description="seconds after which a silent worker loses its segment")
    class_wait_s: float = Field(
        60.0, ge=0, le=3600, description="seconds that a segment waits for a worker of the render class it began with"
    )
    reconcile_s: float = Field(2.0, ge=0.01, le=60, description="seconds between two searches for stuck jobs")
    max_attempts: int = Field(3, ge=1, le=100, description="failed attempts at one segment that end its job")
    retention_s: float = Field(
        7 * 86400.0, gt=0, le=LONGEST_S, description="seconds that a finished job and its film are kept"
    )
    open_s: float = Field(
        86400.0, gt=0, le=LONGEST_S, description="seconds after which an open job without work closes itself"
    )
    blob_budget_bytes: int | None = Field(
        None, ge=1, description="bytes of blobs that all jobs together may need; default: no limit"
    )
    blob_grace_s: float = Field(
        86400.0, ge=1, le=LONGEST_S, description="seconds that a blob is kept that no job needs"
    )
    visibility_timeout_s: int = Field(
        6 * 3600, ge=1, le=LONGEST_S, description="seconds until Celery delivers an unacknowledged message again"
    )

    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="port on which a worker answers Prometheus; default: none"
    )
    metrics_host: str = Field(
        "127.0.0.1", description="address on which it does; 0.0.0.0 for every network of the host"
    )
    api_keys: str | None = Field(
        None,
        description="tokens that may call `longtake serve`, separated by commas; default: anybody, on loopback only",
    )
    server_parts: Path | None = Field(
        None, description="YAML or JSON file with the names that callers of the server may use for models and LoRAs"
    )
    webhook_secret: str | None = Field(
        None, description="secret that signs webhooks, `whsec_` and 24 to 64 bytes in base64; default: not signed"
    )
    webhook_private: bool = Field(False, description="whether webhooks may go to private addresses: `true` or `false`")
    flower_url: str | None = Field(
        None, pattern=r"^https?://[^\s\"'<>]+$", description="address of Flower, for the link on the server's pages"
    )
    root_path: str = Field(
        "",
        pattern=r"^(/[A-Za-z0-9._~-]+)*/?$",
        description="prefix of the server's paths at a proxy, such as /longtake; default: none",
    )
    forwarded_allow_ips: str | None = Field(
        None,
        description="addresses or networks of proxies whose `X-Forwarded-*` the server believes, separated by commas; "
        "default: none",
    )
    server_body_bytes: int = Field(
        64 * 1024 * 1024, ge=1024, description="largest request that the server reads, in bytes"
    )

    @field_validator("redis_url", "blob_url")
    @classmethod
    def _valid_url(cls, url: str | None) -> str | None:
        if url is not None:
            parse_url(url)
        return url

    @field_validator("root_path")
    @classmethod
    def _without_slash(cls, prefix: str) -> str:
        return prefix.rstrip("/")

    @field_validator("metrics_host")
    @classmethod
    def _resolvable(cls, host: str) -> str:
        try:
            host.encode("idna")  # as the resolver does: an empty or too long label
        except UnicodeError:
            host = ""
        if not host or not host.isprintable() or " " in host:
            raise ValueError("it must be the address or the name of a host")
        return host

    @field_validator("webhook_secret")
    @classmethod
    def _secret_fits(cls, secret: str | None) -> str | None:
        if secret is not None:
            try:
                size = len(base64.b64decode(secret.removeprefix("whsec_"), validate=True))
            except ValueError:
                size = 0
            if not 24 <= size <= 64:
                raise ValueError("it must be `whsec_` and 24 to 64 bytes in base64")
        return secret

    @field_validator("model_folders")
    @classmethod
    def _absolute_folders(cls, folders: str | None) -> str | None:
        if folders is not None and not all(Path(folder).is_absolute() for folder in folders.split(os.pathsep)):
            raise ValueError(f"{folders!r:.200} must be absolute folders, separated by {os.pathsep!r}")
        return folders

    @field_validator("warm")
    @classmethod
    def _renderable(cls, warm: str | None) -> str | None:
        if warm is not None:
            warm_request(warm)
            if max(warm_images(warm), default=0) > MOST_IMAGES:
                raise ValueError(f"a segment can have {MOST_IMAGES} placed images")
        return warm

    @field_validator("model")
    @classmethod
    def _absolute_model(cls, model: str) -> str:
        return absolute(model)

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        expanded = Path(os.path.expanduser(home))  # unlike pathlib, it never raises
        if str(home).startswith("~") and not expanded.is_absolute():
            why = _why_no_home(home.parts[0])
            raise ValueError(f"{why}, so {home} names no folder; set LONGTAKE_HOME to one that can be written")
        return expanded.absolute()

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """The settings in `environ`, without white space around them, as files of variables often have; blank: not set.

        Raises:
            ConfigError: an invalid value; names the variable.
        """
        values = {name: environ.get(variable(name), "").strip() for name in cls.model_fields}
        given = {name: value for name, value in values.items() if value}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = str(first["loc"][0])
            message = explain(first)
            if first["type"] == "string_pattern_mismatch":  # the description is clearer than the pattern
                message = f"{shown(first['input'])} is not valid; expected: {cls.model_fields[name].description}"
            raise ConfigError(f"{variable(name)}: {message}") from None

    @property
    def blobs(self) -> str:
        """The URL of the blob store."""
        return self.blob_url or self.redis_url

    @property
    def has_custom_engine(self) -> bool:
        """Whether segments are rendered by another class than longtake's."""
        return bool(self.engine != type(self).model_fields["engine"].default)

    @property
    def broker(self) -> str:
        """The URL of the broker, as Celery writes it."""
        return parse_url(self.redis_url).for_celery

    @property
    def reply_timeout_s(self) -> float:
        """How long a reply of a server may take: one dead connection must not cost a lease. 1 to 30 s."""
        return max(1.0, min(REPLY_TIMEOUT_S, self.lease_s / 3))

    def environment(self) -> dict[str, str]:
        """The variables that give another process these settings."""
        values = {variable(name): getattr(self, name) for name in type(self).model_fields}
        return {name: str(value) for name, value in values.items() if value is not None}


def _why_no_home(tilde: str) -> str:
    if tilde != "~":
        return f"there is no user {shown(tilde[1:])}"
    named = os.environ.get("HOME")
    return "this user has no home folder" if named is None else f"HOME is {shown(named)}, which is not absolute"


def warm_request(warm: str) -> SegmentRequest:
    """The segment that LONGTAKE_WARM describes.

    Raises:
        ValueError: no engine renders it.
    """
    width, height, frames, fps = re.split("[x@]", warm.partition("+")[0])
    shape = SegmentShape(frames=int(frames), fps=exact(fps), overlap=DEFAULT_OVERLAP)
    return SegmentRequest("", 0, int(width), int(height), first_timing(shape))


def warm_images(warm: str) -> tuple[int, ...]:
    """The numbers of placed images in the segments that LONGTAKE_WARM describes, besides none."""
    return tuple(int(count) for count in warm.partition("+")[2].split(",") if count)


def misspelt(environ: Mapping[str, str] = os.environ) -> list[str]:
    """A line for each variable in `environ` that looks like a setting and is none, with the nearest name."""
    known = {variable(name).removeprefix(PREFIX) for name in Settings.model_fields}
    given = sorted(name for name in environ if name.startswith(PREFIX) and name not in OTHER_VARIABLES)
    lines = []
    for name in given:
        short = name.removeprefix(PREFIX)
        if short not in known:
            near = difflib.get_close_matches(short, known, n=1, cutoff=0.5)
            advice = f"; did you mean {PREFIX}{near[0]}?" if near else ""
            lines.append(f"{shown(name)} is not a setting and has no effect{advice}")
    return lines


def absolute(path: str) -> str:
    """The absolute path of `path` if it exists; anything else, such as a hub id, unchanged. `#full` is kept."""
    name, full = split_full(path)
    here = os.path.expanduser(name)
    found = os.path.abspath(here) if os.path.exists(here) and name not in SMALL_MODELS else name
    return found + SUFFIX if full else found


def variable(name: str) -> str:
    """The environment variable of the setting `name`."""
    return f"{PREFIX}{name.upper()}"
