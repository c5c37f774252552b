"""The budget of tokens of the queue, and reservations of requests."""

from __future__ import annotations

import threading


class TokenBudget:
    """A number of tokens that all requests together may hold; safe to share between threads."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.held = 0
        self.lock = threading.Lock()

    def reserve(self, num_tokens: int) -> Reservation | None:
        """Reserve tokens for a request; None if too few are left."""
        with self.lock:
            if self.held + num_tokens > self.max_tokens:
                return None
            self.held += num_tokens
        return Reservation(self, num_tokens)


class Reservation:
    """Reserved tokens of a request; the end of a ``with`` block returns the remaining ones."""

    def __init__(self, budget: TokenBudget, num_tokens: int) -> None:
        """Use ``TokenBudget.reserve``."""
        self._budget = budget
        self._num_tokens = num_tokens

    def hand_over(self, num_tokens: int) -> Reservation:
        """Replace this reservation by one of this many tokens.

        There may be more tokens than in this reservation, and than the budget has left.
        """
        with self._budget.lock:
            self._budget.held += num_tokens - self._num_tokens
            self._num_tokens = 0
        return Reservation(self._budget, num_tokens)

    def release(self, num_tokens: int | None = None) -> None:
        """Return tokens to the budget, all by default; never more than are still reserved."""
        with self._budget.lock:
            num_tokens = self._num_tokens if num_tokens is None else num_tokens
            released = min(num_tokens, self._num_tokens)
            self._num_tokens -= released
            self._budget.held -= released

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()
