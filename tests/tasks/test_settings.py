"""Settings from environment variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from blobstore.redis.urls import shown_url
from tasks.errors import ConfigError
from tasks.settings import Settings, misspelt, variable

DOCS = Path(__file__).resolve().parents[2] / "docs" / "settings.md"


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = Settings.from_env({})
    assert settings.redis_url == settings.blobs == "redis://127.0.0.1:6379/0"


def test_white_space_around_a_value_does_not_count() -> None:
    given = {"LONGTAKE_MODEL": " tiny\r\n", "LONGTAKE_API_KEYS": "0123456789abcdef\n", "LONGTAKE_DEVICE": "cpu "}
    assert Settings.from_env(given) == Settings(model="tiny", api_keys="0123456789abcdef", device="cpu")
    assert Settings.from_env({"LONGTAKE_HOME": " ", "LONGTAKE_BLOB_URL": "\t", "LONGTAKE_LOG": ""}) == Settings()


def test_settings_survive_a_round_trip_through_the_environment() -> None:
    # Given
    settings = Settings(redis_url="unix:///tmp/a.sock", blob_url="redis://b/1", lease_s=3, inline_threshold_bytes=0)
    # When / Then
    assert Settings.from_env(settings.environment()) == settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LONGTAKE_REDIS_URL", "http://broker"),
        ("LONGTAKE_BLOB_URL", "127.0.0.1:6379"),
        ("LONGTAKE_MODEL_FOLDERS", "models"),
        ("LONGTAKE_MODEL_FOLDERS", "/models:"),
        ("LONGTAKE_LEASE_S", "soon"),
        ("LONGTAKE_LEASE_S", "0"),
        ("LONGTAKE_LEASE_S", "nan"),
        ("LONGTAKE_RECONCILE_S", "1e-300"),
        ("LONGTAKE_RETENTION_S", "inf"),
        ("LONGTAKE_OPEN_S", "1e300"),
        ("LONGTAKE_BLOB_GRACE_S", "inf"),
        ("LONGTAKE_BLOB_GRACE_S", "1e18"),
        ("LONGTAKE_VISIBILITY_TIMEOUT_S", "9" * 30),
        ("LONGTAKE_INLINE_THRESHOLD_BYTES", "-1"),
        ("LONGTAKE_MAX_ATTEMPTS", "0"),
        ("LONGTAKE_GPUS", "0"),
        ("LONGTAKE_GPUS", "two"),
        ("LONGTAKE_RANK_TIMEOUT_S", "4"),
        ("LONGTAKE_CLASS_WAIT_S", "-1"),
        ("LONGTAKE_METRICS_HOST", "a b"),
        ("LONGTAKE_METRICS_HOST", "a" * 64),
        ("LONGTAKE_WARM", "768x512"),
        ("LONGTAKE_WARM", "768x512x120@24"),
        ("LONGTAKE_WARM", "770x512x121@24"),
        ("LONGTAKE_WARM", "768x512x9@24"),
        ("LONGTAKE_WARM", "768x512x121@24+"),
        ("LONGTAKE_WARM", "768x512x121@24+9"),
    ],
)
def test_the_error_for_an_invalid_value_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Settings.from_env({name: value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LONGTAKE_LEASE_S", "soon", "LONGTAKE_LEASE_S: must be a number, not 'soon'"),
        ("LONGTAKE_LEASE_S", "0", "LONGTAKE_LEASE_S: must be at least 0.1, not '0'"),
        ("LONGTAKE_MAX_ATTEMPTS", "1.5", "LONGTAKE_MAX_ATTEMPTS: must be a whole number, not '1.5'"),
        ("LONGTAKE_LOG", "xml", "LONGTAKE_LOG: must be 'text' or 'json', not 'xml'"),
        (
            "LONGTAKE_DEVICE",
            "tpu",
            "LONGTAKE_DEVICE: 'tpu' is not valid; expected: `auto`, `cpu`, `cuda` or `cuda:N`",
        ),
    ],
)
def test_the_error_for_an_invalid_value_says_what_is_expected(name: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Settings.from_env({name: value})
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("LONGTAKE_LEASE", "; did you mean LONGTAKE_LEASE_S?"),
        ("LONGTAKE_REDIS", "; did you mean LONGTAKE_REDIS_URL?"),
        ("LONGTAKE_PRECISON", "; did you mean LONGTAKE_PRECISION?"),
        ("LONGTAKE_XYZZY\n", ""),
    ],
)
def test_a_misspelt_setting_is_named_with_the_nearest_one(name: str, near: str) -> None:
    [line] = misspelt({name: "1", "LONGTAKE_HOME": "/a", "LONGTAKE_FLOWER_PASSWORD": "a", "HOME": "/b"})
    assert line == f"{name!r} is not a setting and has no effect{near}"


@pytest.mark.parametrize("home", ["relative", ".", "~", "~nobody/x"])
def test_a_home_that_is_not_absolute_is_refused(monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    monkeypatch.setenv("HOME", home)
    with pytest.raises(ConfigError, match=f"LONGTAKE_HOME: HOME is '{home}', which is not absolute"):
        Settings.from_env({})
    # And the setting is independent of it
    assert Settings.from_env({"LONGTAKE_HOME": "/srv/longtake"}).home == Path("/srv/longtake")


def test_the_home_of_an_unknown_user_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no user 'nobody-has-this-name', so ~nobody-has"):
        Settings.from_env({"LONGTAKE_HOME": "~nobody-has-this-name/x"})


def test_shown_url_hides_user_and_password() -> None:
    assert shown_url("redis://user:secret@h:1/0") == "redis://h:1/0"


def test_the_docs_list_every_setting_once() -> None:
    # Given
    rows = [line.split("|")[1:4] for line in DOCS.read_text().splitlines() if line.startswith("| `LONGTAKE_")]
    listed = {cells[0].strip(" `"): (cells[1].strip(" `"), cells[2].strip()) for cells in rows}
    # When
    expected = {
        variable(name): ("" if field.default is None else str(field.default), field.description)
        for name, field in Settings.model_fields.items()
    }
    # Then
    assert listed == expected
    assert len(rows) == len(listed)
