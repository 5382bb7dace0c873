"""Slow work that is done one at a time, for which few requests wait."""

from __future__ import annotations

import threading

from tasks.server.films.turns import MOST_WAITING, Turns
from tasks.server.http.answers import RequestError
from tests.conftest import wait_until


def test_few_requests_wait_for_a_turn_and_others_are_refused() -> None:
    # Given more requests than may wait
    turns, done, refused = Turns(), list[int](), list[RequestError]()

    def work(number: int) -> None:
        try:
            with turns.turn():
                done.append(number)
        except RequestError as error:
            refused.append(error)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(MOST_WAITING + 3)]
    # When they ask while another one has its turn
    with turns.turn():
        for thread in threads:
            thread.start()
        wait_until(lambda: len(refused) == 3, what="refusals")
        assert done == []
    for thread in threads:
        thread.join(60)
    # Then those that waited are done, and there is room again
    assert len(done) == MOST_WAITING
    assert {(error.problem.status, error.problem.code) for error in refused} == {(503, "busy")}
    work(-1)
    assert done[-1] == -1
