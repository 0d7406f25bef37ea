# SPDX-License-Identifier: Apache-2.0
"""LangGraph as a subject: every step durable before the next one (``durability="sync"``), waits are interrupts."""

from __future__ import annotations

import contextlib
import operator
import sqlite3
import time
import uuid
from typing import Annotated, Any, TypedDict

import serving
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt


class State(TypedDict):
    x: int


class Answers(TypedDict):
    waits: int
    answers: Annotated[list[int], operator.add]


def step(state: State) -> dict[str, int]:
    return {"x": state["x"] + 1}


def wait(state: State) -> dict[str, int]:
    return {"x": interrupt("what?")}


def wait_for(number: int) -> dict[str, list[int]]:
    return {"answers": [interrupt(number)]}


class Peer:
    def __init__(self, url: str) -> None:
        self._stack = contextlib.ExitStack()
        self._saver: Any
        if url.startswith("sqlite"):
            self._saver = self._stack.enter_context(
                SqliteSaver.from_conn_string(url.removeprefix("sqlite:///"))
            )
        else:
            address = url.replace("+psycopg", "")
            self._saver = self._stack.enter_context(PostgresSaver.from_conn_string(address))
        self._saver.setup()
        self._waiting = self._make_waiting()
        self._parked: list[Any] = []

    def _make_waiting(self) -> Any:
        graph = StateGraph(State)
        graph.add_node("before", step)
        graph.add_node("wait", wait)
        graph.add_node("after", step)
        graph.add_edge(START, "before")
        graph.add_edge("before", "wait")
        graph.add_edge("wait", "after")
        graph.add_edge("after", END)
        return graph.compile(checkpointer=self._saver)

    def row(self, count: int, shape: str = "row") -> dict[str, float]:
        """Run one node so often: a chain of as many nodes takes longer, since each checkpoint names them."""
        assert shape == "row"
        graph = StateGraph(State)
        began = time.perf_counter()
        graph.add_node("step", step)
        graph.add_edge(START, "step")
        graph.add_conditional_edges("step", lambda state: END if state["x"] >= count else "step")
        compiled = graph.compile(checkpointer=self._saver)
        ready, spent = time.perf_counter(), time.process_time()
        config = {**_thread(), "recursion_limit": count + 1}
        done = compiled.invoke({"x": 0}, config, durability="sync")
        ended, spent = time.perf_counter(), time.process_time() - spent
        assert done["x"] == count
        return {"prepare": ready - began, "run": ended - ready, "processor": spent}

    def park(self, count: int, is_kept: bool = True) -> float:
        began = time.perf_counter()
        for _ in range(count):
            config = _thread()
            done = self._waiting.invoke({"x": 0}, config, durability="sync")
            assert "__interrupt__" in done
            if is_kept:
                self._parked.append(config)
        return time.perf_counter() - began

    def finish(self) -> float:
        return sum(self.alone(len(self._parked)))

    def alone(self, count: int) -> list[float]:
        taken = []
        for _ in range(count):
            config = self._parked.pop()
            began = time.perf_counter()
            done = self._waiting.invoke(Command(resume=1), config, durability="sync")
            taken.append(time.perf_counter() - began)
            assert done["x"] == 2
        return taken

    def fan_out(self, waits: int, way: str) -> float:
        graph = StateGraph(Answers)
        graph.add_node("wait", wait_for)
        graph.add_node("join", lambda state: {})
        graph.add_conditional_edges(
            START,
            lambda state: [Send("wait", number) for number in range(state["waits"])],
            ["wait"],
        )
        graph.add_edge("wait", "join")
        graph.add_edge("join", END)
        compiled = graph.compile(checkpointer=self._saver)
        config = _thread()
        compiled.invoke({"waits": waits, "answers": []}, config, durability="sync")
        ids = [each.id for each in compiled.get_state(config).interrupts]
        assert len(ids) == waits
        parts = [ids] if way == "batch" else [[each] for each in ids]
        began = time.perf_counter()
        for part in parts:
            answers = Command(resume=dict.fromkeys(part, 1))
            done = compiled.invoke(answers, config, durability="sync")
        taken = time.perf_counter() - began
        assert sum(done["answers"]) == waits
        return taken

    def durability(self) -> str:
        if not isinstance(self._saver.conn, sqlite3.Connection):
            return "durability=sync, synchronous_commit=on"
        told = serving.sqlite_durability(
            lambda name: self._saver.conn.execute(f"PRAGMA {name}").fetchone()[0]
        )
        return f"durability=sync, {told}"

    def close(self) -> None:
        self._stack.close()


def _thread() -> dict[str, Any]:
    return {"configurable": {"thread_id": str(uuid.uuid4())}}


if __name__ == "__main__":
    packages = ["langgraph", "langgraph-checkpoint-sqlite", "langgraph-checkpoint-postgres"]
    serving.serve("langgraph", Peer, packages, Peer.durability)
