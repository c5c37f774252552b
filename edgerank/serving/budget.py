"""How many tokens the queue takes, and the share of them that each request holds."""

from __future__ import annotations

import threading


class TokenBudget:
    """A number of tokens that all requests together may hold; safe to share between threads."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.held = 0
        self.lock = threading.Lock()

    def reserve(self, num_tokens: int) -> Reservation | None:
        """Hold tokens for a request; None if there are not enough left."""
        with self.lock:
            if self.held + num_tokens > self.max_tokens:
                return None
            self.held += num_tokens
        return Reservation(self, num_tokens)


class Reservation:
    """Tokens of a budget that a request holds; a ``with`` block gives back what it still has."""

    def __init__(self, budget: TokenBudget, num_tokens: int) -> None:
        """Use ``TokenBudget.reserve``."""
        self._budget = budget
        self._num_tokens = num_tokens

    def hand_over(self, num_tokens: int) -> Reservation:
        """Hold so many tokens in a reservation that takes the place of this one.

        There may be more of them than this one has, and than the budget has left.
        """
        with self._budget.lock:
            self._budget.held += num_tokens - self._num_tokens
            self._num_tokens = 0
        return Reservation(self._budget, num_tokens)

    def release(self, num_tokens: int | None = None) -> None:
        """Give tokens back, all by default; what is not held any more is not given back again."""
        with self._budget.lock:
            num_tokens = self._num_tokens if num_tokens is None else num_tokens
            released = min(num_tokens, self._num_tokens)
            self._num_tokens -= released
            self._budget.held -= released

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()
