"""Routers over routers: a parent picks the group, a child of that group picks inside it.

Letters: N examples, D features, G groups, C contexts of all groups.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nestling.core.errors import SettingError
from nestling.memory.checks import check_saved
from nestling.protect.routing.router import Explanation, Router, Score, Task, check_column


class TreeRouter:
    """Hierarchical router: a parent picks a group, a child the context; weights multiply.

        w_c(x) = w_g(x) w_{c|g}(x)        [Jordan & Jacobs 1994, Eqs. 1 to 3, with fixed groups]

    Contexts are numbered group after group. A child may be a tree again. The parent learns the
    group of what is learned, only that group's child learns which of its own it is; a child is
    not asked where its group has no weight.

    Trees are never surprised, so modules are not grown through them; a child router may be
    taught about new contexts by `observe`.

    Args:
        parent: a router of G contexts.
        children: one router per group.

    Raises:
        SettingError: not one child per context of the parent.

    >>> from nestling.protect.routing.router import TaskRouter
    >>> tree = TreeRouter(TaskRouter([0]), [TaskRouter([0, 1])])
    >>> tree.route(torch.zeros(1, 2), task=0)
    tensor([[1., 0.]])
    """

    def __init__(self, parent: Router, children: Sequence[Router]) -> None:
        self.parent = parent
        self.children = list(children)
        if not self.children or len(self.children) != parent.num_contexts:
            raise SettingError(
                f"{len(self.children)} child routers under a parent of {parent.num_contexts} "
                "groups; one child per group works"
            )
        self._sizes = [child.num_contexts for child in self.children]

    @property
    def num_contexts(self) -> int:
        """Number of contexts of all children, C."""
        return sum(self._sizes)

    def find_place(self, context: int) -> tuple[int, int]:
        """Group of a context and its number there; SettingError if there is none.

        >>> from nestling.protect.routing.router import TaskRouter
        >>> TreeRouter(TaskRouter("ab"), [TaskRouter("x"), TaskRouter("yz")]).find_place(2)
        (1, 1)
        """
        check_column(context, self.num_contexts)
        for group, size in enumerate(self._sizes):
            if context < size:
                return group, context
            context -= size
        raise AssertionError("sizes add up to num_contexts")

    def route(self, z_ND: Tensor, task: Task | Sequence[Task] | None = None) -> Tensor:
        """Weights (N, C) that sum to 1 in each row; `task` goes to the parent and the children."""
        outer_NG = self.parent.route(z_ND, task)
        parts = []
        for group, child in enumerate(self.children):
            rows = outer_NG[:, group].nonzero()[:, 0]
            part = torch.zeros(
                len(z_ND), child.num_contexts, dtype=torch.float32, device=z_ND.device
            )
            if len(rows):
                own = task
                if task is not None and not isinstance(task, str | int):
                    own = [task[int(row)] for row in rows]
                inner = child.route(z_ND[rows], own)
                part[rows] = (outer_NG[rows, group, None] * inner).to(part.dtype)
            parts.append(part)
        return torch.cat(parts, dim=1)

    def explain(self, z_ND: Tensor, task: Task | None, score: Score) -> Explanation:
        """The best context inside the best group; a group is as good as its best module."""
        group = self.parent.explain(
            z_ND, task, lambda: torch.stack([p.min() for p in score().split(self._sizes)])
        ).context
        inner = self.children[group].explain(z_ND, task, lambda: score().split(self._sizes)[group])
        return Explanation(sum(self._sizes[:group]) + inner.context, None)

    def observe(self, z_ND: Tensor, context: int) -> None:
        """Teach the parent the group, and that group's child the context inside it."""
        group, inner = self.find_place(context)
        self.parent.observe(z_ND, group)
        self.children[group].observe(z_ND, inner)

    def state_dict(self) -> dict[str, Any]:
        """The states of all routers in it."""
        return {
            "config": {"sizes": list(self._sizes)},
            "parent": self.parent.state_dict(),
            "children": [child.state_dict() for child in self.children],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the tree that was saved; ForeignSnapshot if it was built otherwise."""
        check_saved(state["config"], {"sizes": self._sizes}, "tree router")
        self.parent.load_state_dict(state["parent"])
        for child, saved in zip(self.children, state["children"], strict=True):
            child.load_state_dict(saved)
