# SPDX-License-Identifier: Apache-2.0
"""Keys: made, stored as text, or given by the environment."""

from __future__ import annotations

import base64
import threading
from collections.abc import Mapping

import pytest
from taskflow.persistence import backends

from lazy_engine import errors, ledger, token
from lazy_engine.ledger import key as key_module
from lazy_engine.ledger.key import ENVIRONMENT_VARIABLE, KeyRing
from lazy_engine.token import EXECUTE, DelayKey, Key

NAME = DelayKey(flow_uuid="f", atom_uuid="a", kind=EXECUTE, attempt=1)
TEXT = base64.b64encode(b"s" * 32).decode()
OTHER = base64.b64encode(b"t" * 16).decode()


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)


def test_made_keys_differ_and_come_back_from_text() -> None:
    one, other = key_module.make(), key_module.make()
    assert one.key_id != other.key_id
    assert one.secret != other.secret
    assert len(one.secret) == 32
    assert key_module.decode(one.key_id, key_module.encode_secret(one)) == one


@pytest.mark.parametrize("key_id", ["", "a.b", "a:b", "a" * 33, "ü", "a b", "a\n"])
def test_key_id_that_a_token_could_not_hold_is_refused(key_id: str) -> None:
    with pytest.raises(ValueError, match="key id"):
        key_module.decode(key_id, TEXT)


@pytest.mark.parametrize(
    ("text", "why"), [("not base64!", "not base64"), ("QUJD", "shorter than 16"), ("", "shorter")]
)
def test_bad_secret_is_refused_without_being_shown(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        key_module.decode("k", text)
    assert not text or text not in str(caught.value)


def test_no_variable_configures_no_key() -> None:
    assert key_module.configured() == {}


def test_configured_keys_are_read_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, f" new:{TEXT} , old:{OTHER}, ")
    assert list(key_module.configured()) == ["new", "old"]
    assert key_module.configured()["old"].secret == b"t" * 16


@pytest.mark.parametrize("text", ["nonsense", f"a.b:{TEXT}", "k:short", f"ok:{TEXT},bad"])
def test_malformed_variable_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, text)
    with pytest.raises(ValueError, match=r"key|must read"):
        KeyRing(dict)


def test_same_id_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, f"k:{TEXT},k:{OTHER}")
    with pytest.raises(ValueError, match="twice"):
        key_module.configured()


class Store:
    def __init__(self, *keys: Key) -> None:
        self.keys = {key.key_id: key for key in keys}
        self.asked = 0

    def fetch(self) -> Mapping[str, Key]:
        self.asked += 1
        return self.keys


def test_first_stored_key_signs_and_the_store_is_asked_once() -> None:
    new, old = key_module.make(), key_module.make()
    store = Store(new, old)
    ring = KeyRing(store.fetch)
    assert [ring.find(), ring.find(), ring.find(old.key_id)] == [new, new, old]
    assert store.asked == 1


def test_configured_key_signs_and_stored_ones_still_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, f"mine:{TEXT}")
    stored = key_module.make()
    store = Store(stored)
    ring = KeyRing(store.fetch)
    assert ring.find().key_id == "mine"
    assert store.asked == 0
    assert ring.find(stored.key_id) == stored
    signed = token.sign(NAME, ring.find())
    assert token.verify(signed, ring.find(token.key_id_of(signed))) == NAME


def test_key_that_was_added_to_the_store_meanwhile_is_found() -> None:
    store = Store(key_module.make())
    ring = KeyRing(store.fetch)
    ring.find()
    added = key_module.make()
    store.keys[added.key_id] = added
    assert ring.find(added.key_id) == added


def test_unknown_key_is_another_deployments() -> None:
    store = Store(key_module.make())
    with pytest.raises(errors.InvalidToken, match="another deployment"):
        KeyRing(store.fetch).find("nobody")


def test_ring_may_be_asked_by_many_threads() -> None:
    ring = KeyRing(Store(key_module.make()).fetch)
    found: list[Key] = []
    threads = [threading.Thread(target=lambda: found.append(ring.find())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_environment_decides_for_a_whole_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, f"mine:{TEXT}")
    backend = backends.fetch({"connection": "memory://"})
    assert ledger.beside(backend).signing_key() == Key(key_id="mine", secret=b"s" * 32)
    backend.close()
